//! Golden values of the reference packages, properties, and files: one binary, since linking costs more than testing.

#![allow(clippy::unwrap_used, reason = "clippy exempts test functions, not the functions they call")]

mod arena;
mod benchmark;
mod bert_score;
mod bleu;
mod chrf;
mod exact_match;
mod files;
mod human_eval;
mod judge_cache;
mod judge_endpoint;
mod judge_plan;
mod judge_server;
mod judged_correctness;
mod judged_scores;
mod loss;
mod meteor;
mod paired;
mod porter;
mod properties;
mod records;
mod registry;
mod rouge;
mod sandbox;
mod shared_data;
mod significance;
mod similarity;
mod statistics;
mod task;

/// Reference and port compute the same formula in double precision; only the order of a few additions may differ.
const TOLERANCE: f64 = 1e-9;

/// Compares to [`TOLERANCE`], relative for numbers above 1.
#[track_caller]
fn assert_close(found: f64, expected: f64, what: &str) {
    let error = (found - expected).abs() / expected.abs().max(1.0);
    assert!(error <= TOLERANCE, "{what}: found {found:?}, expected {expected:?}, error {error:e}");
}

/// A golden file as JSON. The macro reads it at compile time, so a missing one cannot be skipped.
macro_rules! golden {
    ($name:literal) => {
        serde_json::from_str::<serde_json::Value>(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/",
            $name,
            ".json"
        )))
        .expect("golden files are JSON")
    };
}
use golden;

fn strings(value: &serde_json::Value) -> Vec<String> {
    value.as_array().expect("a list").iter().map(|v| v.as_str().expect("a string").to_owned()).collect()
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

/// Pairs of a golden file, `[[hypothesis, [reference, …]], …]`.
fn golden_pairs(value: &serde_json::Value) -> Vec<ferrotune_eval::Pair> {
    let of_entry = |(i, entry): (usize, &serde_json::Value)| ferrotune_eval::Pair {
        id: i.to_string(),
        instruction: None,
        prediction: entry[0].as_str().expect("a hypothesis").to_owned(),
        references: strings(&entry[1]),
    };
    value.as_array().expect("a list of pairs").iter().enumerate().map(of_entry).collect()
}

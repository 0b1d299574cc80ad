//! Metrics over files of answers, and benchmarks of a model.
//!
//! ```sh
//! cargo run --example evaluate -- --pairs answers.jsonl --metrics bleu,rouge,semantic_similarity --samples samples.jsonl
//! cargo run --example evaluate -- --pairs tuned.jsonl --baseline base.jsonl
//! cargo run --example evaluate -- --model MODEL --task gsm8k --data grade-school-math/data --limit 50
//! ```

#[path = "../cli/mod.rs"]
mod cli;
mod flags;
mod metrics;
mod task;
mod texts;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ferrotune::eval::{
    Existing, Record, SampleLine,
    judge::{Estimate, JudgeUsage},
    write_samples,
};
use serde::Serialize;

use flags::Flags;
use texts::{Compared, Rejected};

/// The last line of standard output.
#[derive(Debug, Default, Serialize)]
struct Evaluated {
    metrics: Vec<Record>,
    /// The records of the other system, and how the two compare.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    baseline: Vec<Record>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    comparisons: Vec<Compared>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rejected: Vec<Rejected>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    baseline_rejected: Vec<Rejected>,
    /// What judging did cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    judge: Option<JudgeUsage>,
    /// What a server's vectors did cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    embeddings: Option<JudgeUsage>,
    /// What judging would cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<Estimate>,
    /// What a server's vectors would cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    embeddings_estimate: Option<Estimate>,
    /// Recorded replies that no question asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unused_replies: Vec<String>,
    #[serde(skip)]
    samples: Vec<SampleLine>,
}

fn main() -> ExitCode {
    let mut unmeasured = Vec::new();
    let code = cli::run(|flags| evaluate(flags, &mut unmeasured));
    // What was found is printed and written, and is not what was asked for.
    if unmeasured.is_empty() {
        return code;
    }
    cli::say(&format!("error: no value for {}", unmeasured.join("; ")));
    ExitCode::FAILURE
}

/// Notes the metrics that found no value, as when all samples failed.
fn evaluate(flags: Flags, unmeasured: &mut Vec<String>) -> cli::Result<Evaluated> {
    flags.bootstrap().check()?;
    if let Some(samples) = &flags.samples {
        refuse_to_replace(samples, &flags)?;
    }
    let evaluated = match &flags.model.task {
        Some(task) => task::run(task, &flags)?,
        None => texts::score(&flags)?,
    };
    if let Some(samples) = &flags.samples {
        write_samples(samples, &evaluated.samples, Existing::Replace)?;
    }
    evaluated.metrics.iter().for_each(|record| cli::say(&line(record)));
    evaluated.comparisons.iter().for_each(|compared| cli::say(&compared.line()));
    for (name, usage) in [("judge", &evaluated.judge), ("embeddings", &evaluated.embeddings)] {
        if let Some(usage) = usage {
            cli::say(&format!("{name}: {usage}"));
        }
    }
    if let Some(first) = evaluated.unused_replies.first() {
        cli::say(&format!(
            "{} recorded replies were not asked for, the first {first}",
            evaluated.unused_replies.len()
        ));
    }
    for (name, estimate) in [("judge", &evaluated.estimate), ("embeddings", &evaluated.embeddings_estimate)] {
        if let Some(estimate) = estimate {
            cli::say(&format!("{name}: nothing was asked; {estimate}"));
        }
    }
    for (of, records) in [("", &evaluated.metrics), (" of the baseline", &evaluated.baseline)] {
        unmeasured.extend(records.iter().filter_map(|record| {
            Some(format!("`{}`{of}: {}", record.metric, record.not_measured.as_deref()?))
        }));
    }
    Ok(evaluated)
}

/// Before anything is computed, rather than after.
fn refuse_to_replace(samples: &Path, flags: &Flags) -> cli::Result<()> {
    let Flags { pairs, rescore, baseline, config, model, helpers, judge, .. } = flags;
    let read = [
        pairs,
        rescore,
        baseline,
        config,
        &model.model,
        &model.adapter,
        &model.data,
        &model.examples,
        &helpers.embedder,
        &helpers.wordnet,
        &helpers.paraphrases,
        &judge.judge_local,
        &judge.judge_replies,
        &judge.judge_cache,
    ];
    let read: Vec<&Path> = read.into_iter().flatten().map(PathBuf::as_path).collect();
    cli::refuse_to_write_over(samples, &read, "--samples", flags.force)
}

/// A record as a line of prose.
fn line(record: &Record) -> String {
    let Record { metric, n_scored, n_failed, .. } = record;
    let Some(value) = record.value else {
        return format!(
            "{metric:<34} not measured: {}",
            record.not_measured.as_deref().unwrap_or("no reason is given")
        );
    };
    let interval = record.ci95.map_or_else(String::new, |[low, high]| format!(" [{low:.4}, {high:.4}]"));
    let failed = if *n_failed == 0 { String::new() } else { format!(", {n_failed} failed") };
    let truncated = match record.params.get("n_truncated").and_then(serde_json::Value::as_u64) {
        Some(truncated) if truncated > 0 => format!(", {truncated} prompts cut at their beginning"),
        _ => String::new(),
    };
    format!("{metric:<34} {value:>10.4}{interval}  n {n_scored}{failed}{truncated}")
}

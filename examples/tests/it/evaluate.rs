//! `evaluate --pairs`: answers of any origin, and baselines.

use serde_json::{Value, json};

use crate::{documented::check, place::Place};

/// Three answers, the second one wrong.
pub(crate) const PAIRS: &str = concat!(
    "{\"id\": 1, \"instruction\": \"Capital of France?\", \"prediction\": \"Paris it is\", \"reference\": \"It is Paris\"}\n",
    "{\"id\": 2, \"instruction\": \"And of Italy?\", \"prediction\": \"Milan\", \"reference\": \"Rome\"}\n",
    "{\"id\": 3, \"instruction\": \"And of Spain?\", \"prediction\": \"Madrid\", \"references\": [\"Madrid\", \"madrid\"]}\n",
);

pub(crate) const EVALUATE: &str = "evaluate --pairs pairs.jsonl --device cpu";

pub(crate) fn value_of<'r>(found: &'r Value, metric: &str) -> &'r Value {
    let records = found["metrics"].as_array().expect("a list of records");
    records
        .iter()
        .find(|record| record["metric"] == metric)
        .unwrap_or_else(|| panic!("no {metric} in {found}"))
}

#[test]
fn pairs_are_measured_scored_again_and_compared() {
    let place = Place::new();
    place.write("pairs.jsonl", PAIRS);
    let found =
        place.succeed(&format!("{EVALUATE} --metrics exact_match,rouge1,bleu --samples samples.jsonl"));
    let exact = value_of(&found, "exact_match");
    assert_eq!((&exact["value"], &exact["n_scored"]), (&json!(1.0 / 3.0), &json!(3)));
    assert_eq!(exact["dataset"]["path_name"], "pairs.jsonl");
    let again =
        place.succeed("evaluate --rescore samples.jsonl --metrics exact_match,rouge1,bleu --device cpu");
    for metric in ["exact_match", "rouge1", "bleu"] {
        for field in ["value", "ci95", "stderr", "n_scored"] {
            assert_eq!(value_of(&found, metric)[field], value_of(&again, metric)[field], "{metric}, {field}");
        }
    }
    place.write("base.jsonl", PAIRS.replace("Madrid\", \"references", "Lisbon\", \"references"));
    let compared = place.succeed(&format!("{EVALUATE} --metrics exact_match,rouge1 --baseline base.jsonl"));
    let comparison = &compared["comparisons"][0];
    assert_eq!((&comparison["metric"], &comparison["first"]), (&json!("exact_match"), &json!(0.0)));
    // One sample differs, and exchanging it or not gives a difference as large.
    assert_eq!((&comparison["p_value"], &comparison["p_holm"]), (&json!(1.0), &json!(1.0)));
    assert_eq!(compared["comparisons"].as_array().map(Vec::len), Some(2));
    let limited = place.succeed(&format!("{EVALUATE} --metrics exact_match --limit 1"));
    assert_eq!(value_of(&limited, "exact_match")["params"]["limit"], 1);
}

#[test]
fn what_cannot_be_used_is_counted_where_the_user_says_so() {
    let place = Place::new();
    place.write(
        "pairs.jsonl",
        format!("{PAIRS}{{\"id\": 4, \"prediction\": \"x\", \"reference\": \" \"}}\nprose\n"),
    );
    let found = place.succeed(&format!("{EVALUATE} --metrics exact_match --on-failure skip"));
    assert_eq!(value_of(&found, "exact_match")["n_total"], 3);
    assert_eq!((&found["rejected"][0]["line"], &found["rejected"][1]["line"]), (&json!(4), &json!(5)));
    assert_eq!(value_of(&found, "exact_match")["params"]["lines_left_out"], 2);
}

#[test]
fn lines_left_out_of_a_baseline_are_told_like_the_others() {
    let place = Place::new();
    place.write("pairs.jsonl", PAIRS);
    place.write("base.jsonl", format!("prose\n{PAIRS}"));
    let output =
        place.run(&format!("{EVALUATE} --metrics exact_match --baseline base.jsonl --on-failure skip"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("1 lines of `base.jsonl` were left out, the first, line 1: not JSON"), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&found["baseline_rejected"][0]["line"], &found["rejected"]), (&json!(1), &Value::Null));
    assert_eq!(found["baseline"][0]["params"]["lines_left_out"], 1);
}

#[test]
fn a_limit_keeps_the_first_pairs_that_both_files_have() {
    let place = Place::new();
    place.write("pairs.jsonl", PAIRS);
    let mut lines: Vec<&str> = PAIRS.lines().collect();
    lines.reverse(); // 3, 2 and no 1
    place.write("base.jsonl", lines[..2].join("\n"));
    let found = place.succeed(&format!("{EVALUATE} --metrics exact_match --baseline base.jsonl --limit 1"));
    let comparison = &found["comparisons"][0];
    assert_eq!((&comparison["n"], &comparison["n_left_out"]), (&json!(1), &json!(0)), "{found}");
    for records in ["metrics", "baseline"] {
        let record = &found[records][0];
        assert_eq!((&record["n_total"], &record["value"]), (&json!(1), &json!(0.0)), "{records}: sample 2");
    }
    let limited = place.succeed(&format!("{EVALUATE} --metrics exact_match --baseline base.jsonl --limit 9"));
    assert_eq!((&limited["comparisons"][0]["n"], &limited["metrics"][0]["n_total"]), (&json!(2), &json!(2)));
}

#[test]
fn bad_pairs_are_refused_as_documented() {
    let shared = "[\"a\", \"b\", \"c\"]";
    let record = |id: u8| format!("{{\"id\": {id}, \"prediction\": \"a\", \"references\": {shared}}}\n");
    check(
        "transposed references",
        |place| place.write("pairs.jsonl", [1, 2, 3].map(record).concat()),
        EVALUATE,
    );
    let second = |line: &'static str| {
        move |place: &Place| place.write("pairs.jsonl", format!("{}{line}\n", record(1)))
    };
    check("an empty reference", second("{\"id\": 2, \"prediction\": \"a\", \"reference\": \" \"}"), EVALUATE);
    check("a repeated id", second("{\"id\": \"1\", \"prediction\": \"a\", \"reference\": \"a\"}"), EVALUATE);
    check("a pair without a prediction", second("{\"id\": 2, \"reference\": \"a\"}"), EVALUATE);
    check("a pair that is not JSON", second("id 2"), EVALUATE);
    check(
        "pairs that are all unusable",
        |place| place.write("pairs.jsonl", "{\"id\": 1}\n"),
        &format!("{EVALUATE} --on-failure skip"),
    );
    let good = |place: &Place| place.write("pairs.jsonl", PAIRS);
    check("an unknown metric", good, &format!("{EVALUATE} --metrics bleu,blue"));
    check("a metric without its encoder", good, &format!("{EVALUATE} --metrics semantic_similarity"));
    check(
        "a pair with a field twice",
        second("{\"id\": 2, \"prediction\": \"a\", \"prediction\": \"b\", \"reference\": \"a\"}"),
        EVALUATE,
    );
    check("a pair that is not UTF-8", |place| place.write("pairs.jsonl", b"{\"id\": \"\xff\"}\n"), EVALUATE);
    check("one resample", good, &format!("{EVALUATE} --resamples 1"));
    check("a dictionary that no metric uses", good, &format!("{EVALUATE} --metrics bleu --wordnet model"));
    check("a template for pairs", good, &format!("{EVALUATE} --chat study"));
    check(
        "a baseline that answers other questions",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            place.write("base.jsonl", PAIRS.replace("Rome", "Roma"));
        },
        &format!("{EVALUATE} --baseline base.jsonl"),
    );
    check(
        "a baseline that was asked otherwise",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            place.write("base.jsonl", PAIRS.replace("And of Spain?", "Capital of Spain?"));
        },
        &format!("{EVALUATE} --baseline base.jsonl"),
    );
    check(
        "a baseline without a common id",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            place.write("base.jsonl", PAIRS.replace("\"id\": ", "\"id\": 1"));
        },
        &format!("{EVALUATE} --baseline base.jsonl"),
    );
    check(
        "a samples file that is there",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            place.write("samples.jsonl", "mine");
        },
        &format!("{EVALUATE} --samples samples.jsonl"),
    );
    check("samples over the pairs", good, &format!("{EVALUATE} --samples pairs.jsonl --force"));
    check("a file to score again that is none", good, "evaluate --rescore pairs.jsonl --device cpu");
    check("a WordNet folder that is none", good, &format!("{EVALUATE} --wordnet model"));
    check(
        "a table of paraphrases without tabs",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            place.write("phrases.tsv", "kicked the bucket = died\n");
        },
        &format!("{EVALUATE} --metrics meteor_corrected --paraphrases phrases.tsv"),
    );
    check("nothing to evaluate", |_| {}, "evaluate --metrics bleu");
}

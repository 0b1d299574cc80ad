//! `evaluate --pairs`: answers of any origin, judges and baselines.

use std::fs;

use serde_json::{Value, json};

use crate::{documented::check, place::Place};

/// Three answers, the second one wrong.
const PAIRS: &str = concat!(
    "{\"id\": 1, \"instruction\": \"Capital of France?\", \"prediction\": \"Paris it is\", \"reference\": \"It is Paris\"}\n",
    "{\"id\": 2, \"instruction\": \"And of Italy?\", \"prediction\": \"Milan\", \"reference\": \"Rome\"}\n",
    "{\"id\": 3, \"instruction\": \"And of Spain?\", \"prediction\": \"Madrid\", \"references\": [\"Madrid\", \"madrid\"]}\n",
);

const EVALUATE: &str = "evaluate --pairs pairs.jsonl --device cpu";

fn value_of<'r>(found: &'r Value, metric: &str) -> &'r Value {
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
    place.write("pairs.jsonl", PAIRS);
    let reply = |sample: u8, text: &str| json!({ "sample": sample.to_string(), "purpose": "gpt4_score", "text": text });
    let replies = [
        reply(1, "{\"reason\": \"right\", \"score\": 9}"),
        reply(2, "I would say it is wrong."),
        reply(2, "As I said."),
        reply(3, "{\"reason\": \"right\", \"score\": 10}"),
    ];
    place.write("replies.jsonl", replies.map(|reply| reply.to_string() + "\n").concat());
    let line = format!("{EVALUATE} --metrics gpt4_score --judge-replies replies.jsonl");
    let judged = place.succeed(&format!("{line} --on-failure skip --samples judged.jsonl"));
    let score = value_of(&judged, "gpt4_score");
    assert_eq!(
        (&score["value"], &score["n_failed"], &judged["judge"]["calls"]),
        (&json!(9.5), &json!(1), &json!(4))
    );
    let samples = fs::read_to_string(place.path("judged.jsonl")).expect("samples");
    assert!(samples.contains("As I said."), "the judge's words stay: {samples}");
    let estimate = place.succeed(&format!("{line} --dry-run --judge-prompt-price 10 --judge-reply-price 30"));
    assert_eq!((&estimate["estimate"]["calls"], &estimate["metrics"]), (&json!(3), &json!([])));
    assert!(estimate["estimate"]["cost_at_most"].as_f64().is_some_and(|cost| cost > 0.0), "{estimate}");
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
    check("a judged metric without a judge", good, &format!("{EVALUATE} --metrics gpt4_score"));
    check(
        "a key that is not there",
        good,
        &format!(
            "{EVALUATE} --metrics gpt4_score --judge-url http://127.0.0.1:9/v1 --judge-model m --judge-key-env NO_SUCH_KEY"
        ),
    );
    check(
        "a judge that answers with prose",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            let reply = json!({ "sample": "1", "purpose": "gpt4_score", "text": "Good." }).to_string();
            place.write("replies.jsonl", format!("{reply}\n{reply}\n"));
        },
        &format!("{EVALUATE} --metrics gpt4_score --judge-replies replies.jsonl"),
    );
    check(
        "a baseline that answers other questions",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            place.write("base.jsonl", PAIRS.replace("Rome", "Roma"));
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

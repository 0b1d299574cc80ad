//! `evaluate --task`: benchmarks of a model.

use std::fs;

use serde_json::{Value, json};

use crate::{documented::check, place::Place};

/// Two questions of a benchmark in the true schema.
const QUESTIONS: &str = concat!(
    "{\"question\": \"add 1 2\", \"answer\": \"1 2 3\\n#### 3\"}\n",
    "{\"question\": \"add 2 2\", \"answer\": \"2 2 4\\n#### 4\"}\n",
);

const TASK: &str = "evaluate --model model --task gsm8k:lm-eval-cot-zeroshot --data gsm8k.jsonl --any-row-count --max-new-tokens 4 --chat none --device cpu";

const RESCORE: &str = "evaluate --rescore samples.jsonl --task gsm8k:lm-eval-cot-zeroshot --data gsm8k.jsonl --any-row-count --max-new-tokens 4 --device cpu";

#[test]
fn a_model_is_asked_and_its_replies_are_scored_again() {
    let place = Place::new();
    place.write("gsm8k.jsonl", QUESTIONS);
    let found = place.succeed(&format!("{TASK} --samples samples.jsonl"));
    let record = &found["metrics"][0];
    assert_eq!((&record["value"], &record["n_total"]), (&json!(0.0), &json!(2)), "{found}");
    for field in ["model", "tokenizer_sha", "dataset", "ci95"] {
        assert!(!record[field].is_null(), "{field} in {record}");
    }
    let again = place.succeed(RESCORE);
    for field in ["value", "ci95", "model", "tokenizer_sha", "dataset", "seed", "params", "variant"] {
        assert_eq!(again["metrics"][0][field], record[field], "{field}");
    }
    assert!(
        record["variant"].as_str().is_some_and(|v| v.contains("max_new_tokens 4 instead of 256")),
        "{record}"
    );
}

#[test]
fn two_models_are_compared_on_the_same_questions() {
    let place = Place::new();
    place.write("gsm8k.jsonl", QUESTIONS);
    place.succeed(&format!("{TASK} --samples base.jsonl"));
    // A model that is right about the second question.
    let base = fs::read_to_string(place.path("base.jsonl")).expect("samples");
    let better: String = base
        .lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).expect("JSON");
            if line["id"] == "test/1" {
                line["prediction"] = json!("The answer is 4.");
            }
            line["asked"]["run"]["model"]["base_sha"] = json!("better");
            line.to_string() + "\n"
        })
        .collect();
    place.write("samples.jsonl", better);
    let found = place.succeed(&format!("{RESCORE} --baseline base.jsonl"));
    let comparison = &found["comparisons"][0];
    assert_eq!(comparison["metric"], "gsm8k");
    for (field, expected) in [
        ("first", json!(0.0)),
        ("second", json!(0.5)),
        ("n", json!(2)),
        ("p_value", json!(1.0)),
        ("p_holm", json!(1.0)),
    ] {
        assert_eq!(comparison[field], expected, "{field} in {comparison}");
    }
    assert_eq!(found["comparisons"].as_array().map(Vec::len), Some(3));
    assert_eq!(found["metrics"][0]["model"]["base_sha"], "better");
    assert_ne!(found["baseline"][0]["model"]["base_sha"], "better");
    // The model itself against the file.
    let found = place.succeed(&format!("{TASK} --baseline base.jsonl"));
    assert_eq!(found["comparisons"][0]["difference"], 0.0);
}

/// Choices in the authors' schema.
const CHOICES: &str = "add 1 2,1,2,3,4,C\nadd 2 2,1,2,3,4,D\nadd 1 1,1,2,3,4,B\n";

const CHOOSE: &str = "evaluate --task mmlu --data mmlu --any-row-count --shots 0 --device cpu";

#[test]
fn the_replies_of_a_run_that_fails_are_kept() {
    let place = Place::new();
    place.write("mmlu/test/anatomy_test.csv", CHOICES);
    place.succeed(&format!("{CHOOSE} --model model --chat none --samples samples.jsonl"));
    let lines = fs::read_to_string(place.path("samples.jsonl")).expect("samples");
    let spoilt: String = lines
        .lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).expect("JSON");
            if line["id"].as_str().is_some_and(|id| id.ends_with("/1")) {
                line["log_likelihoods"][0] = json!("NaN");
            }
            line.to_string() + "\n"
        })
        .collect();
    place.write("samples.jsonl", spoilt);
    let again = format!("{CHOOSE} --rescore samples.jsonl");
    let output = place.run(&format!("{again} --samples kept.jsonl"));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors.contains("metric `mmlu` failed on sample")
            && errors.contains("the replies are in `kept.jsonl`"),
        "{errors}"
    );
    let kept = fs::read_to_string(place.path("kept.jsonl")).expect("the replies");
    assert_eq!(kept.lines().count(), lines.lines().count());
    let found = place.succeed(&format!("{CHOOSE} --rescore kept.jsonl --on-failure skip"));
    assert_eq!((&found["metrics"][0]["n_scored"], &found["metrics"][0]["n_failed"]), (&json!(2), &json!(1)));
}

#[test]
fn the_replies_of_a_model_are_kept_where_nobody_named_a_file() {
    let place = Place::new();
    // In 16 bits whatever reads a 9 becomes no number at all: one question of three.
    place.write("mmlu/test/anatomy_test.csv", CHOICES.replace("add 2 2", "add 9 2"));
    place.fill_embedding("9", 1e30);
    place.write("replies-1.jsonl", "mine");
    let output = place.run(&format!("{CHOOSE} --model model --chat none --dtype f16"));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("the replies are in `replies-2.jsonl`, for --rescore"), "{errors}");
    assert_eq!(fs::read_to_string(place.path("replies-1.jsonl")).expect("a file"), "mine");
    let found = place.succeed(&format!("{CHOOSE} --rescore replies-2.jsonl --on-failure skip"));
    assert_eq!((&found["metrics"][0]["n_scored"], &found["metrics"][0]["n_failed"]), (&json!(2), &json!(1)));
}

#[test]
fn bad_benchmarks_are_refused_as_documented() {
    let good = |place: &Place| place.write("gsm8k.jsonl", QUESTIONS);
    check("an unknown benchmark", good, &TASK.replace("gsm8k:lm-eval-cot-zeroshot", "gsm9k"));
    check("an unknown variant of a benchmark", good, &TASK.replace("lm-eval-cot-zeroshot", "simple"));
    check("a benchmark with another number of rows", good, &TASK.replace("--any-row-count ", ""));
    check(
        "a benchmark with other columns",
        |place| place.write("gsm8k.jsonl", QUESTIONS.replace("question", "problem")),
        TASK,
    );
    check(
        "code of a model without leave to run it",
        |place| place.write("HumanEval.jsonl", "{}\n"),
        "evaluate --model model --task humaneval --data HumanEval.jsonl --device cpu",
    );
    check("a benchmark without a model", good, &RESCORE.replace("--rescore samples.jsonl ", ""));
    check(
        "a MATH solution without a boxed answer",
        |place| {
            place.write("math/test/algebra/7.json", "{\"problem\": \"1 + 1\", \"solution\": \"It is 2.\"}")
        },
        "evaluate --model model --task math --data math --any-row-count --device cpu",
    );
    check("a setting that a benchmark has no use for", good, &format!("{TASK} --temperature 0.5"));
    check("turns where no template takes any", good, &format!("{TASK} --turns per-example"));
    check("a batch of no ids", good, &format!("{TASK} --batch-tokens 0"));
    check("a metric's helper for a benchmark", good, &format!("{TASK} --wordnet wordnet"));
    check("a judge for a benchmark", good, &format!("{TASK} --judge-repeats 2"));
    check("a chat template for replies that are there", good, &format!("{RESCORE} --chat none"));
    check("4 bits for replies that are there", good, &format!("{RESCORE} --quantize nf4"));
    let answered = |place: &Place| {
        good(place);
        place.succeed(&format!("{TASK} --samples samples.jsonl"));
    };
    check("a limit for replies that are there", answered, &format!("{RESCORE} --limit 1"));
    check("replies that were asked for otherwise", answered, &RESCORE.replace("tokens 4", "tokens 5"));
    check(
        "replies to other questions",
        |place| {
            answered(place);
            place.write("gsm8k.jsonl", QUESTIONS.replace("add 2 2", "add 3 1"));
        },
        RESCORE,
    );
    check(
        "replies without some of the questions",
        |place| {
            answered(place);
            let lines = fs::read_to_string(place.path("samples.jsonl")).expect("samples");
            let kept: String = lines
                .lines()
                .filter(|line| !line.contains("test/1"))
                .map(|line| line.to_owned() + "\n")
                .collect();
            place.write("samples.jsonl", kept);
        },
        RESCORE,
    );
    check(
        "a baseline of fewer documents",
        |place| {
            good(place);
            place.succeed(&format!("{TASK} --limit 1 --samples base.jsonl"));
        },
        &format!("{TASK} --baseline base.jsonl"),
    );
    check(
        "choices of a benchmark scored as texts",
        |place| {
            place.write("mmlu/test/anatomy_test.csv", CHOICES);
            place.succeed(&format!("{CHOOSE} --model model --chat none --samples samples.jsonl"));
        },
        "evaluate --rescore samples.jsonl --metrics bleu --device cpu",
    );
}

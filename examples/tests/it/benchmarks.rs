//! `evaluate --task`: benchmarks of a model.

use serde_json::json;

use crate::{documented::check, place::Place};

/// Two questions of a benchmark in the true schema.
const QUESTIONS: &str = concat!(
    "{\"question\": \"add 1 2\", \"answer\": \"1 2 3\\n#### 3\"}\n",
    "{\"question\": \"add 2 2\", \"answer\": \"2 2 4\\n#### 4\"}\n",
);

const TASK: &str = "evaluate --model model --task gsm8k:lm-eval-cot-zeroshot --data gsm8k.jsonl --any-row-count --max-new-tokens 4 --chat none --device cpu";

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
    let again = TASK.replace("--model model ", "--rescore samples.jsonl ").replace("--chat none ", "");
    let again = place.succeed(&again);
    assert_eq!(again["metrics"][0]["value"], record["value"]);
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
    check("a benchmark without a model", good, &TASK.replace("--model model ", ""));
}

//! `score`: texts, ids and flags.

use std::fs;

use serde_json::{Value, json};

use crate::{documented::check, finetune::finetune, models::SCORE, place::Place};

/// Logits of thousands: where they are wrong, a loss beyond 709 has an infinite exponential.
#[test]
fn an_infinite_perplexity_has_one_form_wherever_it_is_written() {
    let place = Place::new();
    place.change_numbers("lm_head.weight", |_, number| 1e5 * number);
    let scores = place.succeed(SCORE);
    assert!(scores["loss"].as_f64().is_some_and(|loss| loss > 709.8), "{scores}");
    assert_eq!(scores["perplexity"], "inf");
    let summary = place.succeed(&finetune("--eval-fraction 0.2"));
    assert_eq!(summary["eval_perplexity"], "inf", "{summary}");
    let read = |name: &str| fs::read_to_string(place.path(name)).expect("a file");
    let written: Value = serde_json::from_str(&read("out/summary.json")).expect("JSON");
    assert_eq!(written["eval_perplexity"], "inf");
    let log = read("out/log.jsonl");
    let rows = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let evaluations: Vec<Value> = rows.filter(|row| row["event"] == "eval").collect();
    assert!(!evaluations.is_empty() && evaluations.iter().all(|row| row["perplexity"] == "inf"), "{log}");
}

#[test]
fn texts_and_ids_that_cannot_be_scored_are_refused_as_documented() {
    check(
        "a text longer than the model's positions",
        |place| place.json("texts.jsonl", &json!({ "id": "long", "text": "a ".repeat(200) })),
        "score --model model --texts texts.jsonl --device cpu",
    );
    check("an id outside the vocabulary", |place| place.json("ids.json", &json!([[1, 96]])), SCORE);
    check(
        "a texts line without a text",
        |place| place.json("texts.jsonl", &json!({ "id": 1 })),
        "score --model model --texts texts.jsonl --device cpu",
    );
    check(
        "logits over the model",
        |_| {},
        "score --model model --ids ids.json --logits model/model.safetensors --device cpu",
    );
    check(
        "logits over the ids",
        |_| {},
        "score --model model --ids ids.json --logits ids.json --force --device cpu",
    );
    check(
        "a file of logits that is there",
        |place| place.write("logits.safetensors", "x"),
        "score --model model --ids ids.json --logits logits.safetensors --device cpu",
    );
    check(
        "logits in no folder",
        |_| {},
        "score --model model --ids ids.json --logits none/logits.safetensors --device cpu",
    );
    check("a weight that is not a number", |place| place.fill_embedding("9", f32::NAN), SCORE);
    check(
        "an infinite weight",
        |place| place.fill_embedding("9", f32::INFINITY),
        "quantize --model model --output four",
    );
    check(
        "a row that this precision cannot score",
        |place| place.fill_embedding("a", 1e30),
        "score --model model --texts texts.jsonl --device cpu --dtype f16",
    );
    check("a batch of no ids", |_| {}, &format!("{SCORE} --batch-tokens 0"));
    check("an unknown device", |_| {}, "score --model model --ids ids.json --device gpu");
    check(
        "an unknown key in the file of flags",
        |place| place.write("flags.toml", "rang = 8\n"),
        "score --config flags.toml",
    );
}

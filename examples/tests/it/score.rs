//! `score`: texts, ids and flags.

use serde_json::json;

use crate::{documented::check, models::SCORE};

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
    check("an unknown device", |_| {}, "score --model model --ids ids.json --device gpu");
    check(
        "an unknown key in the file of flags",
        |place| place.write("flags.toml", "rang = 8\n"),
        "score --config flags.toml",
    );
}

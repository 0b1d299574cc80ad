//! `generate`: prompts and sampling.

use serde_json::json;

use crate::documented::check;

#[test]
fn prompts_and_settings_are_refused_as_documented() {
    check(
        "a prompt longer than the model's positions",
        |place| place.edit("model/config.json", json!({ "max_position_embeddings": 4 })),
        "generate --model model --prompt a/b/a/b/a --device cpu",
    );
    check(
        "a negative temperature",
        |_| {},
        "generate --model model --prompt a --temperature -1 --device cpu",
    );
    check(
        "double quantization of a base that is to be dense",
        |_| {},
        "generate --model model --prompt a --quantize none --double-quant false --device cpu",
    );
}

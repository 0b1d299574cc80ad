//! Folders of adapters that do not fit.

use serde_json::json;

use crate::{documented::check, finetune::finetune};

#[test]
fn bad_adapters_are_refused_as_documented() {
    let merge = "merge --model model --adapter adapter --output out --device cpu";
    let score = "score --model model --adapter adapter --ids ids.json --device cpu";
    check("an adapter folder without an adapter", |place| place.remove("adapter/adapter_config.json"), score);
    check(
        "an adapter with `.bin` weights only",
        |place| {
            place.remove("adapter/adapter_model.safetensors");
            place.write("adapter/adapter_model.bin", "pickle");
        },
        merge,
    );
    check(
        "an adapter for another base",
        |place| place.edit("model/config.json", json!({})),
        "score --model mixtral --adapter adapter --ids ids.json --device cpu",
    );
    check(
        "merging an adapter for another base",
        |_| {},
        "merge --model mixtral --adapter adapter --output out --device cpu",
    );
    check(
        "an adapter of another kind",
        |place| place.edit("adapter/adapter_config.json", json!({ "peft_type": "IA3" })),
        score,
    );
    check(
        "an adapter with an option that is not implemented",
        |place| place.edit("adapter/adapter_config.json", json!({ "use_qalora": true })),
        score,
    );
    check("LoftQ over a base that is not quantized", |_| {}, &finetune("--init loftq"));
    check(
        "an adapter of another rank than its file says",
        |place| place.edit("adapter/adapter_config.json", json!({ "r": 8 })),
        score,
    );
}

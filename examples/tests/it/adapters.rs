//! Folders of adapters that do not fit.

use serde_json::json;

use crate::{
    documented::check,
    finetune::{FINETUNE, finetune},
    place::Place,
};

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
        "merge --model mixtral --adapter adapter --output new/below/out --device cpu",
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

#[test]
fn an_adapter_goes_onto_another_base_of_the_same_shapes_only_when_asked() {
    let trained = |place: &Place| {
        place.succeed(FINETUNE);
        place.other_model();
    };
    let score = "score --model other --adapter out --ids ids.json --device cpu";
    for line in [
        score,
        "merge --model other --adapter out --output merged --device cpu",
        "generate --model other --adapter out --prompt add --device cpu",
        "generate --model other --adapter one=out --adapter two=adapter --active two --prompt add --device cpu",
        "finetune --model other --data data.json --adapter out --output further --device cpu",
    ] {
        check("an adapter for another base of the same shapes", trained, line);
    }
    check(
        "leave to use another base without an adapter",
        |_| {},
        "score --model model --allow-other-base --ids ids.json --device cpu",
    );
    let place = Place::new();
    trained(&place);
    let output = place.run(&format!("{score} --allow-other-base"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("was made for another base than `other`"), "{said}");
    assert!(!said.contains("--allow-other-base"), "what was given is not asked for: {said}");
    place.succeed("finetune --model other --data data.json --adapter out --allow-other-base --output further --max-steps 1 --max-seq-length 64 --device cpu");
    let config = std::fs::read_to_string(place.path("further/adapter_config.json")).expect("a configuration");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["base_model_name_or_path"], "other");
    place.succeed("merge --model other --adapter out --allow-other-base --output merged --device cpu");
}

#[test]
fn warnings_that_go_into_a_file_are_plain_text() {
    let place = Place::new();
    place.edit("adapter/adapter_config.json", json!({ "a_field_of_tomorrow": 1 }));
    let output = place.run("score --model model --adapter adapter --ids ids.json --device cpu");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("an unknown field is kept and has no effect"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said}");
}

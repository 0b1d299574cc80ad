//! Folders of models that cannot be read, and devices that are not there.

use std::{fs, io::Write as _};

use serde_json::json;

use crate::documented::check;

pub(crate) const SCORE: &str = "score --model model --ids ids.json --device cpu";

#[test]
fn bad_model_folders_are_refused_as_documented() {
    check("the model folder does not exist", |_| {}, "score --model missing --ids ids.json");
    check(
        "a model folder with `.bin` weights only",
        |place| {
            place.remove("model/model.safetensors");
            place.write("model/pytorch_model.bin", "pickle");
        },
        SCORE,
    );
    check("a model folder without `config.json`", |place| place.remove("model/config.json"), SCORE);
    check("a model folder without weights", |place| place.remove("model/model.safetensors"), SCORE);
    check(
        "a model folder with `tokenizer.model` only",
        |place| {
            place.remove("model/tokenizer.json");
            place.write("model/tokenizer.model", "pieces");
        },
        "score --model model --texts texts.jsonl --device cpu",
    );
    check(
        "an unknown `model_type`",
        |place| place.edit("model/config.json", json!({ "model_type": "gpt2" })),
        SCORE,
    );
    check(
        "an option that is not implemented",
        |place| place.edit("model/config.json", json!({ "hidden_act": "gelu" })),
        SCORE,
    );
    check(
        "a checkpoint in another quantized format",
        |place| {
            place.edit("model/config.json", json!({ "quantization_config": { "quant_method": "gptq" } }));
        },
        SCORE,
    );
    check(
        "a configuration of 4-bit weights beside dense ones",
        |place| place.edit("model/config.json", json!({ "quantization_config": { "load_in_4bit": true } })),
        SCORE,
    );
    check("a `config.json` that is not JSON", |place| place.write("model/config.json", "{"), SCORE);
    check(
        "weights cut short",
        |place| {
            let bytes = fs::read(place.path("model/model.safetensors")).expect("weights");
            place.write("model/model.safetensors", &bytes[..bytes.len() - 100]);
        },
        SCORE,
    );
    check(
        "a tensor of another shape",
        |place| place.edit("model/config.json", json!({ "intermediate_size": 100 })),
        SCORE,
    );
    check(
        "a missing tensor",
        |place| place.edit("model/config.json", json!({ "num_hidden_layers": 3 })),
        SCORE,
    );
    check(
        "a tensor that the model has no place for",
        |place| place.edit("model/config.json", json!({ "num_hidden_layers": 1 })),
        SCORE,
    );
    check(
        "a tensor of another type",
        |place| {
            place.edit_header("model/model.safetensors", |header| {
                header["model.norm.weight"]["dtype"] = json!("I32");
            });
        },
        SCORE,
    );
}

#[test]
fn cuda_is_refused_where_it_is_not() {
    if ferrotune::torch::cuda::is_available() {
        let _ = writeln!(std::io::stderr(), "skipped: this machine has a CUDA device");
        return;
    }
    check("`--device cuda` without CUDA", |_| {}, "score --model model --ids ids.json --device cuda");
}

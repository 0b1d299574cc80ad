//! `quantize`: block sizes and what they divide.

use std::fs;

use serde_json::json;

use crate::{documented::check, fit, place::Place};

#[test]
fn what_cannot_be_quantized_is_refused_as_documented() {
    check(
        "a block size that the format lacks",
        |_| {},
        "quantize --model model --block-size 48 --output out --device cpu",
    );
    check(
        "quantizing experts whose rows are no whole blocks",
        |_| {},
        "quantize --model mixtral --output out --device cpu",
    );
    check(
        "a device for a program that works on files",
        |_| {},
        "quantize --model model --output out --device cuda",
    );
    check(
        "a type for a program that computes in none",
        |_| {},
        "quantize --model model --dtype bf16 --output out --device cpu",
    );
}

#[test]
fn matrices_that_bitsandbytes_decodes_wrongly_on_a_cpu_are_counted_and_named() {
    let place = Place::new();
    // Rows of 112 weights in down_proj of two layers, of 64 elsewhere; 16 is the largest block that divides them.
    let output = place.run("quantize --model model --output four --device cpu");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        said.contains("2 of 14 matrices in 4 bits") && said.contains("`model.layers.0.mlp.down_proj.weight`"),
        "{said}"
    );
    assert!(said.contains("no block size avoids it"), "{said}");
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(printed["blocks_across_rows"], 2);
    let config = json!({
        "model_type": "llama", "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64,
    });
    fit::model(&place, "ninety-six", &config);
    let output = place.run("quantize --model ninety-six --output six --device cpu");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("1 of 7 matrices") && said.contains("--block-size 32 avoids it"), "{said}");
    let whole = place.succeed("quantize --model ninety-six --block-size 32 --output whole --device cpu");
    assert_eq!(whole["blocks_across_rows"], 0);
}

#[test]
fn sizes_of_files_are_written_as_elsewhere() {
    let place = Place::new();
    place.succeed("quantize --model model --max-shard-size 20kB --output parts --device cpu");
    let files = fs::read_dir(place.path("parts")).expect("a folder").count();
    assert!(files > 3, "{files} files");
    place.succeed("quantize --model model --max-shard-size 40MB --output whole --device cpu");
    assert!(place.path("whole/model.safetensors").is_file());
    let index = fs::read_to_string(place.path("parts/model.safetensors.index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
    assert_ne!(index["weight_map"], json!({}));
}

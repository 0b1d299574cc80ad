//! What `fit` says beforehand is what `finetune` then takes.

use std::{fs, io::Write as _, path::Path};

use ferrotune::{AutoCausalLm, nn::WeightSpec};
use serde_json::{Map, Value, json};

use crate::{documented::check, place::Place};

/// How far the plan may be from the measured peak, as a share of it.
const TOLERANCE: f64 = 0.1;

/// Every record gives at least as many tokens.
const MAX_SEQ_LENGTH: usize = 256;

/// A model folder with arbitrary small weights.
pub(crate) fn model(place: &Place, name: &str, config: &Value) {
    place.json(&format!("{name}/config.json"), config);
    place.tokenizer(name);
    let fields = config.as_object().expect("an object").clone();
    let model = AutoCausalLm::from_fields("a configuration", fields).expect("a model");
    write_weights(&place.path(name).join("model.safetensors"), &model.weights());
}

fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1408,
        "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8,
        "max_position_embeddings": 512, "tie_word_embeddings": false,
    })
}

fn mixtral() -> Value {
    json!({
        "model_type": "mixtral", "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 704,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "num_local_experts": 8,
        "num_experts_per_tok": 2, "max_position_embeddings": 512, "tie_word_embeddings": false,
    })
}

/// A safetensors file: the length of the header, the header, and 32-bit numbers within 0.05 from a linear congruence.
fn write_weights(path: &Path, weights: &[WeightSpec]) {
    let mut header = Map::new();
    let mut end = 0;
    for WeightSpec { name, shape, .. } in weights {
        let start = end;
        end += 4 * shape.iter().product::<i64>() as u64;
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut file = std::io::BufWriter::new(fs::File::create(path).expect("a file"));
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
    file.write_all(header.as_bytes()).expect("written");
    let mut state = 1_u32;
    for _ in 0..end / 4 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let unit = (state >> 8) as f32 / (1 << 24) as f32; // [0, 1)
        file.write_all(&(0.1 * unit - 0.05).to_le_bytes()).expect("written");
    }
    file.flush().expect("written");
}

#[test]
fn the_plan_is_within_a_tenth_of_the_measured_peak() {
    let place = Place::empty();
    let words = vec!["word"; 2 * MAX_SEQ_LENGTH].join(" ");
    let record = |number: usize| json!({ "instruction": format!("say {number}"), "output": words });
    place.json("data.json", &(0..16).map(record).collect());
    model(&place, "llama", &llama());
    model(&place, "mixtral", &mixtral());
    let cases = [
        "--model llama --batch-size 4 --dtype f32",
        "--model llama --batch-size 8 --dtype f32 --quantize nf4 --target-modules all-linear --gradient-checkpointing",
        "--model llama --batch-size 8 --dtype bf16 --quantize nf4 --dropout 0",
        "--model mixtral --batch-size 4 --dtype f32 --quantize nf4 --target-modules all-linear",
    ];
    for (index, case) in cases.into_iter().enumerate() {
        let common = format!("{case} --device cpu --max-seq-length {MAX_SEQ_LENGTH}");
        let plan = place.succeed(&format!("fit {common}"));
        let total = plan["total_bytes"].as_u64().expect("a number");
        for (budget, fits) in [(total, true), (total - 1, false)] {
            assert_eq!(place.succeed(&format!("fit {common} --budget {budget}"))["fits"], json!(fits));
        }
        // The peak is reached in the second step, when gradients and moments are there beside the activations.
        let run = place.succeed(&format!(
            "finetune {common} --data data.json --output run{index} --eval-fraction 0 --max-steps 2 --threads 1"
        ));
        let (planned, measured) = (plan["total_bytes"].as_f64(), run["peak_rss_bytes"].as_f64());
        let (planned, measured) = (planned.expect("a plan"), measured.expect("a peak"));
        let ratio = planned / measured;
        println!("{case}: planned {:.0} MB, measured {:.0} MB, {ratio:.3}", planned / 1e6, measured / 1e6);
        assert!(
            (ratio - 1.0).abs() <= TOLERANCE,
            "`{case}`: planned {planned}, measured {measured} bytes: {}",
            plan["parts"]
        );
        assert_eq!(plan["trainable_parameters"], run["trainable_parameters"], "`{case}`");
        assert_eq!(
            plan["total_parameters"].as_u64().expect("a number")
                + plan["trainable_parameters"].as_u64().expect("a number"),
            run["total_parameters"].as_u64().expect("a number"),
        );
    }
}

#[test]
fn what_loading_would_refuse_is_refused_as_documented() {
    check(
        "a plan for experts whose rows are no whole blocks",
        |_| {},
        "fit --model mixtral --quantize nf4 --device cpu",
    );
    check("a number of tokens without a rate", |_| {}, "fit --model model --tokens 1e6 --device cpu");
}

//! What `fit` says beforehand is what `finetune` then takes.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Map, Value, json};

/// How far the plan may be from the measured peak, as a share of it.
const TOLERANCE: f64 = 0.1;

/// Every record gives at least as many tokens.
const MAX_SEQ_LENGTH: usize = 256;

/// A folder with models and records, in which examples run.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary folder"));
        let words = vec!["word"; 2 * MAX_SEQ_LENGTH].join(" ");
        let record =
            |number: usize| json!({ "instruction": format!("say {number}"), "input": "", "output": words });
        let records: Value = (0..16).map(record).collect();
        fs::write(place.path("data.json"), records.to_string()).expect("records");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A model folder with arbitrary small weights.
    fn model(&self, name: &str, config: &Value) {
        let folder = self.path(name);
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("config.json"), config.to_string()).expect("a configuration");
        fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).expect("a tokenizer");
        let special = json!({ "bos_token": "<s>", "eos_token": "</s>" });
        fs::write(folder.join("tokenizer_config.json"), special.to_string()).expect("a file");
        write_weights(&folder.join("model.safetensors"), &weights(config));
    }

    /// The last line of an example's standard output.
    fn run(&self, line: &str) -> Value {
        let mut words = line.split_whitespace();
        let name = words.next().expect("an example's name");
        let target = std::env::current_exe().expect("this test's path");
        let example =
            target.parent().and_then(Path::parent).expect("the target folder").join("examples").join(name);
        let output = Command::new(&example)
            .args(words)
            .current_dir(self.0.path())
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", example.display()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{line}` failed: {said}");
        let output = String::from_utf8(output.stdout).expect("text");
        serde_json::from_str(output.lines().last().expect("a last line")).expect("JSON")
    }
}

/// A vocabulary of a few words; all others are one unknown.
fn tokenizer() -> Value {
    let special = |id: usize, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "decoder": null, "pre_tokenizer": { "type": "Whitespace" },
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "model": {
            "type": "WordLevel",
            "vocab": { "<unk>": 0, "<s>": 1, "</s>": 2, "word": 3, "say": 4 },
            "unk_token": "<unk>",
        },
    })
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

/// Names and shapes of a checkpoint.
fn weights(config: &Value) -> Vec<(String, Vec<u64>)> {
    let size = |field: &str| config[field].as_u64().expect("a size");
    let (hidden, inner, vocabulary) = (size("hidden_size"), size("intermediate_size"), size("vocab_size"));
    let key_value = hidden / size("num_attention_heads") * size("num_key_value_heads");
    let mut found = vec![
        ("model.embed_tokens".to_owned(), vec![vocabulary, hidden]),
        ("lm_head".to_owned(), vec![vocabulary, hidden]),
        ("model.norm".to_owned(), vec![hidden]),
    ];
    for layer in 0..size("num_hidden_layers") {
        let at = format!("model.layers.{layer}");
        let mut add = |name: String, shape: &[u64]| found.push((format!("{at}.{name}"), shape.to_vec()));
        add("input_layernorm".into(), &[hidden]);
        add("post_attention_layernorm".into(), &[hidden]);
        for (name, rows) in [("q", hidden), ("k", key_value), ("v", key_value), ("o", hidden)] {
            add(format!("self_attn.{name}_proj"), &[rows, hidden]);
        }
        match config["num_local_experts"].as_u64() {
            None => {
                add("mlp.gate_proj".into(), &[inner, hidden]);
                add("mlp.up_proj".into(), &[inner, hidden]);
                add("mlp.down_proj".into(), &[hidden, inner]);
            }
            Some(experts) => {
                add("block_sparse_moe.gate".into(), &[experts, hidden]);
                for expert in 0..experts {
                    let at = format!("block_sparse_moe.experts.{expert}");
                    add(format!("{at}.w1"), &[inner, hidden]);
                    add(format!("{at}.w2"), &[hidden, inner]);
                    add(format!("{at}.w3"), &[inner, hidden]);
                }
            }
        }
    }
    found.into_iter().map(|(name, shape)| (format!("{name}.weight"), shape)).collect()
}

/// A safetensors file: the length of the header, the header, and 32-bit numbers within 0.05 from a linear congruence.
fn write_weights(path: &Path, weights: &[(String, Vec<u64>)]) {
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in weights {
        let start = end;
        end += 4 * shape.iter().product::<u64>();
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
    let place = Place::new();
    place.model("llama", &llama());
    place.model("mixtral", &mixtral());
    let cases = [
        "--model llama --batch-size 4 --dtype f32",
        "--model llama --batch-size 8 --dtype f32 --quantize nf4 --target-modules all-linear --gradient-checkpointing",
        "--model llama --batch-size 8 --dtype bf16 --quantize nf4 --dropout 0",
        "--model mixtral --batch-size 4 --dtype f32 --quantize nf4 --target-modules all-linear",
    ];
    for (index, case) in cases.into_iter().enumerate() {
        let common = format!("{case} --device cpu --max-seq-length {MAX_SEQ_LENGTH}");
        let plan = place.run(&format!("fit {common}"));
        let total = plan["total_bytes"].as_u64().expect("a number");
        for (budget, fits) in [(total, true), (total - 1, false)] {
            assert_eq!(place.run(&format!("fit {common} --budget {budget}"))["fits"], json!(fits));
        }
        // The peak is reached in the second step, when gradients and moments are there beside the activations.
        let run = place.run(&format!(
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

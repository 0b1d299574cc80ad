//! What damaged, incomplete and contradictory 4-bit checkpoints are told.

use std::{collections::BTreeMap, path::Path};

use ferrotune_adapters::{
    QuantizedTensor,
    bitsandbytes::{Decoded, QuantizationConfig},
};
use ferrotune_nn::{
    Role, WeightSource, WeightSpec,
    checkpoint::{Checkpoint, write_file},
    config::ConfigFile,
    weights::Alias,
};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use crate::support::golden;

const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";

/// The tensors of a folder that bitsandbytes wrote, for tests to spoil.
struct Parts(BTreeMap<String, Tensor>);

impl Parts {
    fn of(name: &str) -> Self {
        let checkpoint = Checkpoint::open(&golden().join("quantized").join(name)).unwrap();
        Self(
            checkpoint
                .names()
                .into_iter()
                .map(|name| (name.clone(), checkpoint.read(&name).unwrap()))
                .collect(),
        )
    }

    fn with(mut self, part: &str, tensor: impl FnOnce(&Tensor) -> Tensor) -> Self {
        let name = format!("{Q_PROJ}{part}");
        let changed = tensor(&self.0[&name]);
        self.0.insert(name, changed);
        self
    }

    fn without(mut self, part: &str) -> Self {
        drop(self.0.remove(&format!("{Q_PROJ}{part}")).unwrap());
        self
    }

    /// The same with a field of the state changed.
    fn with_state(self, change: impl FnOnce(&mut Map<String, Value>)) -> Self {
        self.with(STATE, |state| {
            let bytes = Vec::<u8>::try_from(state).unwrap();
            let mut fields: Map<String, Value> = serde_json::from_slice(&bytes).unwrap();
            change(&mut fields);
            Tensor::from_slice(Value::Object(fields).to_string().as_bytes())
        })
    }

    /// The same with the weight, and all that stands beside it, under another name.
    fn renamed(self, to: &str) -> Self {
        let rename = |name: String| match name.strip_prefix(Q_PROJ) {
            Some(rest) => format!("{to}{rest}"),
            None => name,
        };
        Self(self.0.into_iter().map(|(name, tensor)| (rename(name), tensor)).collect())
    }

    fn open(&self, folder: &Path, specs: &[WeightSpec]) -> Result<Decoded, ferrotune_adapters::Error> {
        let file = folder.join("model.safetensors");
        write_file(&file, self.0.iter().map(|(name, tensor)| (name.clone(), tensor)), &[]).unwrap();
        Decoded::new(Checkpoint::open(folder).unwrap(), config(&json!({})).unwrap().as_ref(), specs)
    }

    /// What opening, or else reading the weight, is told.
    fn refused(&self) -> String {
        let folder = tempfile::tempdir().unwrap();
        match self.open(folder.path(), &[]) {
            Err(error) => error.to_string(),
            Ok(decoded) => {
                let by_reading = sentence(&decoded.read(Q_PROJ).unwrap_err());
                let encoded = decoded.encoded(Q_PROJ).unwrap().unwrap();
                QuantizedTensor::from_encoded(&encoded).unwrap_err();
                by_reading
            }
        }
    }
}

const STATE: &str = ".quant_state.bitsandbytes__nf4";

fn sentence(error: &dyn std::error::Error) -> String {
    let source = error.source().map_or_else(String::new, |source| format!(": {}", sentence(source)));
    format!("{error}{source}")
}

/// The configuration of a 4-bit folder with some keys changed.
fn config(changes: &Value) -> ferrotune_nn::Result<Option<QuantizationConfig>> {
    let mut fields =
        json!({ "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4" });
    for (key, value) in changes.as_object().unwrap() {
        fields[key] = value.clone();
    }
    let file = json!({ "quantization_config": fields }).as_object().unwrap().clone();
    QuantizationConfig::read(&ConfigFile::from_fields("`config.json`", file))
}

fn check(what: &str, message: &str, expected: &[&str]) {
    println!("{what}: {message}");
    for part in expected {
        assert!(message.contains(part), "{what}: `{message}` lacks `{part}`");
    }
    assert!(!message.ends_with('.'), "{message}");
}

#[test]
fn a_tensor_whose_parts_are_not_the_formats_is_refused_by_name() {
    let nf4 = || Parts::of("llama-nf4");
    let set = |index: i64, value: f64| {
        move |tensor: &Tensor| {
            let changed = tensor.copy();
            let _ = changed.get(index).fill_(value);
            changed
        }
    };
    let shorter = |tensor: &Tensor| tensor.narrow(0, 0, tensor.size()[0] - 1);
    let cases: Vec<(&str, Parts, Vec<&str>)> = vec![
        (
            "a map of another format",
            nf4().with(".quant_map", set(3, -0.5)),
            vec!["quant_map holds -0.5 at index 3"],
        ),
        (
            "a nested map of another format",
            nf4().with(".nested_quant_map", set(200, 0.5)),
            vec!["nested_quant_map holds 0.5 at index 200"],
        ),
        (
            "a scale that is NaN",
            nf4().with(".nested_absmax", set(0, f64::NAN)),
            vec!["nested_absmax at index 0 is NaN"],
        ),
        (
            "a second-level scale below zero",
            nf4().with(".nested_absmax", set(0, -0.25)),
            vec!["nested_absmax at index 0 is -0.25", "a magnitude"],
        ),
        (
            "an infinite scale",
            Parts::of("llama-nf4")
                .with_state(|state| drop(state.insert("nested_offset".into(), json!(1e300)))),
            vec!["nested_offset at index 0 is inf"],
        ),
        ("too few scales", nf4().with(".absmax", shorter), vec!["`absmax` of 255 entries", "expected 256"]),
        (
            "too few nested scales",
            nf4().with(".nested_absmax", shorter),
            vec!["`nested_absmax` of 0 entries", "expected 1"],
        ),
        (
            "scales of another type",
            nf4().with(".absmax", |scales| scales.to_kind(Kind::Float)),
            vec!["`absmax` of 256 entries stored as F32", "as U8"],
        ),
        ("too few codes", nf4().with("", shorter), vec!["has 8191 bytes, expected 8192", "[128, 128]"]),
        ("no scales", nf4().without(".absmax"), vec!["has no `absmax` beside it"]),
        ("no map", nf4().without(".quant_map"), vec!["has no `quant_map` beside it"]),
        ("no nested scales", nf4().without(".nested_absmax"), vec!["has no `nested_absmax` beside it"]),
        ("no codes", nf4().without(""), vec!["is missing", "quant_state.bitsandbytes__nf4"]),
        ("no state", nf4().without(STATE), vec!["no `quant_state.bitsandbytes__nf4`"]),
        (
            "half a state",
            nf4().with(STATE, |state| state.narrow(0, 0, 40)),
            vec!["has a damaged state", "the JSON of a bitsandbytes quant_state"],
        ),
        (
            "a block size that does not exist",
            nf4().with_state(|state| drop(state.insert("blocksize".into(), json!(48)))),
            vec!["block size 48 is not one of 32, 64"],
        ),
        (
            "another shape of as many weights: the codes cannot tell, the model can",
            nf4().with_state(|state| drop(state.insert("shape".into(), json!([128, 127])))),
            vec!["has 8192 bytes, expected 8128"],
        ),
        (
            "a shape that is none",
            nf4().with_state(|state| drop(state.insert("shape".into(), json!([-128, 128])))),
            vec!["says that its shape is [-128, 128]"],
        ),
        (
            "a shape of more weights than can be counted",
            nf4().with_state(|state| {
                drop(state.insert("shape".into(), json!([i32::MAX, i32::MAX, i32::MAX])))
            }),
            vec!["says that its shape is [2147483647, 2147483647, 2147483647]"],
        ),
        (
            "a type that is none",
            nf4().with_state(|state| drop(state.insert("dtype".into(), json!("int4")))),
            vec!["`int4`"],
        ),
        (
            "a state that names another type",
            nf4().with_state(|state| drop(state.insert("quant_type".into(), json!("fp4")))),
            vec!["which says that its type is `fp4`"],
        ),
        (
            "nested blocks of another size",
            nf4().with_state(|state| drop(state.insert("nested_blocksize".into(), json!(128)))),
            vec!["in blocks of 128", "expected 256"],
        ),
        (
            "nested scales without their offset",
            nf4().with_state(|state| {
                state.remove("nested_offset");
                state.remove("nested_blocksize");
            }),
            vec!["has a `nested_absmax` and a state without `nested_offset`"],
        ),
        (
            "nested scales with half of their state",
            nf4().with_state(|state| drop(state.remove("nested_offset"))),
            vec!["scales in 8 bits", "without their `nested_offset`"],
        ),
        (
            "nested scales with the other half of their state",
            nf4().with_state(|state| drop(state.remove("nested_blocksize"))),
            vec!["scales in 8 bits", "without their `nested_blocksize`"],
        ),
    ];
    for (what, parts, expected) in cases {
        check(what, &parts.refused(), &[&[Q_PROJ][..], &expected].concat());
    }
    let mut scales = Parts::of("llama-fp4-sharded");
    let name = format!("{Q_PROJ}.absmax");
    scales.0.retain(|other, _| !other.contains("down_proj"));
    for (index, value, expected) in
        [(4, f64::NAN, "absmax at index 4 is NaN"), (3, -0.5, "absmax at index 3 is -0.5")]
    {
        let good = scales.0[&name].get(index).double_value(&[]);
        let _ = scales.0[&name].get(index).fill_(value);
        check("a plain scale that is none", &scales.refused(), &[Q_PROJ, expected]);
        let _ = scales.0[&name].get(index).fill_(good);
    }
}

#[test]
fn eight_bits_and_other_methods_are_refused_with_what_to_do() {
    for (changes, expected) in [
        (
            json!({ "quant_method": "gptq" }),
            ["quantization_config.quant_method", "\"gptq\"", "16-bit folder"],
        ),
        (
            json!({ "load_in_8bit": true }),
            ["quantization_config.load_in_8bit", "8-bit weights", "16-bit folder"],
        ),
        (json!({ "load_in_4bit": null }), ["quantization_config.load_in_4bit", "absent", "expected true"]),
        (json!({ "bnb_4bit_quant_type": "int4" }), ["bnb_4bit_quant_type", "\"int4\"", "\"nf4\" or \"fp4\""]),
        (json!({ "bnb_4bit_quant_storage": "int3" }), ["bnb_4bit_quant_storage", "int3", "bfloat16"]),
        (
            json!({ "llm_int8_skip_modules": "lm_head" }),
            ["llm_int8_skip_modules", "lm_head", "a list of names"],
        ),
        (json!({ "bnb_4bit_use_double_quant": 1 }), ["bnb_4bit_use_double_quant", "is 1", "true or false"]),
    ] {
        check(&changes.to_string(), &config(&changes).unwrap_err().to_string(), &expected);
    }
    let tolerated =
        json!({ "quant_method": null, "invented_in_2031": [1], "llm_int8_skip_modules": ["gate"] });
    let read = config(&tolerated).unwrap().unwrap();
    assert_eq!(read.llm_int8_skip_modules, Some(vec!["gate".to_owned()]));
    let mut file = Map::new();
    assert!(QuantizationConfig::read(&ConfigFile::from_fields("a", file.clone())).unwrap().is_none());
    file.insert(QuantizationConfig::FIELD.to_owned(), read.to_fields());
    assert_eq!(QuantizationConfig::read(&ConfigFile::from_fields("a", file)).unwrap(), Some(read));

    let mut parts = Parts::of("llama-nf4");
    parts.0.insert("model.layers.0.mlp.up_proj.SCB".to_owned(), Tensor::from_slice(&[1.0f32]));
    check("8 bits", &parts.refused(), &["model.layers.0.mlp.up_proj.weight", "8 bits", "16-bit folder"]);
}

#[test]
fn a_configuration_that_does_not_fit_the_tensors_is_refused() {
    let announced = config(&json!({})).unwrap();
    let quantized = || Checkpoint::open(&golden().join("quantized/llama-nf4")).unwrap();
    let dense = || Checkpoint::open(&golden().join("models/llama-gqa")).unwrap();
    let refused = |checkpoint, config: Option<&QuantizationConfig>| {
        Decoded::new(checkpoint, config, &[]).unwrap_err().to_string()
    };
    check(
        "not announced",
        &refused(quantized(), None),
        &[
            "llama-nf4",
            "holds 4-bit tensors",
            "model.layers.0.mlp.down_proj.weight",
            "has no `quantization_config`",
        ],
    );
    check(
        "announced and absent",
        &refused(dense(), announced.as_ref()),
        &["llama-gqa", "no 4-bit tensor", "`quantization_config`", "take it out"],
    );
    // A dense checkpoint passes through.
    let (through, itself) = (Decoded::new(dense(), None, &[]).unwrap(), dense());
    assert!(!through.is_quantized() && through.names() == itself.names());
    for name in itself.names() {
        assert!(through.read(&name).unwrap() == itself.read(&name).unwrap());
        assert!(through.encoded(&name).unwrap().is_none());
    }
}

#[test]
fn what_must_not_be_in_four_bits_and_blocks_across_rows_are_refused_by_role() {
    let folder = tempfile::tempdir().unwrap();
    let spec = |name: &str, role, shape: &[i64]| WeightSpec {
        name: name.to_owned(),
        role,
        shape: shape.to_vec(),
        alias: None,
    };
    for (role, word) in [
        (Role::Router, "router"),
        (Role::Head, "head"),
        (Role::Embedding, "token embedding"),
        (Role::Norm, "normalization"),
    ] {
        let name = format!("model.{word}.weight").replace(' ', "_");
        let parts = Parts::of("llama-nf4").renamed(&name);
        let error = parts.open(folder.path(), &[spec(&name, role, &[128, 128])]).unwrap_err();
        check(word, &error.to_string(), &[&name, word, "must not be"]);
    }
    // Blocks of 64 in rows of 36.
    let error = Parts::of("llama-fp4-sharded")
        .open(folder.path(), &[spec(Q_PROJ, Role::Expert, &[36, 36])])
        .unwrap_err();
    check(
        "a block across an expert's rows",
        &error.to_string(),
        &[Q_PROJ, "rows of 36 weights", "blocks of 64"],
    );
    assert!(
        Parts::of("llama-fp4-sharded").open(folder.path(), &[spec(Q_PROJ, Role::Mlp, &[36, 36])]).is_ok()
    );
    // A stacked tensor in which the model's experts have no place.
    let alias = Alias { name: Q_PROJ.to_owned(), slice: Some((0, 0..64)) };
    let expert = WeightSpec { alias: Some(alias), ..spec("experts.0.w1.weight", Role::Expert, &[64, 128]) };
    let error = Parts::of("llama-nf4").open(folder.path(), &[expert]).unwrap_err();
    check("not stacked", &error.to_string(), &[Q_PROJ, "[128, 128]", "three dimensions"]);
}

#[test]
fn the_bytes_of_a_file_come_back_the_same() {
    for name in ["llama-nf4", "llama-fp4-sharded", "llama-nf4-bf16-storage"] {
        let folder = tempfile::tempdir().unwrap();
        let parts = Parts::of(name);
        let decoded = parts.open(folder.path(), &[]).unwrap();
        assert!(decoded.names().iter().all(|name| !name.contains("absmax") && !name.contains("quant")));
        let tensor = QuantizedTensor::from_encoded(&decoded.encoded(Q_PROJ).unwrap().unwrap()).unwrap();
        let again = tensor.to_encoded().unwrap();
        let bytes = parts.0[Q_PROJ].view([-1]).view_dtype(Kind::Uint8);
        assert_eq!(again.codes.view([-1]), bytes, "{name}");
        for (part, tensor) in &again.beside {
            let theirs = &parts.0[&format!("{Q_PROJ}.{part}")];
            if part.starts_with("quant_state") {
                let fields = |tensor: &Tensor| -> Map<String, Value> {
                    serde_json::from_slice(&Vec::<u8>::try_from(tensor).unwrap()).unwrap()
                };
                assert_eq!(fields(tensor), fields(theirs), "{name}: the offset to its last digit");
            } else {
                assert_eq!(tensor, theirs, "{name}: {part}");
            }
        }
    }
}

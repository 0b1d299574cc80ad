//! What bad input is told.

use std::{fs, path::Path};

use ferrotune_adapters::{
    AdapterWeights, Error, Init, Lora, LoraConfig, MergeOptions, ModuleNames, TargetModules, merge,
};
use ferrotune_nn::{
    Dense,
    checkpoint::{CheckpointWriter, write_file},
};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::support::{Model, alone, golden, json as read_json};

/// The whole sentence that a user sees.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn check(what: &str, error: &dyn std::error::Error, expected: &[&str]) {
    let text = sentence(error);
    println!("{what}: {text}");
    for part in expected {
        assert!(text.contains(part), "{what}: `{text}` lacks `{part}`");
    }
    assert!(!text.ends_with('.'), "{text}");
}

/// A copy of a golden adapter that a test may damage.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(golden().join("adapters").join(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn edit(folder: &Path, field: &str, value: Value) {
    let path = folder.join("adapter_config.json");
    let mut config = read_json(&path);
    config[field] = value;
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn options_that_change_the_mathematics_are_refused_by_name() {
    let _alone = alone();
    for (field, value) in [
        ("use_qalora", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("layer_replication", json!([[0, 2]])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("trainable_token_indices", json!({"embed_tokens": [1]})),
        ("megatron_config", json!({"a": 1})),
        ("arrow_config", json!({"top_k": 2})),
        ("use_bdlora", json!({"a": 1})),
        ("kasa_config", json!({"a": 1})),
        ("velora_config", json!({"a": 1})),
        ("monteclora_config", json!({"a": 1})),
        ("ensure_weight_tying", json!(true)),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("peft_type", json!("IA3")),
    ] {
        let folder = copy("llama-attention");
        edit(folder.path(), field, value.clone());
        let error = AdapterWeights::open(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        check(field, &error, &[field, "adapter_config.json", &value.to_string()]);
    }
}

#[test]
fn senseless_fields_are_named_with_what_was_expected() {
    let _alone = alone();
    for (field, value, expected) in [
        ("r", json!(0), "above 0"),
        ("r", json!("8"), "an integer"),
        ("lora_alpha", json!([1]), "a number"),
        ("lora_dropout", json!(1.0), "below 1"),
        ("lora_dropout", json!(-0.1), "at least 0"),
        ("target_modules", json!(7), "a list of names"),
        ("target_modules", json!([]), "all-linear"),
        ("target_modules", json!(["q_proj", ""]), "not empty"),
        ("bias", json!("some"), "lora_only"),
        ("rank_pattern", json!({"q_proj": 0}), "above 0"),
        ("rank_pattern", json!({"q_proj": "x"}), "integers"),
        ("layers_pattern", json!("layers"), "layers_to_transform"),
        ("peft_type", Value::Null, "LORA"),
    ] {
        let folder = copy("llama-attention");
        edit(folder.path(), field, value);
        let error = AdapterWeights::open(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        check(field, &error, &[field, expected, "adapter_config.json"]);
    }
    let folder = copy("llama-regex");
    edit(folder.path(), "layers_to_transform", json!([1]));
    check("layers of a pattern", &AdapterWeights::open(folder.path()).unwrap_err(), &["layers_to_transform"]);
}

#[test]
fn folders_without_an_adapter_say_what_is_missing() {
    let _alone = alone();
    let folder = copy("llama-attention");
    let path = folder.path();
    fs::rename(path.join("adapter_model.safetensors"), path.join("adapter_model.bin")).unwrap();
    let error = AdapterWeights::open(path).unwrap_err();
    assert!(matches!(error, Error::Pickled { .. }));
    check("pickle", &error, &["adapter_model.bin", "save_pretrained"]);
    fs::remove_file(path.join("adapter_model.bin")).unwrap();
    check("no weights", &AdapterWeights::open(path).unwrap_err(), &["adapter_model.safetensors"]);
    fs::remove_file(path.join("adapter_config.json")).unwrap();
    check("no configuration", &AdapterWeights::open(path).unwrap_err(), &["adapter_config.json"]);
    let folder = copy("llama-attention");
    let file = folder.path().join("adapter_model.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    check(
        "half a file",
        &AdapterWeights::open(folder.path()).unwrap_err(),
        &["adapter_model.safetensors", "bytes"],
    );
    fs::write(folder.path().join("adapter_config.json"), "{").unwrap();
    check("no JSON", &AdapterWeights::open(folder.path()).unwrap_err(), &["adapter_config.json"]);
}

/// The error of reading an adapter into a model, while it is built or after.
fn read_error(model: &str, weights: &AdapterWeights) -> Box<dyn std::error::Error> {
    let mut lora = Lora::load(weights, Dense).unwrap();
    match Model::open(model).try_load(Kind::Float, &mut lora) {
        Err(error) => error.into(),
        Ok(_) => lora.finish().unwrap_err().into(),
    }
}

#[test]
fn an_adapter_of_another_model_is_refused_with_the_tensor() {
    let _alone = alone();
    let open = |name: &str| AdapterWeights::open(&golden().join("adapters").join(name)).unwrap();
    let q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    check("other width", &*read_error("llama-bias", &open("llama-attention")), &[q, "[4, 64]", "[4, 32]"]);
    check("dense on sparse", &*read_error("mixtral", &open("llama-all-linear")), &["q_proj", "[3, 64]"]);
    check(
        "sparse on dense",
        &*read_error("llama-tied", &open("mixtral-flat")),
        &["mlp.experts.down_proj", "`q_proj.weight`"],
    );
    // A tensor too few, one too many, and a rank that the file does not have.
    let folder = copy("llama-attention");
    let file = folder.path().join("adapter_model.safetensors");
    let copies =
        || open("llama-attention").tensors().iter().map(|(k, t)| (k.clone(), t.copy())).collect::<Vec<_>>();
    let mut tensors = copies();
    tensors.retain(|(name, _)| name != q);
    let write = |tensors: &[(String, Tensor)]| {
        write_file(&file, tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), &[]).unwrap();
        AdapterWeights::open(folder.path()).unwrap()
    };
    check("one missing", &*read_error("llama-gqa", &write(&tensors)), &[q, "missing"]);
    let stranger = "base_model.model.model.embed_tokens.weight";
    let mut more = copies();
    more.push((stranger.to_owned(), Tensor::zeros([2, 2], (Kind::Float, tch::Device::Cpu))));
    check("one too many", &*read_error("llama-gqa", &write(&more)), &[stranger, "1 tensors"]);
    let folder = copy("llama-attention");
    edit(folder.path(), "rank_pattern", json!({"q_proj": 5}));
    check(
        "other rank",
        &*read_error("llama-gqa", &AdapterWeights::open(folder.path()).unwrap()),
        &[q, "[5, 64]"],
    );
}

fn build_error(model: &str, config: LoraConfig) -> Box<dyn std::error::Error> {
    let mut lora = match Lora::new(config, Dense) {
        Ok(lora) => lora,
        Err(error) => return error.into(),
    };
    match Model::open(model).try_load(Kind::Float, &mut lora) {
        Err(error) => error.into(),
        Ok(_) => lora.finish().unwrap_err().into(),
    }
}

#[test]
fn what_cannot_be_built_says_why_and_what_there_is() {
    let _alone = alone();
    let targets = |names: &[&str]| LoraConfig {
        target_modules: TargetModules::list(names.iter().copied()),
        ..LoraConfig::default()
    };
    let pattern =
        |text: &str| LoraConfig { target_modules: TargetModules::parse(text), ..LoraConfig::default() };
    let saved = |names: &[&str]| LoraConfig {
        modules_to_save: names.iter().map(|&name| name.into()).collect(),
        ..LoraConfig::default()
    };
    let d = LoraConfig::default;
    let cases: Vec<(&str, &str, LoraConfig, Vec<&str>)> = vec![
        (
            "no such module",
            "llama-gqa",
            targets(&["q_proj", "w1"]),
            vec!["`w1`", "target_modules", "`gate_proj`"],
        ),
        (
            "no such parameter",
            "mixtral",
            LoraConfig { target_parameters: vec!["up".into()], ..d() },
            vec!["`up`", "experts.gate_up_proj"],
        ),
        ("no such module to save", "mixtral", saved(&["head_of_all"]), vec!["`head_of_all`", "`lm_head`"]),
        ("pattern without a match", "mixtral", pattern("q_proj"), vec!["`q_proj`", "`w2`"]),
        (
            "no such layer",
            "llama-gqa",
            LoraConfig { layers_to_transform: vec![9], ..d() },
            vec!["`q_proj`", "layers_to_transform"],
        ),
        (
            "everything excluded",
            "llama-gqa",
            LoraConfig { exclude_modules: Some(ModuleNames::List(vec!["q_proj".into()])), ..d() },
            vec!["`q_proj`"],
        ),
        ("not a regular expression", "llama-gqa", pattern("(q_proj"), vec!["(q_proj", "target_modules"]),
        (
            "an embedding",
            "llama-gqa",
            targets(&["embed_tokens"]),
            vec!["model.embed_tokens", "modules_to_save"],
        ),
        ("a normalization", "llama-gqa", pattern(".*norm"), vec!["input_layernorm", "normalization"]),
        ("a tied head", "llama-tied", saved(&["lm_head"]), vec!["`lm_head`", "tie_word_embeddings"]),
        ("a tied head targeted", "llama-tied", targets(&["q_proj", "lm_head"]), vec!["`lm_head`", "Untied"]),
        ("a tied embedding", "llama-tied", saved(&["embed_tokens"]), vec!["model.embed_tokens", "Untied"]),
        (
            "patterns that disagree",
            "llama-gqa",
            LoraConfig { rank_pattern: vec![("q_proj".into(), 2), (".*q_proj".into(), 4)], ..d() },
            vec!["`q_proj`", "`.*q_proj`", "rank_pattern"],
        ),
        (
            "an initialization",
            "llama-gqa",
            LoraConfig { init_lora_weights: Init::Other("eva".into()), ..d() },
            vec!["init_lora_weights", "gaussian"],
        ),
        (
            "a pattern for a module that is not adapted",
            "llama-gqa",
            LoraConfig { alpha_pattern: vec![("k_proj".into(), 2.0)], ..d() },
            vec!["`k_proj` in `alpha_pattern`", "has `q_proj`, `v_proj`"],
        ),
        (
            "a stacked parameter and a part of it in full",
            "mixtral",
            LoraConfig { target_parameters: vec!["gate_up_proj".into()], ..saved(&["w3"]) },
            vec!["gate_up_proj", "modules_to_save"],
        ),
        (
            "magnitudes and a bias of the product",
            "llama-bias",
            LoraConfig { use_dora: true, lora_bias: true, ..d() },
            vec!["`lora_bias`", "use_dora"],
        ),
        (
            "magnitudes of a stacked parameter",
            "mixtral",
            LoraConfig { use_dora: true, target_parameters: vec!["gate_up_proj".into()], ..d() },
            vec!["`use_dora`", "target_parameters"],
        ),
        ("rank 0", "llama-gqa", LoraConfig { r: 0, ..d() }, vec!["`r`", "above 0"]),
    ];
    for (what, model, config, expected) in cases {
        check(what, &*build_error(model, config), &expected);
    }
}

#[test]
fn merging_refuses_what_it_cannot_do() {
    let _alone = alone();
    let open = |name: &str| AdapterWeights::open(&golden().join("adapters").join(name)).unwrap();
    let error = |model: &str, adapter: &str| {
        let model = Model::open(model);
        let folder = tempfile::tempdir().unwrap();
        let mut writer = CheckpointWriter::new(folder.path());
        model
            .with_source(|source| {
                merge(source, &model.specs(), &[&open(adapter)], &MergeOptions::default(), &mut writer)
            })
            .unwrap_err()
    };
    check("no base bias", &error("llama-head-dim", "llama-lora-bias"), &["q_proj", "lora_bias"]);
    check("other width", &error("llama-bias", "llama-attention"), &["q_proj.lora_A", "[4, 64]"]);
    check("other family", &error("llama-head-dim", "mixtral-flat"), &["mlp.experts.down_proj"]);
    check("tied", &error("llama-tied", "llama-tied-head"), &["lm_head", "Untied"]);
}

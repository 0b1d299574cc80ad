//! PEFT folders, read and written.

use std::{fs, path::Path};

use ferrotune_adapters::{
    AdapterWeights, BaseRecord, Bias, ExpertLayout, LoraAdapter, LoraConfig, TargetModules,
};
use ferrotune_nn::{Pass, checkpoint::write_file};
use serde_json::{Value, json};

use crate::merging::merge_into;
use crate::support::{Model, alone, golden, ids, json as read_json, largest, logits, shake};

/// The golden adapters and the models they are for.
const ADAPTERS: &[(&str, &str)] = &[
    ("llama-attention", "llama-gqa"),
    ("llama-all-linear", "llama-gqa"),
    ("llama-regex", "llama-gqa"),
    ("llama-patterns", "llama-bias"),
    ("llama-bias-all", "llama-bias"),
    ("llama-lora-bias", "llama-head-dim"),
    ("llama-lora-bias-mergeable", "llama-bias"),
    ("llama-tied-head", "llama-tied"),
    ("llama-dora", "llama-bias"),
    ("llama-dora-rslora", "llama-head-dim"),
    ("mixtral-attention", "mixtral"),
    ("mixtral-flat", "mixtral"),
    ("mixtral-flat-gate-up", "mixtral"),
    ("mixtral-flat-down", "mixtral"),
    ("mixtral-per-expert", "mixtral"),
    ("mixtral-per-expert-upgraded", "mixtral"),
    ("mixtral-per-expert-dora", "mixtral"),
];

fn model(name: &str) -> Model {
    let model = Model::open(name);
    if model.tied() { model.untied() } else { model }
}

fn assert_same(found: &AdapterWeights, expected: &AdapterWeights) {
    let names = |weights: &AdapterWeights| weights.tensors().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, tensor) in found.tensors() {
        assert_eq!(largest(tensor, &expected.tensors()[name]), 0.0, "{name}");
    }
    assert_eq!(found.config(), expected.config());
}

#[test]
fn a_folder_of_pefts_comes_back_the_same_through_a_model() {
    for (name, base) in ADAPTERS {
        let folder = golden().join("adapters").join(name);
        let weights = AdapterWeights::open(&folder).unwrap();
        let (_, adapter) = model(base).read(&weights);
        let target = tempfile::tempdir().unwrap();
        let saved = target.path().join("adapter");
        adapter.save(&saved).unwrap();
        assert_same(&AdapterWeights::open(&saved).unwrap(), &weights);
        let text = |folder: &Path| fs::read_to_string(folder.join("adapter_config.json")).unwrap();
        // PEFT writes an empty list instead of null where it looked for renamed modules and found none.
        let expected = text(&folder).replace("\"target_parameters\": []", "\"target_parameters\": null");
        assert_eq!(text(&saved), expected, "{name}: byte for byte");
    }
}

fn options() -> Vec<(&'static str, LoraConfig)> {
    let with = |names: &[&str]| LoraConfig {
        target_modules: TargetModules::list(names.iter().copied()),
        r: 3,
        lora_alpha: 2.5,
        ..LoraConfig::default()
    };
    vec![
        ("llama-gqa", LoraConfig { target_modules: TargetModules::AllLinear, use_rslora: true, ..with(&[]) }),
        (
            "llama-bias",
            LoraConfig {
                bias: Bias::All,
                lora_bias: true,
                modules_to_save: vec!["lm_head".into(), "norm".into()],
                ..with(&["q_proj"])
            },
        ),
        ("llama-bias", LoraConfig { use_dora: true, bias: Bias::All, ..with(&["q_proj", "down_proj"]) }),
        ("mixtral", LoraConfig { modules_to_save: vec!["gate".into()], ..with(&["k_proj"]) }),
        ("mixtral", with(&["gate", "w2"])),
        ("llama-tied", LoraConfig { modules_to_save: vec!["embed_tokens".into()], ..with(&["v_proj"]) }),
        ("mixtral", LoraConfig { target_modules: TargetModules::AllLinear, lora_dropout: 0.1, ..with(&[]) }),
        (
            "mixtral",
            LoraConfig {
                target_parameters: vec!["gate_up_proj".into(), "down_proj".into(), "gate.weight".into()],
                lora_dropout: 0.2,
                rank_pattern: vec![(r".*\.gate_up_proj".into(), 5)],
                ..with(&["q_proj"])
            },
        ),
    ]
}

fn trained(seed: i64, name: &str, config: LoraConfig) -> (Box<dyn ferrotune_nn::CausalLm>, LoraAdapter) {
    let (adapted, adapter) = model(name).fresh(config);
    shake(&adapter, seed);
    (adapted, adapter)
}

#[test]
fn what_is_saved_gives_the_same_logits_when_it_is_read() {
    let _alone = alone();
    for (seed, (name, config)) in (70..).zip(options()) {
        let dropout = config.lora_dropout;
        let (adapted, adapter) = trained(seed, name, config);
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("adapter");
        adapter.save(&folder).unwrap();
        let read = AdapterWeights::open(&folder).unwrap();
        assert_eq!(read.config().to_fields(), adapter.config().to_fields());
        assert_eq!(read.config().lora_dropout, dropout);
        let (again, _) = model(name).read(&read);
        let pass = Pass::eval();
        assert_eq!(
            largest(&logits(&*again, &ids(), &pass), &logits(&*adapted, &ids(), &pass)),
            0.0,
            "{name}"
        );
    }
}

#[test]
fn keys_that_nobody_knows_are_kept() {
    let _alone = alone();
    let source = golden().join("adapters/llama-attention");
    let folder = tempfile::tempdir().unwrap();
    fs::copy(source.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors"))
        .unwrap();
    let mut config = read_json(&source.join("adapter_config.json"));
    config["invented_in_2031"] = json!({"a": [1, 2.5, null]});
    config["revision"] = json!("abc");
    config["eva_config"] = json!({"rho": 2.0});
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    let weights = AdapterWeights::open(folder.path()).unwrap();
    let (_, adapter) = model("llama-gqa").read(&weights);
    let saved = folder.path().join("again");
    adapter.save(&saved).unwrap();
    let written: Value = read_json(&saved.join("adapter_config.json"));
    for field in ["invented_in_2031", "revision", "eva_config"] {
        assert_eq!(written[field], config[field]);
    }
}

#[test]
fn a_record_of_the_base_travels_with_the_weights_and_out_of_pefts_sight() {
    let [rule, matrices, others] = ["every-row", "ab", "cd"].map(str::to_owned);
    let record = BaseRecord { rule, matrices, others, in_4_bits: true };
    let (folder, target) = (golden().join("adapters/mixtral-per-expert"), tempfile::tempdir().unwrap());
    let (model, weights) = (model("mixtral"), AdapterWeights::open(&folder).unwrap());
    let (_, mut adapter) = model.read(&weights);
    adapter.record_base(record.clone());
    let (one, two, flat) = (target.path().join("one"), target.path().join("two"), target.path().join("flat"));
    adapter.save(&one).unwrap();
    let read = AdapterWeights::open(&one).unwrap();
    assert_eq!(read.base(), Some(&record));
    read.with_expert_layout(ExpertLayout::Flat, &model.specs()).unwrap().save(&flat).unwrap();
    assert_eq!(AdapterWeights::open(&flat).unwrap().base(), Some(&record));
    read.save(&two).unwrap();
    let bytes = |folder: &Path| fs::read(folder.join("adapter_model.safetensors")).unwrap();
    assert_eq!(bytes(&one), bytes(&two), "in a fixed order");
    let text = |folder: &Path| fs::read_to_string(folder.join("adapter_config.json")).unwrap();
    assert!(!text(&one).contains("ferrotune_base"));
    let with = |text: &str| {
        let tensors = weights.tensors().iter().map(|(name, tensor)| (name.clone(), tensor));
        write_file(&one.join("adapter_model.safetensors"), tensors, &[("ferrotune_base", text)]).unwrap();
        AdapterWeights::open(&one)
    };
    let message = with("dense ab").unwrap_err().to_string();
    assert!(message.contains("`ferrotune_base`") && message.contains("two digests"), "{message}");
    // The first records did not name their rule. They are read, and equal nothing that another rule gives.
    let first = with("4-bit ab cd").unwrap();
    let difference = first.base().unwrap().difference(&record).unwrap();
    assert!(difference.contains("another rule"), "{difference}");
    assert_eq!(AdapterWeights::open(&two).unwrap().without_base().base(), None);
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn saving_leaves_whole_files_and_nothing_else() {
    let _alone = alone();
    let (_, adapter) = trained(80, "llama-gqa", LoraConfig::default());
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("adapter");
    let files = ["README.md", "adapter_config.json", "adapter_model.safetensors"];
    adapter.save(&folder).unwrap();
    assert_eq!(names(&folder), files);
    assert_eq!(names(parent.path()), ["adapter"]);
    // Into a folder that has files of its own, and whose card somebody has written.
    fs::write(folder.join("README.md"), "mine").unwrap();
    fs::write(folder.join("trainer_state.json"), "{}").unwrap();
    shake(&adapter, 81);
    adapter.save(&folder).unwrap();
    assert_eq!(names(&folder), [files[0], files[1], files[2], "trainer_state.json"]);
    assert_eq!(fs::read_to_string(folder.join("README.md")).unwrap(), "mine");
    assert_same(&AdapterWeights::open(&folder).unwrap(), &adapter.weights().unwrap());
    // Leftovers of a run that was killed while it wrote.
    fs::create_dir(folder.join(".adapter.tmp")).unwrap();
    fs::create_dir(parent.path().join("second.tmp")).unwrap();
    adapter.save(&folder).unwrap();
    adapter.save(&parent.path().join("second")).unwrap();
    assert_eq!(names(parent.path()), ["adapter", "second"]);
    // Where nothing can be written, nothing appears.
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(adapter.save(&file.join("adapter")).is_err());
    assert_eq!(names(parent.path()), ["adapter", "file", "second"]);
}

/// Writes adapters, merged checkpoints and our logits where `FERROTUNE_INTEROP` says, for `../golden/check_peft.py`.
#[test]
fn adapters_for_pefts_own_reader() {
    let _alone = alone();
    let Some(out) = std::env::var_os("FERROTUNE_INTEROP") else {
        println!("skipped: FERROTUNE_INTEROP does not name a folder to write to");
        return;
    };
    let beginning = |init: &str| LoraConfig {
        init_lora_weights: init.parse().unwrap(),
        rank_pattern: vec![("q_proj".into(), 5)],
        alpha_pattern: vec![("v_proj".into(), 3.0)],
        ..LoraConfig::default()
    };
    let derived = [
        ("llama-gqa", beginning("pissa")),
        ("llama-bias", LoraConfig { use_dora: true, use_rslora: true, ..beginning("olora") }),
    ];
    for (index, (name, config)) in (0..).zip(options().into_iter().chain(derived)) {
        let folder = Path::new(&out).join(format!("{index}-{name}"));
        fs::create_dir_all(&folder).unwrap();
        let (adapted, adapter) = trained(90 + index, name, config);
        adapter.save(&folder.join("adapter")).unwrap();
        let logits = logits(&*adapted, &ids(), &Pass::eval()).detach();
        write_file(&folder.join("logits.safetensors"), [("logits".to_owned(), &logits)], &[]).unwrap();
        let rows: Vec<Vec<i64>> = Vec::try_from(ids()).unwrap();
        let base = golden().join("models").join(name).canonicalize().unwrap();
        fs::write(folder.join("ids.json"), json!(rows).to_string()).unwrap();
        fs::write(folder.join("base"), base.display().to_string()).unwrap();
        let merged = folder.join("merged");
        fs::create_dir_all(&merged).unwrap();
        merge_into(&model(name), &adapter.weights().unwrap(), &merged);
        let mut config = read_json(&base.join("config.json"));
        config["tie_word_embeddings"] = json!(model(name).tied());
        fs::write(merged.join("config.json"), config.to_string()).unwrap();
    }
}

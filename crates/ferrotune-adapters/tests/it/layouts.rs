//! Expert adapters from one layout into the other and back.

use std::collections::BTreeMap;

use ferrotune_adapters::{AdapterWeights, Error, ExpertLayout, Init, LoraConfig, TargetModules};
use ferrotune_nn::Pass;
use tch::{Kind, Tensor};

use crate::support::{LOGITS, Model, alone, golden, ids, largest, logits, shake};

fn open(name: &str) -> AdapterWeights {
    AdapterWeights::open(&golden().join("adapters").join(name)).unwrap()
}

fn converted(model: &Model, adapter: &AdapterWeights, layout: ExpertLayout) -> AdapterWeights {
    adapter.with_expert_layout(layout, &model.specs()).unwrap()
}

fn assert_same_tensors(found: &AdapterWeights, expected: &AdapterWeights) {
    let names = |weights: &AdapterWeights| weights.tensors().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, tensor) in found.tensors() {
        let other = &expected.tensors()[name];
        assert!(tensor.kind() == other.kind() && tensor == other, "{name}");
    }
}

fn logits_of(model: &Model, adapter: &AdapterWeights) -> Tensor {
    logits(&*model.read(adapter).0, &ids(), &Pass::eval())
}

#[test]
fn an_upgraded_adapter_equals_pefts_own_upgrade_bit_for_bit() {
    let model = Model::open("mixtral");
    let (per_expert, upgraded) = (open("mixtral-per-expert"), open("mixtral-per-expert-upgraded"));
    let flat = converted(&model, &per_expert, ExpertLayout::Flat);
    assert_same_tensors(&flat, &upgraded);
    let relevant = |config: &LoraConfig| {
        let mut parameters = config.target_parameters.clone();
        parameters.sort();
        let LoraConfig { r, lora_alpha, rank_pattern, alpha_pattern, target_modules, .. } = config.clone();
        (r, lora_alpha, rank_pattern, alpha_pattern, target_modules, parameters)
    };
    assert_eq!(relevant(flat.config()), relevant(upgraded.config()));
    // And back, which PEFT does not offer.
    let back = converted(&model, &upgraded, ExpertLayout::PerExpert);
    assert_same_tensors(&back, &per_expert);
    assert_eq!(relevant(back.config()), relevant(per_expert.config()));
    assert_eq!(largest(&logits_of(&model, &back), &logits_of(&model, &per_expert)), 0.0);
    assert!(largest(&logits_of(&model, &flat), &logits_of(&model, &per_expert)) < LOGITS);
}

/// Adapters of all kinds, with their layout.
fn adapters(model: &Model) -> Vec<(String, AdapterWeights, ExpertLayout)> {
    let mut all: Vec<(String, AdapterWeights, ExpertLayout)> =
        ["mixtral-flat", "mixtral-flat-gate-up", "mixtral-flat-down", "mixtral-per-expert-upgraded"]
            .map(|name| (name.to_owned(), open(name), ExpertLayout::Flat))
            .into();
    all.push(("mixtral-per-expert".to_owned(), open("mixtral-per-expert"), ExpertLayout::PerExpert));
    let base = LoraConfig { r: 3, lora_alpha: 7.0, init_lora_weights: Init::Random, ..LoraConfig::default() };
    let list = |names: &[&str]| TargetModules::list(names.iter().copied());
    for (seed, (layout, config)) in (200..).zip([
        (ExpertLayout::PerExpert, LoraConfig { target_modules: TargetModules::AllLinear, ..base.clone() }),
        (
            ExpertLayout::PerExpert,
            LoraConfig { use_rslora: true, target_modules: list(&["w1", "w2", "w3"]), ..base.clone() },
        ),
        (
            ExpertLayout::PerExpert,
            LoraConfig {
                target_modules: list(&["w1", "w3", "v_proj", "gate"]),
                layers_to_transform: vec![1],
                rank_pattern: vec![(r"experts\.\d+\.w\d".into(), 5), ("v_proj".into(), 2)],
                alpha_pattern: vec![(r"experts\.\d+\.w\d".into(), 3.0)],
                ..base.clone()
            },
        ),
        (ExpertLayout::PerExpert, LoraConfig { target_modules: list(&["w2", "lm_head"]), ..base.clone() }),
        (
            ExpertLayout::PerExpert,
            LoraConfig {
                target_modules: list(&["w1", "w2", "w3"]),
                init_lora_weights: Init::Olora,
                ..base.clone()
            },
        ),
        (
            ExpertLayout::Flat,
            LoraConfig {
                target_modules: list(&["q_proj"]),
                target_parameters: vec!["gate_up_proj".into(), "down_proj".into(), "gate.weight".into()],
                rank_pattern: vec![(r".*\.gate_up_proj".into(), 4)],
                use_rslora: true,
                ..base.clone()
            },
        ),
        (
            ExpertLayout::Flat,
            LoraConfig {
                target_modules: list(&[]),
                target_parameters: vec!["layers.1.mlp.experts.gate_up_proj".into()],
                ..base
            },
        ),
    ]) {
        let (_, adapter) = model.fresh(config);
        shake(&adapter, seed);
        all.push((format!("made by us, {seed}"), adapter.weights().unwrap(), layout));
    }
    all
}

#[test]
fn there_and_back_is_the_same_to_the_last_bit_and_gives_the_same_logits() {
    let _alone = alone();
    let model = Model::open("mixtral");
    for (name, adapter, layout) in adapters(&model) {
        let other = if layout == ExpertLayout::Flat { ExpertLayout::PerExpert } else { ExpertLayout::Flat };
        assert_same_tensors(&converted(&model, &adapter, layout), &adapter);
        let there = converted(&model, &adapter, other);
        assert_eq!(there.trained(), there.config(), "{name}: a plain one");
        let flat_keys = there.tensors().keys().filter(|name| name.contains("mlp.experts")).count();
        assert_eq!(flat_keys == 0, other == ExpertLayout::PerExpert, "{name}");
        let back = converted(&model, &there, layout);
        assert_same_tensors(&back, &adapter);
        let expected = logits_of(&model, &adapter);
        let distance = largest(&logits_of(&model, &there), &expected);
        println!("{name}: {distance:.1e}, {:?}", there.config().rank_pattern);
        assert!(distance < LOGITS, "{name}: {distance}");
        assert!(largest(&logits_of(&model, &back), &expected) < LOGITS, "{name}: back");
        // Through a file, as a user converts.
        let folder = tempfile::tempdir().unwrap();
        there.save(&folder.path().join("adapter")).unwrap();
        let read = AdapterWeights::open(&folder.path().join("adapter")).unwrap();
        assert_same_tensors(&converted(&model, &read, layout), &adapter);
    }
}

#[test]
fn a_shared_factor_keeps_its_rank_and_separate_ones_double_it() {
    let model = Model::open("mixtral");
    let separate = converted(&model, &open("mixtral-per-expert"), ExpertLayout::Flat);
    assert_eq!(separate.config().rank_pattern, [(r".*\.gate_up_proj".to_owned(), 6)]);
    let shared = converted(&model, &open("mixtral-flat"), ExpertLayout::PerExpert);
    assert!(shared.config().rank_pattern.is_empty() && shared.config().r == 2);
    let again = converted(&model, &shared, ExpertLayout::Flat);
    assert!(again.config().rank_pattern.is_empty());
    // PEFT's definition, written out: A expert-major, B rank-major, w1 above w3.
    let (flat, key) = (open("mixtral-flat"), "base_model.model.model.layers.1");
    let a = flat.tensors()[&format!("{key}.mlp.experts.base_layer.lora_A.weight")].view([4, 2, 32]);
    let b = flat.tensors()[&format!("{key}.mlp.experts.base_layer.lora_B.weight")].view([96, 2, 4]);
    for expert in 0..4 {
        for (part, row) in [("w1", 0), ("w3", 48)] {
            let at = format!("{key}.block_sparse_moe.experts.{expert}.{part}");
            assert_eq!(shared.tensors()[&format!("{at}.lora_A.weight")], a.get(expert));
            let expected = b.narrow(0, row, 48).select(2, expert);
            assert_eq!(shared.tensors()[&format!("{at}.lora_B.weight")], expected);
        }
    }
}

#[test]
fn what_the_other_layout_cannot_say_is_refused() {
    let _alone = alone();
    let model = Model::open("mixtral");
    let base = LoraConfig { r: 2, ..LoraConfig::default() };
    let list = |names: &[&str]| TargetModules::list(names.iter().copied());
    for (config, expected) in [
        (LoraConfig { target_modules: list(&["w1"]), ..base.clone() }, "`gate_up_proj`"),
        (
            LoraConfig { target_modules: TargetModules::parse(r".*\.experts\.[02]\.w2"), ..base.clone() },
            "`down_proj`",
        ),
        (
            LoraConfig {
                target_modules: list(&["w2"]),
                rank_pattern: vec![(r"experts\.1\.w2".into(), 3)],
                ..base.clone()
            },
            "other ranks",
        ),
        (LoraConfig { target_modules: list(&["w2"]), use_dora: true, ..base.clone() }, "DoRA"),
        (
            LoraConfig { target_modules: list(&["q_proj"]), modules_to_save: vec!["w2".into()], ..base },
            "`down_proj`",
        ),
    ] {
        let adapter = model.fresh(config).1.weights().unwrap();
        let error = adapter.with_expert_layout(ExpertLayout::Flat, &model.specs()).unwrap_err();
        assert!(matches!(error, Error::Layout { .. }), "{error}");
        println!("{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    // An adapter of another model.
    let adapter = open("mixtral-per-expert");
    let tensors: BTreeMap<String, Tensor> = adapter
        .tensors()
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.narrow(1, 0, 2).to_kind(Kind::Float)))
        .collect();
    let cut = AdapterWeights::new(adapter.config().clone(), tensors).unwrap();
    let error = cut.with_expert_layout(ExpertLayout::Flat, &model.specs()).unwrap_err();
    assert!(matches!(error, Error::WrongShape { .. }), "{error}");
    // Without experts there is nothing to do.
    let attention = open("mixtral-attention");
    assert_same_tensors(&converted(&model, &attention, ExpertLayout::Flat), &attention);
}

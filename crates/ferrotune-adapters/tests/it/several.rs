//! Several adapters on one base: each as if it were alone, the base as if there were none.

use std::fs;

use ferrotune_adapters::{
    AdapterWeights, Adapters, DEFAULT_ADAPTER, LoraConfig, NamedAdapters, TargetModules,
};
use ferrotune_nn::{CausalLm, Dense, Pass};
use ferrotune_torch::backward;
use tch::{Kind, Tensor};

use crate::support::{Model, alone, golden, ids, largest, logits, shake};

/// Adapters of different ranks, targets, patterns and kinds for one model; what trains is far from where it started.
fn adapters_for(name: &str) -> Vec<(&'static str, AdapterWeights)> {
    let open = |name: &str| AdapterWeights::open(&golden().join("adapters").join(name)).unwrap();
    let made = |seed: i64, config: LoraConfig| {
        let (_, adapter) = Model::open(name).fresh(config);
        shake(&adapter, seed);
        adapter.weights().unwrap()
    };
    let with = |names: &[&str]| LoraConfig {
        target_modules: TargetModules::list(names.iter().copied()),
        ..LoraConfig::default()
    };
    let saved = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    match name {
        "mixtral" => vec![
            (DEFAULT_ADAPTER, open("mixtral-attention")),
            ("flat", open("mixtral-flat")),
            ("per-expert", open("mixtral-per-expert")),
            ("dora", open("mixtral-per-expert-dora")),
            ("in-full", made(51, LoraConfig { modules_to_save: saved(&["w3", "gate"]), ..with(&["w1"]) })),
            ("also-in-full", made(52, LoraConfig { modules_to_save: saved(&["1.w3"]), ..with(&["q_proj"]) })),
        ],
        _ => vec![
            (DEFAULT_ADAPTER, open("llama-attention")),
            ("all", open("llama-all-linear")),
            ("regex", open("llama-regex")),
            ("dora", made(53, LoraConfig { use_dora: true, lora_dropout: 0.2, r: 3, ..with(&["q_proj"]) })),
            (
                "in-full",
                made(
                    54,
                    LoraConfig {
                        modules_to_save: saved(&["lm_head", "embed_tokens", "norm"]),
                        ..with(&["up_proj"])
                    },
                ),
            ),
        ],
    }
}

fn together(model: &Model, weights: &[(&str, AdapterWeights)]) -> (Box<dyn CausalLm>, NamedAdapters) {
    let mut builder = Adapters::new(Dense);
    for (name, weights) in weights {
        builder = builder.with_adapter(name, weights).unwrap();
    }
    let built = model.load(&mut builder);
    (built, builder.finish().unwrap())
}

fn assert_equal(found: &dyn CausalLm, expected: &dyn CausalLm, what: &str) {
    let of = |model| logits(model, &ids(), &Pass::eval());
    assert_eq!(largest(&of(found), &of(expected)), 0.0, "{what}: bit for bit");
}

#[test]
fn each_adapter_gives_the_logits_that_it_gives_alone_and_none_those_of_the_base() {
    let _alone = alone();
    for name in ["llama-gqa", "mixtral"] {
        let model = Model::open(name);
        let weights = adapters_for(name);
        let (several, adapters) = together(&model, &weights);
        let switch = adapters.switch();
        assert_eq!(switch.active(), Some(DEFAULT_ADAPTER), "the first one acts, as in PEFT");
        let base = model.base();
        let there_and_back: Vec<_> = weights.iter().chain(weights.iter().rev()).collect();
        for (adapter, weights) in there_and_back {
            switch.activate(adapter).unwrap();
            assert_eq!(switch.active(), Some(*adapter));
            let (expected, _) = model.read(weights);
            assert_equal(&*several, &*expected, &format!("{name} {adapter}"));
            switch.deactivate();
            assert_eq!(switch.active(), None);
            assert_equal(&*several, &*base, &format!("{name} without any"));
        }
    }
}

#[test]
fn a_step_of_one_adapter_leaves_the_others_and_the_base_as_they_were() {
    let _alone = alone();
    for name in ["llama-gqa", "mixtral"] {
        let model = Model::open(name);
        let weights = adapters_for(name);
        let (several, adapters) = together(&model, &weights);
        let (alone, expected) = model.read(&weights[1].1);
        adapters.switch().activate(weights[1].0).unwrap();
        let loss = |model: &dyn CausalLm| logits(model, &ids(), &Pass::train()).square().mean(Kind::Float);
        backward(&[(&loss(&*several), None)]).unwrap();
        backward(&[(&loss(&*alone), None)]).unwrap();
        let trained = adapters.adapter(weights[1].0).unwrap();
        let gradients = expected.gradients().unwrap();
        assert_eq!(trained.gradients().unwrap().len(), gradients.len());
        for (key, gradient) in trained.gradients().unwrap() {
            assert_eq!(largest(&gradient, &gradients[&key]), 0.0, "{key}");
        }
        tch::no_grad(|| {
            for trained in trained.parameters() {
                let _ = trained.tensor.shallow_clone().g_sub_(&(trained.tensor.grad() * 0.1));
            }
        });
        for (other, weights) in weights.iter().filter(|(other, _)| *other != "all" && *other != "flat") {
            let other = adapters.adapter(other).unwrap();
            assert!(other.gradients().unwrap().is_empty());
            for (key, tensor) in other.weights().unwrap().tensors() {
                assert_eq!(largest(tensor, &weights.tensors()[key]), 0.0, "{key}");
            }
        }
        adapters.switch().deactivate();
        assert_equal(&*several, &*model.base(), name);
    }
}

#[test]
fn a_handle_in_another_thread_switches_the_same_model() {
    let _alone = alone();
    let model = Model::open("llama-gqa");
    let weights = adapters_for("llama-gqa");
    let (several, adapters) = together(&model, &weights);
    let switch = adapters.switch().clone();
    std::thread::spawn(move || switch.activate("all")).join().unwrap().unwrap();
    assert_eq!(adapters.switch().active(), Some("all"));
    assert_equal(&*several, &*model.read(&weights[1].1).0, "from another thread");
}

#[test]
fn all_are_saved_where_peft_looks_for_them() {
    let _alone = alone();
    let model = Model::open("llama-gqa");
    let weights = adapters_for("llama-gqa");
    let (_, adapters) = together(&model, &weights);
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("several");
    adapters.save(&folder).unwrap();
    for (name, expected) in &weights {
        let at = if *name == DEFAULT_ADAPTER { folder.clone() } else { folder.join(name) };
        let read = AdapterWeights::open(&at).unwrap();
        assert_eq!(read.config(), expected.config());
        for (key, tensor) in read.tensors() {
            assert_eq!(largest(tensor, &expected.tensors()[key]), 0.0, "{name} {key}");
        }
    }
    // One by name.
    let one = place.path().join("one");
    adapters.adapter("all").unwrap().save(&one).unwrap();
    assert_eq!(AdapterWeights::open(&one).unwrap().config(), weights[1].1.config());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
}

#[test]
fn new_adapters_start_as_the_base_and_train_apart() {
    let _alone = alone();
    let model = Model::open("llama-gqa");
    let config = LoraConfig { r: 2, ..LoraConfig::default() };
    let mut builder = Adapters::new(Dense)
        .with_new("first", config.clone())
        .unwrap()
        .with_new("second", LoraConfig { r: 5, ..config })
        .unwrap();
    let several = model.load(&mut builder);
    let adapters = builder.finish().unwrap();
    assert_equal(&*several, &*model.base(), "fresh");
    let elements = |name| adapters.adapter(name).unwrap().parameters().elements();
    assert_eq!(5 * elements("first"), 2 * elements("second"));
    shake(adapters.adapter("second").unwrap(), 55);
    assert_equal(&*several, &*model.base(), "the first acts");
    adapters.switch().activate("second").unwrap();
    let changed: Tensor = logits(&*several, &ids(), &Pass::eval());
    assert!(largest(&changed, &logits(&*model.base(), &ids(), &Pass::eval())) > 1e-3);
}

#[test]
fn names_that_cannot_be_are_refused_with_what_there_is() {
    let _alone = alone();
    let open = || AdapterWeights::open(&golden().join("adapters/llama-attention")).unwrap();
    let refused = |name: &str| {
        let builder = Adapters::new(Dense).with_adapter("one", &open()).unwrap();
        builder.with_adapter(name, &open()).unwrap_err().to_string()
    };
    for (name, expected) in [("one", "taken"), ("", "empty"), ("v1.0", "dot"), ("../up", "slash")] {
        let message = refused(name);
        assert!(message.contains(&format!("`{name}`")) && message.contains(expected), "{message}");
    }
    let model = Model::open("llama-gqa");
    let (_, adapters) = together(&model, &[("one", open()), ("two", open())]);
    let error = adapters.switch().activate("three").unwrap_err().to_string();
    assert!(["`three`", "`one`, `two`"].iter().all(|text| error.contains(text)), "{error}");
    assert_eq!(adapters.switch().active(), Some("one"), "nothing changed");
    assert!(adapters.adapter("three").is_err());
}

//! Adapters that PEFT wrote, with its logits, its gradients and its ten steps.

use std::{collections::BTreeMap, io::Write as _, path::Path};

use ferrotune_adapters::{AdapterWeights, LoraAdapter, LoraConfig, TargetModules};
use ferrotune_nn::{
    CausalLm, Pass, Tokens, WeightSource, WeightSpec,
    checkpoint::Checkpoint,
    loss::{Labelled, causal_lm_loss},
};
use ferrotune_torch::backward;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::support::{LOGITS, Model, golden, json, largest, norm_relative};

/// The reference's own deviation between 32 and 64 bits is under 5e-6 in gradients, losses and trained tensors.
const TRAINING: f64 = 1e-4;
/// A gradient that PEFT does not give at all must be 0 here, where all experts' factors are one tensor.
const ABSENT: f64 = 0.0;

struct Batch {
    ids: Tensor,
    lengths: Vec<i64>,
    supervised: Tensor,
}

struct Case {
    facts: Value,
    tensors: Checkpoint,
    model: Box<dyn CausalLm>,
    adapter: LoraAdapter,
    batches: Vec<Batch>,
}

impl Case {
    fn open(name: &str) -> Self {
        let facts = json(&golden().join("training/training.json"))["cases"][name].clone();
        let tensors = Checkpoint::open_file(&golden().join(format!("training/{name}.safetensors"))).unwrap();
        let folder = golden().join(facts["adapter"].as_str().unwrap());
        let weights = AdapterWeights::open(&folder).unwrap();
        let mut base = Model::open(facts["model"].as_str().unwrap());
        if base.tied() {
            base = base.untied();
        }
        let (model, adapter) = base.read(&weights);
        let batches = (0..facts["micro_batches"].as_i64().unwrap())
            .map(|index| {
                let read = |what| tensors.read(&format!("{what}.{index}")).unwrap();
                let mask = read("attention_mask");
                Batch {
                    ids: read("input_ids"),
                    lengths: Vec::try_from(mask.sum_dim_intlist(1, false, Kind::Int64)).unwrap(),
                    supervised: read("labels").ne(-100),
                }
            })
            .collect();
        Self { facts, tensors, model, adapter, batches }
    }

    /// Loss of the window, with gradients.
    fn loss(&self) -> f64 {
        let tokens: f64 = self.facts["supervised_tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|count| count.as_f64().unwrap())
            .sum();
        let mut sum = 0.0;
        for batch in &self.batches {
            let labelled = Labelled {
                tokens: Tokens::padded(&batch.ids, &batch.lengths),
                supervised: &batch.supervised,
            };
            let parts = causal_lm_loss(&*self.model, &labelled, &Pass::train()).unwrap();
            let mut loss = parts.negative_log_likelihood / tokens;
            if self.facts["aux_in_loss"].as_bool().unwrap() {
                loss += parts.auxiliary_loss.unwrap();
            }
            backward(&[(&loss, None)]).unwrap();
            sum += loss.double_value(&[]);
        }
        sum
    }

    fn starting(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let names = self.tensors.names();
        let named = names.iter().filter_map(|name| name.strip_prefix(prefix));
        named.map(|key| (key.to_owned(), self.tensors.read(&format!("{prefix}{key}")).unwrap())).collect()
    }
}

fn check_logits(name: &str, case: &Case) {
    let Batch { ids, lengths, .. } = &case.batches[0];
    let pass = Pass::eval();
    let states = case.model.hidden(&Tokens::padded(ids, lengths), None, &pass).unwrap().states;
    let found = case.model.logits(&states, &pass).unwrap();
    let real = Tokens::padded(ids, lengths).mask().unwrap();
    let found = match real {
        Some(real) => found * real.unsqueeze(-1),
        None => found,
    };
    let distance = largest(&found, &case.tensors.read("logits").unwrap());
    println!("{name}: logits {distance:.1e}");
    assert!(distance < LOGITS, "{name}: {distance}");
}

fn check(name: &str) {
    let case = Case::open(name);
    check_logits(name, &case);
    let loss = case.loss();
    let losses: Vec<f64> = serde_json::from_value(case.facts["losses"].clone()).unwrap();
    assert!((loss / losses[0] - 1.0).abs() < TRAINING, "{name}: {loss} against {losses:?}");
    let mut gradients = case.adapter.gradients().unwrap();
    let mut worst = 0.0f64;
    for (key, expected) in case.starting("grad.") {
        let found = gradients.remove(&key).unwrap_or_else(|| panic!("{name}: no gradient for {key}"));
        let distance = norm_relative(&found, &expected);
        worst = worst.max(distance);
        assert!(distance < TRAINING, "{name}: {key} {distance}");
    }
    let absent: Vec<String> = serde_json::from_value(case.facts["no_gradient"].clone()).unwrap();
    for key in &absent {
        let gradient = gradients.remove(key).unwrap();
        assert!(gradient.abs().max().double_value(&[]) <= ABSENT, "{name}: {key}");
    }
    assert!(gradients.is_empty(), "{name}: gradients that PEFT does not have: {:?}", gradients.keys());
    println!("{name}: worst gradient {worst:.1e}");
    if losses.len() > 1 {
        check_steps(name, &case, &losses);
    }
}

/// AdamW as the golden file describes it, written out so that this crate is tested without a trainer. Returns the largest
/// relative distance of a loss.
fn train(adapter: &LoraAdapter, losses: &[f64], loss: impl Fn() -> f64) -> f64 {
    let trained: Vec<Tensor> =
        adapter.parameters().iter().map(|trained| trained.tensor.shallow_clone()).collect();
    let mut moments: Vec<(Tensor, Tensor)> =
        trained.iter().map(|t| (t.zeros_like(), t.zeros_like())).collect();
    let (rate, beta1, beta2, epsilon) = (1e-2, 0.9, 0.999, 1e-8);
    let mut worst = 0.0f64;
    for (step, expected) in (1..).zip(losses) {
        trained.iter().for_each(|tensor| tensor.shallow_clone().zero_grad());
        worst = worst.max((loss() / expected - 1.0).abs());
        tch::no_grad(|| {
            let square: f64 =
                trained.iter().map(|tensor| tensor.grad().square().sum(Kind::Double).double_value(&[])).sum();
            let clip = (1.0 / (square.sqrt() + 1e-6)).min(1.0);
            for (tensor, (first, second)) in trained.iter().zip(&mut moments) {
                let grad = tensor.grad() * clip;
                *first = &*first * beta1 + &grad * (1.0 - beta1);
                *second = &*second * beta2 + grad.square() * (1.0 - beta2);
                let corrected = second.sqrt() / (1.0f64 - f64::powi(beta2, step)).sqrt() + epsilon;
                let change = &*first * (rate / (1.0 - f64::powi(beta1, step))) / corrected;
                let _ = tensor.shallow_clone().g_sub_(&change);
            }
        });
    }
    worst
}

fn check_steps(name: &str, case: &Case, losses: &[f64]) {
    let worst = train(&case.adapter, losses, || case.loss());
    assert!(worst < TRAINING, "{name}: losses {worst}");
    let found = case.adapter.weights().unwrap();
    let mut worst_tensor = 0.0f64;
    for (key, expected) in case.starting("final.") {
        // What PEFT keeps of an adapter that changed its base is the first half of what is kept here.
        let found = &found.tensors()[&key];
        let sizes = expected.size();
        let found =
            (0..).zip(&sizes).fold(found.shallow_clone(), |found, (dim, &size)| found.narrow(dim, 0, size));
        let distance = norm_relative(&found, &expected);
        worst_tensor = worst_tensor.max(distance);
        assert!(distance < TRAINING, "{name}: {key} {distance}");
    }
    println!("{name}: losses {worst:.1e}, trained tensors {worst_tensor:.1e}");
}

/// Compares tensors with what the golden file tells of each: its norm, its first values and its last.
fn check_digests(tensors: &BTreeMap<String, Tensor>, digests: &Value) -> f64 {
    let digests = digests.as_object().unwrap();
    assert_eq!(digests.len(), tensors.len());
    let mut worst = 0.0f64;
    for (key, digest) in digests {
        let tensor = tensors[key].to_kind(Kind::Double).view(-1);
        let norm = digest["norm"].as_f64().unwrap();
        worst = worst.max((tensor.norm().double_value(&[]) / norm - 1.0).abs());
        let scale = norm / (tensor.numel() as f64).sqrt(); // a value's usual size
        let first = digest["first"].as_array().unwrap().iter().enumerate();
        let last = (tensor.numel() - 1, &digest["last"]);
        for (place, value) in first.chain([last]) {
            let distance = (tensor.double_value(&[place as i64]) - value.as_f64().unwrap()).abs() / scale;
            worst = worst.max(distance);
            assert!(distance < TRAINING, "{key}[{place}] {distance}");
        }
    }
    worst
}

#[test]
fn a_real_model_trains_as_in_peft() {
    let shared = std::env::var_os("FERROTUNE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), Into::into);
    let folder = shared.join("data/tinystories-656k");
    if !folder.is_dir() {
        let required = "FERROTUNE_REQUIRE_SHARED";
        assert!(
            std::env::var_os(required).is_none(),
            "{required} is set, and `{}` is absent",
            folder.display()
        );
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no `{}`; FERROTUNE_SHARED names the folder that holds `data`",
            folder.display()
        );
        return;
    }
    let facts = json(&golden().join("expected/tinystories.json"))["lora"].clone();
    // Its file holds the head and no embedding; both are frozen here, so that the untied model is the same one.
    let base = Model::at(&folder).untied();
    let targets: Vec<String> = serde_json::from_value(facts["targets"].clone()).unwrap();
    let config = LoraConfig {
        r: facts["rank"].as_i64().unwrap(),
        lora_alpha: facts["alpha"].as_f64().unwrap(),
        target_modules: TargetModules::list(targets.iter().cloned()),
        ..LoraConfig::default()
    };
    // A[i, j] = 0.05 sin(131 i + 17 j + 7 m) and B[i, j] = 0.05 cos(17 i + 131 j + 7 m) for the m-th adapted matrix.
    let wave = |shape: [i64; 2], (rows, columns): (f64, f64), m: f64| {
        let axis = |length| Tensor::arange(length, (Kind::Double, Device::Cpu));
        (axis(shape[0]) * rows).unsqueeze(1) + (axis(shape[1]) * columns).unsqueeze(0) + 7.0 * m
    };
    let specs = base.specs();
    let layers = specs.iter().filter(|spec| spec.name.ends_with("q_proj.weight")).count();
    let places = (0..layers).flat_map(|layer| targets.iter().map(move |target| (layer, target)));
    let mut tensors = BTreeMap::new();
    for (m, (layer, target)) in places.enumerate() {
        let of = |spec: &&WeightSpec| {
            spec.name.contains(&format!("layers.{layer}."))
                && spec.name.ends_with(&format!("{target}.weight"))
        };
        let spec = specs.iter().find(of).unwrap();
        let key = |factor: &str| {
            format!("base_model.model.{}.{factor}.weight", spec.name.strip_suffix(".weight").unwrap())
        };
        let a = wave([config.r, spec.shape[1]], (131.0, 17.0), m as f64).sin() * 0.05;
        let b = wave([spec.shape[0], config.r], (17.0, 131.0), m as f64).cos() * 0.05;
        tensors.insert(key("lora_A"), a.to_kind(Kind::Float));
        tensors.insert(key("lora_B"), b.to_kind(Kind::Float));
    }
    let (model, adapter) = base.read(&AdapterWeights::new(config, tensors).unwrap());
    let rows: Vec<Vec<i64>> = serde_json::from_value(facts["rows"].clone()).unwrap();
    let width = rows.iter().map(Vec::len).max().unwrap();
    let prefix = facts["unsupervised_prefix"].as_u64().unwrap() as usize;
    let padded: Vec<i64> =
        rows.iter().flat_map(|row| row.iter().copied().chain(vec![0; width - row.len()])).collect();
    let counts: Vec<bool> =
        rows.iter().flat_map(|row| (0..width).map(|place| place >= prefix && place < row.len())).collect();
    let shape = [rows.len() as i64, width as i64];
    let ids = Tensor::from_slice(&padded).view(shape);
    let supervised = Tensor::from_slice(&counts).view(shape);
    let lengths: Vec<i64> = rows.iter().map(|row| row.len() as i64).collect();
    let loss = || {
        let batch = Labelled { tokens: Tokens::padded(&ids, &lengths), supervised: &supervised };
        let parts = causal_lm_loss(&*model, &batch, &Pass::train()).unwrap();
        let loss = parts.negative_log_likelihood / parts.supervised_tokens as f64;
        backward(&[(&loss, None)]).unwrap();
        loss.double_value(&[])
    };
    let losses: Vec<f64> = serde_json::from_value(facts["losses"].clone()).unwrap();
    assert!(losses[0] - losses[losses.len() - 1] > 0.5);
    loss();
    let gradients = check_digests(&adapter.gradients().unwrap(), &facts["gradients"]);
    let worst = train(&adapter, &losses, loss);
    assert!(worst < TRAINING, "losses {worst}");
    let trained = check_digests(adapter.weights().unwrap().tensors(), &facts["final"]);
    println!(
        "tinystories-656k: gradients {gradients:.1e}, losses {worst:.1e}, trained tensors {trained:.1e}"
    );
}

#[test]
fn llama_adapters_train_as_in_peft() {
    for name in [
        "llama-attention",
        "llama-accumulation",
        "llama-all-linear",
        "llama-regex",
        "llama-patterns",
        "llama-bias-all",
        "llama-lora-bias",
        "llama-lora-bias-mergeable",
        "llama-tied-head",
    ] {
        check(name);
    }
}

#[test]
fn dora_adapters_train_as_in_peft() {
    for name in ["llama-dora", "llama-dora-rslora", "mixtral-per-expert-dora"] {
        check(name);
    }
}

/// PEFT makes the base that such an adapter fits out of the base as it is, and so does this reader.
#[test]
fn adapters_that_change_their_base_train_as_in_peft() {
    check("llama-pissa");
    check("llama-olora");
}

#[test]
fn mixtral_attention_adapters_train_as_in_peft() {
    check("mixtral-attention");
    check("mixtral-attention-aux");
}

#[test]
fn stacked_expert_adapters_train_as_in_peft() {
    for name in ["mixtral-flat", "mixtral-flat-gate-up", "mixtral-flat-down", "mixtral-flat-idle"] {
        check(name);
    }
}

#[test]
fn per_expert_adapters_train_as_in_peft() {
    check("mixtral-per-expert");
    check("mixtral-per-expert-idle");
}

#[test]
fn an_adapter_that_peft_rewrote_for_stacked_experts_gives_the_same_logits() {
    let mut case = Case::open("mixtral-per-expert");
    let upgraded = AdapterWeights::open(&golden().join("adapters/mixtral-per-expert-upgraded")).unwrap();
    (case.model, case.adapter) = Model::open("mixtral").read(&upgraded);
    check_logits("mixtral-per-expert-upgraded", &case);
}

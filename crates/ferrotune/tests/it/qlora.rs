//! QLoRA against transformers, bitsandbytes and PEFT: over what we quantize ourselves, and over their bytes.

use std::{collections::BTreeMap, path::Path};

use ferrotune::{
    Adapted, AutoCausalLm, BaseConfig, LoadOptions, Quantize, Start, adapt,
    adapters::{Census, LoraConfig, Nf4, Quantization, TargetModules},
    core::Sample,
    nn::{
        Pass, Tokens,
        loss::{Labelled, causal_lm_loss},
        seam::Recompute,
    },
    tch::{Device, Kind, Tensor},
    trainer::{Dataset, Resume, Scheduler, Trainer, TrainingConfig},
};
use serde_json::Value;

use crate::{
    golden::{self, relative_to_largest},
    tinystories::{checkpoint, numbers},
    training::{Case, Steps},
};

/// Over the same codes and scales: the reference's runs in 32 and 64 bits differ by under 5e-6, as without quantization.
const SAME_BYTES: f64 = 1e-4;

/// Where we quantize the scales too: one in a few hundred is stored an 8-bit code apart from bitsandbytes' (`docs/nf4.md`),
/// which moves a block of 64 weights by up to a hundredth. The base is then another one by that much.
const OUR_DOUBLE_QUANTIZATION: f64 = 1e-2;

/// How far ten steps must lower the loss, so that what is compared is training.
const FALL: f64 = 0.5;

/// Matrices that the reference had in 4 bits or decoded from 4 bits: seven in each of two layers of LLaMA; in Mixtral four
/// of attention and three of each of four experts.
const MATRICES: [(&str, u64); 2] = [("llama-gqa", 14), ("mixtral-wide", 2 * (4 + 3 * 4))];

fn cases() -> Vec<Case> {
    let cases = Case::recorded("qlora/training.json", "qlora/");
    assert_eq!(cases.len(), 4, "a golden case was lost or added");
    cases
}

fn double_quantization(case: &Case) -> bool {
    case.facts["double_quantization"].as_bool().unwrap()
}

/// A case over our own bytes, and where the reference's are committed, over those.
fn bases(case: &Case) -> Vec<(AutoCausalLm, f64)> {
    let double = double_quantization(case);
    let ours = (case.open(), if double { OUR_DOUBLE_QUANTIZATION } else { SAME_BYTES });
    let theirs = golden::folder().join(format!("qlora/{}-nf4", case.facts["model"].as_str().unwrap()));
    let theirs = (double && theirs.is_dir()).then(|| (AutoCausalLm::open(&theirs).unwrap(), SAME_BYTES));
    std::iter::once(ours).chain(theirs).collect()
}

fn build(case: &Case, base: &AutoCausalLm) -> (Adapted, Census) {
    let config = match base.quantization() {
        Some(_) => BaseConfig::default(), // as stored
        None => BaseConfig {
            quantize: Some(Quantize::Nf4),
            double_quant: double_quantization(case),
            ..BaseConfig::default()
        },
    };
    let (storage, census) = config.storage(base).unwrap();
    let adapter = case.adapter().unwrap();
    (adapt(base, Start::From(&adapter), storage, &case.options()).unwrap(), census)
}

#[test]
fn the_references_bytes_are_committed() {
    let compared: usize = cases().iter().map(|case| bases(case).len()).sum();
    assert_eq!(compared, 5, "four cases over our bytes, and LLaMA with double quantization over theirs");
}

#[test]
fn logits_and_gradients_equal_the_reference_with_and_without_recomputation() {
    for case in cases() {
        for (base, tolerance) in bases(&case) {
            for recompute in [Recompute::Nothing, Recompute::Blocks] {
                let (Adapted { model, adapter }, census) = build(&case, &base);
                let matrices: u64 = census.tallies().iter().filter(|t| t.quantized).map(|t| t.matrices).sum();
                let model_name = case.facts["model"].as_str().unwrap();
                assert!(MATRICES.contains(&(model_name, matrices)), "{model_name}: {matrices} in 4 bits");

                let mask = case.tensors.get("attention_mask.0");
                let lengths: Vec<i64> = mask.sum_dim_intlist(1, false, Kind::Int64).try_into().unwrap();
                let ids = case.tensors.get("input_ids.0");
                let hidden = model.hidden(&Tokens::padded(&ids, &lengths), None, &Pass::eval()).unwrap();
                let found = model.logits(&hidden.states, &Pass::eval()).unwrap() * mask.unsqueeze(-1);
                let error = relative_to_largest(&found.detach(), &case.tensors.get("logits"));
                println!("{}: logits {error:.1e}", case.name);
                assert!(error < tolerance, "{}: {error:e}", case.name);

                case.backward(model.as_ref(), &Pass::train().with_recompute(recompute));
                case.check_tensors("grad", &adapter.gradients().unwrap(), tolerance);
            }
        }
    }
}

fn check_run(name: &str, steps: &Steps, losses: &[f64], norms: &[f64], tolerance: f64) {
    let mut worst = 0.0_f64;
    let mut check = |what: &str, found: &[f64], expected: &[f64]| {
        assert_eq!((found.len(), expected.len()), (10, 10), "{name} {what}");
        for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (found / expected - 1.0).abs();
            assert!(error < tolerance, "{name} {what} of step {step}: {found} against {expected}");
            worst = worst.max(error);
        }
    };
    let found = steps.losses.borrow();
    check("loss", &found, losses);
    check("gradient norm", &steps.norms.borrow(), norms);
    assert!(found[0] - found[9] > FALL, "{name}: the loss fell from {} to {} only", found[0], found[9]);
    println!("{name}: losses {:.3} to {:.3}, losses and norms within {worst:.1e}", found[0], found[9]);
}

#[test]
fn ten_steps_equal_the_reference() {
    for case in cases() {
        for (base, tolerance) in bases(&case) {
            let (Adapted { model, adapter }, _) = build(&case, &base);
            let steps = case.ten_steps(model.as_ref(), adapter.parameters(), 1e-2);
            check_run(&case.name, &steps, &case.list("losses"), &case.list("grad_norms"), tolerance);
            if tolerance > SAME_BYTES {
                // AdamW divides by a gradient's size, so where a gradient is small a slightly other base turns a step
                // round; what ten such steps lead to says nothing.
                continue;
            }
            let weights = adapter.weights().unwrap();
            let trained =
                weights.tensors().iter().map(|(key, tensor)| (key.clone(), tensor.shallow_clone())).collect();
            case.check_tensors("final", &trained, tolerance);
        }
    }
}

/// The m-th adapted matrix gets A and B from a formula, as `golden/tinystories.py` gives them.
fn by_formula(name: &str, shape: &[i64], index: i64) -> Tensor {
    let (row, column) = if name.contains("lora_A") { (131, 17) } else { (17, 131) };
    let options = (Kind::Double, Device::Cpu);
    let rows = Tensor::arange(shape[0], options).unsqueeze(1) * row;
    let columns = Tensor::arange(shape[1], options).unsqueeze(0) * column;
    let angle = rows + columns + 7 * index;
    let wave = if name.contains("lora_A") { angle.sin() } else { angle.cos() };
    (wave * 0.05).to_kind(Kind::Float)
}

/// The trained checkpoint over four bits with the adapter of the formula.
fn tinystories(folder: &Path, facts: &Value) -> Adapted {
    let base = AutoCausalLm::open(folder).unwrap();
    let targets: Vec<String> = numbers(&facts["targets"]);
    let config = LoraConfig {
        r: facts["rank"].as_i64().unwrap(),
        lora_alpha: facts["alpha"].as_f64().unwrap(),
        target_modules: TargetModules::list(targets.clone()),
        ..LoraConfig::default()
    };
    let options = LoadOptions::new(Device::Cpu, Kind::Float);
    let double_quantization = facts["double_quantization"].as_bool().unwrap();
    let storage = Nf4::new(Quantization { double_quantization, ..Quantization::default() });
    let census = storage.census();
    let adapted = adapt(&base, Start::New(&config), storage, &options).unwrap();
    let matrices: u64 = census.tallies().iter().filter(|t| t.quantized).map(|t| t.matrices).sum();
    assert_eq!(matrices, facts["matrices_in_4_bits"].as_u64().unwrap());
    let index = |name: &str| -> i64 {
        let layer: i64 = name.split("layers.").nth(1).unwrap().split('.').next().unwrap().parse().unwrap();
        let target = targets.iter().position(|target| name.contains(target.as_str())).unwrap();
        layer * targets.len() as i64 + target as i64
    };
    for trained in adapted.adapter.parameters() {
        let mut tensor = trained.tensor.detach();
        tensor.copy_(&by_formula(&trained.name, &tensor.size(), index(&trained.name)));
    }
    adapted
}

/// Holds tensors against their norms and a few of their entries.
fn check_facts(what: &str, found: &BTreeMap<String, Tensor>, expected: &Value) {
    let Value::Object(expected) = expected else { panic!("no {what}") };
    assert_eq!(found.len(), expected.len());
    let mut worst = 0.0_f64;
    for (name, facts) in expected {
        let found = found[name.as_str()].to_kind(Kind::Double).view([-1]);
        let norm = facts["norm"].as_f64().unwrap();
        let mut off = vec![(found.norm().double_value(&[]) - norm).abs() / norm];
        // Single entries over the root mean square of their tensor.
        let scale = norm / (found.numel() as f64).sqrt();
        let first: Vec<f64> = numbers(&facts["first"]);
        let last = (found.numel() as i64 - 1, facts["last"].as_f64().unwrap());
        for (place, value) in (0..).zip(first).chain([last]) {
            off.push((found.double_value(&[place]) - value).abs() / scale);
        }
        for error in off {
            assert!(error < SAME_BYTES, "tinystories {what} {name}: {error:e}");
            worst = worst.max(error);
        }
    }
    println!("tinystories: {} {what} within {worst:.1e}", expected.len());
}

#[test]
fn ten_steps_over_a_trained_model_equal_the_reference() {
    let Some(folder) = checkpoint("QLoRA on a trained model") else { return };
    let facts = golden::json("qlora/tinystories.json");
    let rows: Vec<Vec<u32>> = numbers(&facts["rows"]);
    let prefix = facts["unsupervised_prefix"].as_u64().unwrap() as usize;
    let supervised = |row: &Vec<u32>| (0..row.len()).map(|place| place >= prefix).collect();
    let samples: Vec<Sample> = rows
        .iter()
        .map(|ids| Sample { supervised: supervised(ids), ids: ids.clone(), truncated: false })
        .collect();

    let Adapted { model, adapter } = tinystories(&folder, &facts);
    let width = rows.iter().map(Vec::len).max().unwrap();
    let padded =
        |row: &Vec<u32>| (0..width).map(|place| row.get(place).map_or(0, |&id| i64::from(id))).collect();
    let ids: Vec<Vec<i64>> = rows.iter().map(padded).collect();
    let lengths: Vec<i64> = rows.iter().map(|row| row.len() as i64).collect();
    let ids = Tensor::from_slice2(&ids);
    let places = Tensor::arange(width as i64, (Kind::Int64, Device::Cpu)).unsqueeze(0);
    let marks =
        places.ge(prefix as i64).logical_and(&places.lt_tensor(&Tensor::from_slice(&lengths).unsqueeze(1)));
    let batch = Labelled { tokens: Tokens::padded(&ids, &lengths), supervised: &marks };
    let parts = causal_lm_loss(model.as_ref(), &batch, &Pass::train()).unwrap();
    let loss = parts.negative_log_likelihood / parts.supervised_tokens as f64;
    ferrotune::torch::backward(&[(&loss, None)]).unwrap();
    check_facts("gradients", &adapter.gradients().unwrap(), &facts["gradients"]);

    let Adapted { model, adapter } = tinystories(&folder, &facts);
    let plan = |_| Ok(vec![vec![0, 1]]);
    let config = TrainingConfig {
        max_steps: Some(10),
        learning_rate: facts["learning_rate"].as_f64().unwrap(),
        warmup_ratio: 0.0,
        scheduler: Scheduler::Constant,
        logging_steps: 1,
        ..TrainingConfig::default()
    };
    let steps = Steps::default();
    let mut listener = &steps;
    Trainer::new(config, model.as_ref(), adapter.parameters(), Dataset::new(&samples, &plan))
        .unwrap()
        .with_listener(&mut listener)
        .run(Resume::No)
        .unwrap();
    let list = |key: &str| -> Vec<f64> { numbers(&facts[key]) };
    check_run("tinystories", &steps, &list("losses"), &list("grad_norms"), SAME_BYTES);
    let weights = adapter.weights().unwrap();
    let trained =
        weights.tensors().iter().map(|(key, tensor)| (key.clone(), tensor.shallow_clone())).collect();
    check_facts("adapters", &trained, &facts["final"]);
}

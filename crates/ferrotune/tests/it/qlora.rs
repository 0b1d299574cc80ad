//! QLoRA against transformers, bitsandbytes and PEFT: over what we quantize ourselves, and over their bytes.

use std::{collections::BTreeMap, path::Path};

use ferrotune::{
    Adapted, AutoCausalLm, BaseConfig, LoadOptions, Quantize, Start, adapt,
    adapters::{BlockScales, Census, LoraConfig, Nf4, Quantization, QuantizedTensor, TargetModules},
    core::Sample,
    nn::{
        Pass, Role, Tokens, WeightSource as _,
        loss::{Labelled, causal_lm_loss},
        seam::Recompute,
        weights::Layouts,
    },
    quantize,
    tch::{Device, Kind, Tensor},
    trainer::{Dataset, Resume, Scheduler, Trainer, TrainingConfig},
};
use ferrotune_nf4::{DYNAMIC_MAP, NESTED_BLOCK_SIZE};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    golden::{self, relative_to_largest},
    tinystories::{checkpoint, numbers},
    training::{Case, Steps},
};

/// The reference's runs in 32 and 64 bits differ by under 5e-6, as without quantization.
const SAME_WEIGHTS: f64 = 1e-4;

/// How far ten steps must lower the loss, so that what is compared is training.
const FALL: f64 = 0.5;

/// Matrices that the reference had in 4 bits or decoded from 4 bits: seven in each of two layers of LLaMA; in Mixtral four
/// of attention and three of each of four experts.
const MATRICES: [(&str, u64); 2] = [("llama-gqa", 14), ("mixtral-wide", 2 * (4 + 3 * 4))];

fn cases() -> Vec<Case> {
    let cases = Case::recorded("qlora/training.json", "qlora/");
    assert_eq!(cases.len(), 6, "a golden case was lost or added");
    cases
}

fn double_quantization(case: &Case) -> bool {
    !case.facts["scales"].is_null()
}

/// Whether the reference's scales went through the bins of bitsandbytes' compiled CPU backend, which gives some of them another
/// code than midpoints do (`docs/nf4.md`, 7).
fn binned(case: &Case) -> bool {
    case.facts["scales"] == "compiled"
}

/// What the reference's compiled backend has otherwise: matrix, then index and code of a scale.
fn codes_apart(case: &Case) -> BTreeMap<String, Vec<(i64, u8)>> {
    serde_json::from_value(case.facts["codes_apart"].clone()).unwrap()
}

/// A base that a case runs over.
struct Base {
    what: &'static str,
    model: AutoCausalLm,
    /// Where its files are, if the test wrote them.
    _folder: Option<TempDir>,
}

/// What we quantize ourselves, with the counted codes of the compiled backend put in where the reference has them; and where the
/// reference's bytes are committed, over those.
fn bases(case: &Case) -> Vec<Base> {
    if !binned(case) {
        return vec![Base { what: "ours", model: case.open(), _folder: None }];
    }
    let folder = tempfile::tempdir().unwrap();
    let settings = Quantization { double_quantization: true, ..Quantization::default() };
    quantize(&case.open(), &settings, None, folder.path()).unwrap();
    let file = folder.path().join("model.safetensors");
    let tensors: BTreeMap<_, _> = Tensor::read_safetensors(&file).unwrap().into_iter().collect();
    for (name, apart) in codes_apart(case) {
        for (index, code) in apart {
            let mut place = tensors[&format!("{name}.absmax")].narrow(0, index, 1);
            // Never more than the neighbour.
            assert_eq!((place.int64_value(&[0]) - i64::from(code)).abs(), 1, "{name} {index}");
            let _ = place.fill_(i64::from(code));
        }
    }
    Tensor::write_safetensors(&tensors.into_iter().collect::<Vec<_>>(), &file).unwrap();
    let model = AutoCausalLm::open(folder.path()).unwrap();
    let ours = Base { what: "ours with their codes", model, _folder: Some(folder) };
    let theirs = golden::folder().join(format!("qlora/{}-nf4", case.facts["model"].as_str().unwrap()));
    let theirs = theirs.is_dir().then(|| AutoCausalLm::open(&theirs).unwrap());
    let theirs = theirs.map(|model| Base { what: "theirs", model, _folder: None });
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
    assert_eq!(compared, 7, "six cases over our bytes, and LLaMA with binned scales over theirs");
}

/// What the compiled backend makes of a scale: the nearest of 65,536 numbers that divide [-1, 1] evenly takes its place before it is
/// compared with midpoints.
fn binned_code(scaled: f32) -> u8 {
    let bin = ((scaled.clamp(-1.0, 1.0) + 1.0) * 0.5 * 65_535.0 + 0.5) as u16;
    code(-1.0 + (2.0 * f32::from(bin)) / 65_535.0)
}

/// The number of midpoints that a scale exceeds.
fn code(scaled: f32) -> u8 {
    let midpoints = DYNAMIC_MAP.windows(2).map(|pair| f32::midpoint(pair[0], pair[1]));
    midpoints.filter(|&midpoint| midpoint < scaled).count() as u8
}

#[test]
fn the_rule_of_the_compiled_backend_gives_the_codes_that_differ_and_no_others() {
    let settings = |double_quantization| Quantization { double_quantization, ..Quantization::default() };
    for case in cases().into_iter().filter(binned) {
        let model = case.open();
        let (weights, specs) = (model.open_weights().unwrap(), model.weights());
        let source = Layouts::new(&weights, &specs, &[]).unwrap();
        let (mut found, mut scales) = (BTreeMap::new(), 0);
        for spec in &specs {
            if !matches!(spec.role, Role::Attention | Role::Mlp | Role::Expert) {
                continue;
            }
            let weight = source.read(&spec.name).unwrap();
            let plain = QuantizedTensor::quantize(&weight, &settings(false)).unwrap();
            let nested = QuantizedTensor::quantize(&weight, &settings(true)).unwrap();
            let (BlockScales::Plain(plain), BlockScales::Nested { codes, absmax, offset }) =
                (plain.scales(), nested.scales())
            else {
                panic!("scales of 32 and of 8 bits")
            };
            let plain = Vec::<f32>::try_from(&**plain).unwrap();
            let (codes, absmax) =
                (Vec::<u8>::try_from(&**codes).unwrap(), Vec::<f32>::try_from(&**absmax).unwrap());
            scales += codes.len();
            let mut apart = Vec::new();
            for (index, (scale, ours)) in plain.iter().zip(codes).enumerate() {
                let scaled = (scale - offset) * (1.0 / absmax[index / NESTED_BLOCK_SIZE]);
                assert_eq!(ours, code(scaled), "{} {index}", spec.name);
                let theirs = binned_code(scaled);
                if theirs != ours {
                    apart.push((index as i64, theirs));
                }
            }
            if !apart.is_empty() {
                found.insert(spec.name.clone(), apart);
            }
        }
        println!("{}: {} of {scales} codes", case.name, found.values().map(Vec::len).sum::<usize>());
        assert_eq!(scales as u64, case.facts["codes_of_scales"].as_u64().unwrap());
        assert_eq!(found, codes_apart(&case), "{}", case.name);
    }
}

#[test]
fn logits_and_gradients_equal_the_reference_with_and_without_recomputation() {
    for case in cases() {
        for Base { what, model: base, .. } in &bases(&case) {
            for recompute in [Recompute::Nothing, Recompute::Blocks] {
                let (Adapted { model, adapter }, census) = build(&case, base);
                let matrices: u64 = census.tallies().iter().filter(|t| t.quantized).map(|t| t.matrices).sum();
                let model_name = case.facts["model"].as_str().unwrap();
                assert!(MATRICES.contains(&(model_name, matrices)), "{model_name}: {matrices} in 4 bits");

                let mask = case.tensors.get("attention_mask.0");
                let lengths: Vec<i64> = mask.sum_dim_intlist(1, false, Kind::Int64).try_into().unwrap();
                let ids = case.tensors.get("input_ids.0");
                let hidden = model.hidden(&Tokens::padded(&ids, &lengths), None, &Pass::eval()).unwrap();
                let found = model.logits(&hidden.states, &Pass::eval()).unwrap() * mask.unsqueeze(-1);
                let error = relative_to_largest(&found.detach(), &case.tensors.get("logits"));
                println!("{} over {what}: logits {error:.1e}", case.name);
                assert!(error < SAME_WEIGHTS, "{}: {error:e}", case.name);

                case.backward(model.as_ref(), &Pass::train().with_recompute(recompute));
                case.check_tensors("grad", &adapter.gradients().unwrap(), SAME_WEIGHTS);
            }
        }
    }
}

fn check_run(name: &str, steps: &Steps, losses: &[f64], norms: &[f64]) {
    let mut worst = 0.0_f64;
    let mut check = |what: &str, found: &[f64], expected: &[f64]| {
        assert_eq!((found.len(), expected.len()), (10, 10), "{name} {what}");
        for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (found / expected - 1.0).abs();
            assert!(error < SAME_WEIGHTS, "{name} {what} of step {step}: {found} against {expected}");
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
        for Base { what, model: base, .. } in &bases(&case) {
            let (Adapted { model, adapter }, _) = build(&case, base);
            let steps = case.ten_steps(model.as_ref(), adapter.parameters(), 1e-2);
            let name = format!("{} over {what}", case.name);
            check_run(&name, &steps, &case.list("losses"), &case.list("grad_norms"));
            let weights = adapter.weights().unwrap();
            let trained =
                weights.tensors().iter().map(|(key, tensor)| (key.clone(), tensor.shallow_clone())).collect();
            case.check_tensors("final", &trained, SAME_WEIGHTS);
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
            assert!(error < SAME_WEIGHTS, "tinystories {what} {name}: {error:e}");
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
    check_run("tinystories", &steps, &list("losses"), &list("grad_norms"));
    let weights = adapter.weights().unwrap();
    let trained =
        weights.tensors().iter().map(|(key, tensor)| (key.clone(), tensor.shallow_clone())).collect();
    check_facts("adapters", &trained, &facts["final"]);
}

//! Gradients, optimizer steps and merged weights, against PEFT and torch.

use std::{cell::RefCell, collections::BTreeMap};

use ferrotune::{
    Adapted, Architecture, AutoCausalLm, LoadOptions, Start, adapt,
    adapters::{AdapterWeights, MergeOptions},
    core::Sample,
    merge,
    mixtral::AuxiliaryLoss,
    nn::{
        CausalLm, Dense, Parameters, Pass, Role, Tokens, Trainable, WeightSource as _,
        checkpoint::Checkpoint,
        loss::{Labelled, causal_lm_loss},
    },
    trainer::{Dataset, Event, Listener, Resume, Scheduler, Trainer, TrainingConfig},
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::golden::{self, Tensors, relative_to_largest, relative_to_norm};

/// The reference's own gradients in 32 and 64 bits differ by under 5e-6.
const GRADIENTS: f64 = 1e-4;

/// The same for losses, norms and tensors after ten steps.
const TEN_STEPS: f64 = 1e-4;

/// Two attention kernels of torch differ by under 1e-6 on these models.
const LOGITS: f64 = 2e-5;

/// One product and one sum in 32 bits.
const MERGED: f64 = 1e-6;

/// How far ten steps must lower the loss, so that what is compared is training.
const FALL: f64 = 0.5;

/// A recorded run of the reference.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) facts: Value,
    pub(crate) tensors: Tensors,
    /// The folder of its files, in the golden folder.
    home: &'static str,
}

impl Case {
    fn all() -> Vec<Self> {
        let cases = Self::recorded("training/training.json", "");
        assert_eq!(cases.len(), 25, "a golden case was lost or added");
        cases
    }

    /// The cases of a file; what they speak of lies below `home`.
    pub(crate) fn recorded(file: &str, home: &'static str) -> Vec<Self> {
        let Value::Object(cases) = golden::json(file)["cases"].take() else { panic!("no cases") };
        let case = |(name, facts)| {
            let tensors = Tensors::open(&format!("{home}training/{name}.safetensors"));
            Self { name, facts, tensors, home }
        };
        cases.into_iter().map(case).collect()
    }

    pub(crate) fn number(&self, key: &str) -> usize {
        self.facts[key].as_u64().unwrap() as usize
    }

    pub(crate) fn list(&self, key: &str) -> Vec<f64> {
        serde_json::from_value(self.facts[key].clone()).unwrap()
    }

    pub(crate) fn open(&self) -> AutoCausalLm {
        AutoCausalLm::open(&golden::folder().join("models").join(self.facts["model"].as_str().unwrap()))
            .unwrap()
    }

    pub(crate) fn adapter(&self) -> Option<AdapterWeights> {
        let folder = format!("{}{}", self.home, self.facts["adapter"].as_str()?);
        Some(AdapterWeights::open(&golden::folder().join(folder)).unwrap())
    }

    pub(crate) fn options(&self) -> LoadOptions {
        let with = self.facts["aux_in_loss"].as_bool().unwrap();
        let auxiliary_loss = if with { AuxiliaryLoss::Concatenated } else { AuxiliaryLoss::Off };
        LoadOptions { auxiliary_loss, ..LoadOptions::new(Device::Cpu, Kind::Float) }
    }

    /// Every row of every micro-batch, and which rows stand together.
    pub(crate) fn samples(&self) -> (Vec<Sample>, Vec<Vec<usize>>) {
        let (mut samples, mut batches) = (Vec::new(), Vec::new());
        for micro in 0..self.number("micro_batches") {
            let tensor = |name: &str| self.tensors.get(&format!("{name}.{micro}"));
            let (ids, mask, labels) = (tensor("input_ids"), tensor("attention_mask"), tensor("labels"));
            let mut batch = Vec::new();
            for row in 0..ids.size()[0] {
                let length = mask.select(0, row).sum(Kind::Int64).int64_value(&[]) as usize;
                let values = |tensor: &Tensor| Vec::<i64>::try_from(tensor.select(0, row)).unwrap();
                batch.push(samples.len());
                samples.push(Sample {
                    ids: values(&ids)[..length].iter().map(|&id| id as u32).collect(),
                    supervised: values(&labels)[..length].iter().map(|&label| label != -100).collect(),
                    truncated: false,
                });
            }
            batches.push(batch);
        }
        (samples, batches)
    }

    /// Gradients of the window's loss, accumulated in the leaves.
    pub(crate) fn backward(&self, model: &dyn CausalLm, pass: &Pass) {
        let supervised = self.list("supervised_tokens").iter().sum::<f64>();
        for micro in 0..self.number("micro_batches") {
            let tensor = |name: &str| self.tensors.get(&format!("{name}.{micro}"));
            let (ids, marks) = (tensor("input_ids"), tensor("labels").ne(-100));
            let lengths: Vec<i64> =
                tensor("attention_mask").sum_dim_intlist(1, false, Kind::Int64).try_into().unwrap();
            let batch = Labelled { tokens: Tokens::padded(&ids, &lengths), supervised: &marks };
            let parts = causal_lm_loss(model, &batch, pass).unwrap();
            let share = parts.supervised_tokens as f64 / supervised;
            let mut loss = parts.negative_log_likelihood / supervised;
            if let Some(auxiliary) = parts.auxiliary_loss {
                loss += auxiliary * share;
            }
            ferrotune::torch::backward(&[(&loss, None)]).unwrap();
        }
    }

    /// Ten steps of the trainer.
    pub(crate) fn ten_steps(
        &self,
        model: &dyn CausalLm,
        parameters: &Parameters,
        learning_rate: f64,
    ) -> Steps {
        let (samples, batches) = self.samples();
        let plan = move |_| Ok(batches.clone());
        let config = TrainingConfig {
            max_steps: Some(10),
            gradient_accumulation: self.number("micro_batches"),
            learning_rate,
            warmup_ratio: 0.0,
            scheduler: Scheduler::Constant,
            logging_steps: 1,
            ..TrainingConfig::default()
        };
        let steps = Steps::default();
        let mut listener = &steps;
        Trainer::new(config, model, parameters, Dataset::new(&samples, &plan))
            .unwrap()
            .with_listener(&mut listener)
            .run(Resume::No)
            .unwrap();
        steps
    }

    pub(crate) fn check_tensors(&self, what: &str, found: &BTreeMap<String, Tensor>, tolerance: f64) {
        let prefix = format!("{what}.");
        let expected: Vec<String> =
            self.tensors.names().into_iter().filter(|name| name.starts_with(&prefix)).collect();
        assert!(!expected.is_empty(), "{}: no {what} tensors", self.name);
        let mut worst = 0.0_f64;
        for name in &expected {
            let key = &name[prefix.len()..];
            let value = found.get(key).unwrap_or_else(|| panic!("{}: no {what} for {key}", self.name));
            let expected = self.tensors.get(name);
            // Of an adapter that changed its base PEFT keeps what is the first half of what is kept here.
            let value = (0..)
                .zip(expected.size())
                .fold(value.shallow_clone(), |value, (dim, size)| value.narrow(dim, 0, size));
            let error = relative_to_norm(&value, &expected);
            assert!(error < tolerance, "{} {name}: {error:e}", self.name);
            worst = worst.max(error);
        }
        println!("{}: {} {what} tensors, largest error {worst:.1e}", self.name, expected.len());
    }
}

/// A model in which all weights train, and what trains.
fn full(case: &Case) -> (Box<dyn CausalLm>, Parameters) {
    let mut builder = Trainable::new();
    let model = case.open().load(&case.options(), &mut builder).unwrap();
    (model, builder.finish())
}

/// Trained tensors under the names of transformers 5, where experts are stacked.
fn in_new_layout(folder: &AutoCausalLm, of: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let mut tensors: BTreeMap<String, Tensor> =
        of.iter().map(|(name, t)| (name.clone(), t.shallow_clone())).collect();
    let mut stacks: BTreeMap<String, Vec<(i64, i64, Tensor)>> = BTreeMap::new();
    for spec in folder.weights() {
        let Some(alias) = spec.alias.filter(|_| spec.role != Role::Embedding) else { continue };
        let tensor = tensors.remove(&spec.name).unwrap();
        match alias.slice {
            None => drop(tensors.insert(alias.name, tensor)),
            Some((expert, rows)) => stacks.entry(alias.name).or_default().push((expert, rows.start, tensor)),
        }
    }
    for (name, mut slices) in stacks {
        slices.sort_by_key(|&(expert, row, _)| (expert, row));
        let experts: Vec<Tensor> = slices
            .chunk_by(|a, b| a.0 == b.0)
            .map(|parts| Tensor::cat(&parts.iter().map(|(.., t)| t.shallow_clone()).collect::<Vec<_>>(), 0))
            .collect();
        tensors.insert(name, Tensor::stack(&experts, 0));
    }
    tensors
}

fn parameters_by_name(parameters: &Parameters, of: impl Fn(&Tensor) -> Tensor) -> BTreeMap<String, Tensor> {
    parameters.iter().map(|trained| (trained.name.clone(), of(&trained.tensor))).collect()
}

#[test]
fn adapters_written_by_peft_give_its_logits() {
    for case in Case::all() {
        let Some(weights) = case.adapter() else { continue };
        let Adapted { model, .. } =
            adapt(&case.open(), Start::From(&weights), Dense, &case.options()).unwrap();
        let mask = case.tensors.get("attention_mask.0");
        let lengths: Vec<i64> = mask.sum_dim_intlist(1, false, Kind::Int64).try_into().unwrap();
        let ids = case.tensors.get("input_ids.0");
        let hidden = model.hidden(&Tokens::padded(&ids, &lengths), None, &Pass::eval()).unwrap();
        let found = model.logits(&hidden.states, &Pass::eval()).unwrap() * mask.unsqueeze(-1);
        let error = relative_to_largest(&found, &case.tensors.get("logits"));
        println!("{}: {error:.1e}", case.name);
        assert!(error < LOGITS, "{}: {error:e}", case.name);
    }
}

#[test]
fn gradients_equal_the_reference_with_and_without_recomputation() {
    for case in Case::all() {
        for recompute in [ferrotune::nn::seam::Recompute::Nothing, ferrotune::nn::seam::Recompute::Blocks] {
            let pass = Pass::train().with_recompute(recompute);
            let gradients = match case.adapter() {
                Some(weights) => {
                    let Adapted { model, adapter } =
                        adapt(&case.open(), Start::From(&weights), Dense, &case.options()).unwrap();
                    case.backward(model.as_ref(), &pass);
                    adapter.gradients().unwrap()
                }
                None => {
                    let (model, parameters) = full(&case);
                    case.backward(model.as_ref(), &pass);
                    in_new_layout(&case.open(), &parameters_by_name(&parameters, Tensor::grad))
                }
            };
            case.check_tensors("grad", &gradients, GRADIENTS);
        }
    }
}

/// Keeps every step's loss and gradient norm.
#[derive(Default)]
pub(crate) struct Steps {
    pub(crate) losses: RefCell<Vec<f64>>,
    pub(crate) norms: RefCell<Vec<f64>>,
}

impl Listener for &Steps {
    fn on(&mut self, event: &Event<'_>) -> Result<(), ferrotune::core::BoxError> {
        if let Event::Stepped(step) = event {
            self.losses.borrow_mut().push(step.loss + step.auxiliary_loss.unwrap_or(0.0));
            self.norms.borrow_mut().push(step.grad_norm);
        }
        Ok(())
    }
}

#[test]
fn ten_steps_of_the_trainer_equal_ten_steps_of_the_reference() {
    let mut compared = 0;
    for case in Case::all().into_iter().filter(|case| case.number("steps") == 10) {
        let adapted = case
            .adapter()
            .map(|weights| adapt(&case.open(), Start::From(&weights), Dense, &case.options()).unwrap());
        let (model, parameters, adapter) = match adapted {
            Some(Adapted { model, adapter }) => (model, adapter.parameters().clone(), Some(adapter)),
            None => {
                let (model, parameters) = full(&case);
                (model, parameters, None)
            }
        };
        let steps = case.ten_steps(model.as_ref(), &parameters, if adapter.is_some() { 1e-2 } else { 1e-3 });
        let check = |what: &str, found: &[f64], expected: &[f64]| {
            assert_eq!(found.len(), expected.len(), "{} {what}", case.name);
            for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
                let error = (found / expected - 1.0).abs();
                assert!(error < TEN_STEPS, "{} {what} of step {step}: {found} against {expected}", case.name);
            }
        };
        let losses = steps.losses.borrow();
        check("loss", &losses, &case.list("losses"));
        check("gradient norm", &steps.norms.borrow(), &case.list("grad_norms"));
        assert!(
            losses[0] - losses[9] > FALL,
            "{}: the loss fell from {} to {} only",
            case.name,
            losses[0],
            losses[9]
        );
        let trained = match &adapter {
            Some(adapter) => {
                let weights = adapter.weights().unwrap();
                weights.tensors().iter().map(|(key, tensor)| (key.clone(), tensor.shallow_clone())).collect()
            }
            None => in_new_layout(&case.open(), &parameters_by_name(&parameters, |t| t.detach())),
        };
        case.check_tensors("final", &trained, TEN_STEPS);
        compared += 1;
    }
    assert_eq!(compared, 20, "a ten-step case was lost or added");
}

#[test]
fn merged_checkpoints_equal_the_reference() {
    let facts = golden::json("training/training.json");
    let Value::Object(merged) = &facts["merged"] else { panic!("no merged adapters") };
    for name in merged.keys() {
        let model = facts["cases"][name]["model"].as_str().unwrap();
        let folder = AutoCausalLm::open(&golden::folder().join("models").join(model)).unwrap();
        let adapter = AdapterWeights::open(&golden::folder().join("adapters").join(name)).unwrap();
        let output = tempfile::tempdir().unwrap();
        merge(&folder, &[&adapter], &MergeOptions::default(), output.path()).unwrap();
        let written = Checkpoint::open(output.path()).unwrap();
        let by_name = written.names().into_iter().map(|n| (n.clone(), written.read(&n).unwrap())).collect();
        let expected = Tensors::open(&format!("merged/{name}.safetensors"));
        let stacked = matches!(folder.architecture(), Architecture::Mixtral(_)) && name.contains("flat");
        let found = if stacked { in_new_layout(&folder, &by_name) } else { by_name };
        for tensor in expected.names() {
            let error = relative_to_norm(&found[&tensor], &expected.get(&tensor));
            assert!(error < MERGED, "{name} {tensor}: {error:e}");
        }
    }
}

//! The fused step is AdamW: by derivation, and as torch.optim.AdamW has it.

use ferrotune_torch::{AdamW, Error, fused_adamw};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::functions::{normal, values};

/// The kernel and the derivation order a dozen f64 operations differently.
const F64_TOLERANCE: f64 = 1e-13;
/// f32 through ten steps: the fused kernel and torch's plain one round in another order, about one unit in the last
/// place (6e-8) per step of a number of order 1.
const F32_TOLERANCE: f64 = 1e-6;

/// The optimizer's state for parameters, before the first step.
struct State {
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl State {
    fn new(params: &[Tensor]) -> Self {
        let zeros = || params.iter().map(Tensor::zeros_like).collect();
        let steps = params.iter().map(|_| Tensor::zeros([], (Kind::Float, Device::Cpu))).collect();
        Self { exp_avgs: zeros(), exp_avg_sqs: zeros(), steps }
    }

    fn step(&self, params: &[Tensor], grads: &[Tensor], options: &AdamW) -> Result<(), Error> {
        fused_adamw(params, grads, &self.exp_avgs, &self.exp_avg_sqs, &self.steps, options)
    }
}

#[test]
fn five_steps_equal_the_published_algorithm() {
    let options = AdamW { lr: 0.05, beta1: 0.8, beta2: 0.9, eps: 1e-6, weight_decay: 0.3 };
    let params = [normal(&[2, 3], 1), normal(&[4], 2)];
    let state = State::new(&params);
    // Loshchilov and Hutter, algorithm 2, on plain numbers.
    let mut expected: Vec<Vec<f64>> = params.iter().map(values).collect();
    let mut moments: Vec<Vec<(f64, f64)>> = expected.iter().map(|p| vec![(0.0, 0.0); p.len()]).collect();
    for step in 1..=5u64 {
        let grads = [normal(&[2, 3], 10 + step), normal(&[4], 20 + step)];
        state.step(&params, &grads, &options).unwrap();
        let (bias1, bias2) = (1.0 - options.beta1.powi(step as i32), 1.0 - options.beta2.powi(step as i32));
        for ((theta, moments), grad) in expected.iter_mut().zip(&mut moments).zip(&grads) {
            for ((theta, (m, v)), g) in theta.iter_mut().zip(moments).zip(values(grad)) {
                *m = options.beta1 * *m + (1.0 - options.beta1) * g;
                *v = options.beta2 * *v + (1.0 - options.beta2) * g * g;
                *theta -= options.lr * options.weight_decay * *theta;
                *theta -= options.lr * (*m / bias1) / ((*v / bias2).sqrt() + options.eps);
            }
        }
        assert!(state.steps.iter().all(|count| count.double_value(&[]) == step as f64));
    }
    for (param, expected) in params.iter().zip(&expected) {
        for (ours, theirs) in values(param).into_iter().zip(expected) {
            assert!((ours - theirs).abs() < F64_TOLERANCE, "{ours} {theirs}");
        }
    }
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

#[test]
fn ten_steps_equal_those_of_torch_optim() {
    let golden: Value = serde_json::from_str(include_str!("../golden/adamw.json")).unwrap();
    let shapes: Vec<Vec<i64>> = serde_json::from_value(golden["shapes"].clone()).unwrap();
    let tensors = |values: &Value| -> Vec<Tensor> {
        let values = values.as_array().unwrap().iter().zip(&shapes);
        values.map(|(values, shape)| Tensor::from_slice(&numbers(values)).reshape(shape)).collect()
    };
    let option = |name: &str| golden["options"][name].as_f64().unwrap();
    let options = AdamW {
        lr: option("lr"),
        beta1: option("beta1"),
        beta2: option("beta2"),
        eps: option("eps"),
        weight_decay: option("weight_decay"),
    };
    // As in training, the parameters are leaves that ask for gradients.
    let params: Vec<Tensor> =
        tensors(&golden["start"]).into_iter().map(|param| param.set_requires_grad(true)).collect();
    let state = State::new(&params.iter().map(Tensor::detach).collect::<Vec<_>>());
    let steps = golden["gradients"].as_array().unwrap().iter().zip(golden["expected"].as_array().unwrap());
    let mut count = 0;
    for (grads, expected) in steps {
        state.step(&params, &tensors(grads), &options).unwrap();
        for (param, expected) in params.iter().zip(tensors(expected)) {
            let difference = (param.detach() - expected).abs().max().double_value(&[]);
            assert!(difference < F32_TOLERANCE, "step {count}: {difference}");
        }
        count += 1;
    }
    assert_eq!(count, 10);
    assert!(params.iter().all(|param| param.is_leaf() && param.requires_grad()));
}

#[test]
fn lists_that_do_not_fit_are_refused_before_anything_changes() {
    let params = [normal(&[2, 3], 1)];
    let before = values(&params[0]);
    let state = State::new(&params);
    let options = AdamW::default();
    let check = |grads: &[Tensor], text: &str| {
        let error = state.step(&params, grads, &options).unwrap_err();
        assert_eq!(error.to_string(), text);
        assert_eq!(values(&params[0]), before);
        assert_eq!(state.steps[0].double_value(&[]), 0.0);
    };
    check(&[], "the optimizer step has 1 parameters and 0 gradients, expected as many");
    check(&[normal(&[3, 2], 1)], "gradient 0 of the optimizer step has shape [3, 2], expected [2, 3]");
    check(
        &[normal(&[3, 2], 1).tr()],
        "gradient 0 of the optimizer step is not contiguous, expected a contiguous tensor",
    );
    check(
        &[normal(&[2, 3], 1).to_kind(Kind::Float)],
        "gradient 0 of the optimizer step has type Float, expected Double",
    );
    check(&[Tensor::new()], "gradient 0 of the optimizer step is undefined, expected a tensor");
    let bad = State { steps: vec![Tensor::zeros([], (Kind::Int64, Device::Cpu))], ..State::new(&params) };
    let error = bad.step(&params, &[normal(&[2, 3], 1)], &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "step count 0 of the optimizer step is Int64[] on Cpu, expected one Float on Cpu"
    );
}

#[test]
fn a_step_without_parameters_does_nothing() {
    State::new(&[]).step(&[], &[], &AdamW::default()).unwrap();
}

#[test]
fn a_step_counts_as_a_change_in_place() {
    let params = [normal(&[2, 3], 1).set_requires_grad(true), normal(&[4], 2)];
    let state = State::new(&params);
    let changed = || params.iter().chain(&state.exp_avgs).chain(&state.exp_avg_sqs).chain(&state.steps);
    let before: Vec<i64> = changed().map(Tensor::internal_version).collect();
    let grads = [normal(&[2, 3], 3), normal(&[4], 4)];
    state.step(&params, &grads, &AdamW::default()).unwrap();
    for (tensor, before) in changed().zip(before) {
        assert!(tensor.internal_version() > before);
    }
    // A graph that saved the parameter refuses to run backward over what it no longer is.
    let square = params[0].square().sum(Kind::Double);
    state.step(&params, &grads, &AdamW::default()).unwrap();
    assert!(ferrotune_torch::backward(&[(&square, None)]).is_err());
}

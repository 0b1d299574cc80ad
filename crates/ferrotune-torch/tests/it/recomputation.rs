//! A backward pass may run a forward pass with recording on and differentiate it.

use std::sync::Arc;

use ferrotune_torch::{BoxError, Error, Forward, Function, apply, backward, grad, with_grad};
use tch::{Kind, Tensor};

use crate::functions::{Gradients, closures, doubling, largest_difference, normal, values};

type Block = Arc<dyn Fn(&[Tensor]) -> Result<Tensor, BoxError> + Send + Sync>;

/// Keeps a block's inputs instead of its activations and runs it again in the backward pass.
struct Recomputed {
    block: Block,
}

impl Function for Recomputed {
    fn name(&self) -> &str {
        "recomputed"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError> {
        let output = (self.block)(inputs)?;
        Ok(Forward { outputs: vec![output], saved: inputs.iter().map(Tensor::shallow_clone).collect() })
    }

    fn backward(&self, saved: &[Tensor], grads: &[Option<Tensor>], needs: &[bool]) -> Gradients {
        let inputs: Vec<Tensor> = saved
            .iter()
            .zip(needs)
            .map(|(tensor, needed)| tensor.detach().set_requires_grad(*needed))
            .collect();
        let output = with_grad(true, || (self.block)(&inputs))?;
        let wanted: Vec<&Tensor> = inputs.iter().filter(|input| input.requires_grad()).collect();
        let mut found = grad(&[(&output, grads[0].as_ref())], &wanted, true)?.into_iter();
        Ok(needs.iter().map(|needed| needed.then(|| found.next().flatten()).flatten()).collect())
    }
}

/// `tanh(x w₁) w₂ + x`.
fn mlp(inputs: &[Tensor]) -> Result<Tensor, BoxError> {
    let hidden = inputs[0].f_matmul(&inputs[1])?.f_tanh()?;
    Ok(hidden.f_matmul(&inputs[2])?.f_add(&inputs[0])?)
}

fn leaves() -> [Tensor; 3] {
    [(4, 3, 1), (3, 8, 2), (8, 3, 3)].map(|(n, m, seed)| normal(&[n, m], seed).set_requires_grad(true))
}

/// The gradients of two blocks in a row, with both blocks applied by `run`.
fn gradients_of_two_blocks(run: impl Fn(&[&Tensor]) -> Tensor) -> Vec<Tensor> {
    let [x, w1, w2] = leaves();
    let y = run(&[&x, &w1, &w2]);
    let z = run(&[&y, &w1, &w2]);
    backward(&[(&z.square().sum(Kind::Double), None)]).unwrap();
    [x, w1, w2].iter().map(Tensor::grad).collect()
}

fn owned(inputs: &[&Tensor]) -> Vec<Tensor> {
    inputs.iter().map(|input| input.shallow_clone()).collect()
}

#[test]
fn recomputed_blocks_have_the_same_gradients_bit_for_bit() {
    let plain = gradients_of_two_blocks(|inputs| mlp(&owned(inputs)).unwrap());
    let function: Arc<dyn Function> = Arc::new(Recomputed { block: Arc::new(mlp) });
    let recomputed = gradients_of_two_blocks(|inputs| apply(function.clone(), inputs).unwrap().remove(0));
    for (a, b) in plain.iter().zip(&recomputed) {
        assert_eq!(largest_difference(a, b), 0.0);
    }
}

#[test]
fn a_recomputed_block_may_hold_recomputed_blocks() {
    let inner: Arc<dyn Function> = Arc::new(Recomputed { block: Arc::new(mlp) });
    let both = move |inputs: &[Tensor]| -> Result<Tensor, BoxError> {
        let y = apply(inner.clone(), &inputs.iter().collect::<Vec<_>>())?.remove(0);
        Ok(apply(inner.clone(), &[&y, &inputs[1], &inputs[2]])?.remove(0))
    };
    let outer: Arc<dyn Function> = Arc::new(Recomputed { block: Arc::new(both) });
    let [x, w1, w2] = leaves();
    let z = apply(outer, &[&x, &w1, &w2]).unwrap().remove(0);
    backward(&[(&z.square().sum(Kind::Double), None)]).unwrap();
    let plain = gradients_of_two_blocks(|inputs| mlp(&owned(inputs)).unwrap());
    for (a, b) in plain.iter().zip([x, w1, w2].iter().map(Tensor::grad)) {
        assert_eq!(largest_difference(a, &b), 0.0);
    }
}

/// libtorch nests 60 passes on one thread and takes another thread for the next ones.
#[test]
fn passes_nest_deeper_than_libtorchs_limit_on_one_thread() {
    const DEPTH: usize = 70;
    let mut block: Block = Arc::new(|inputs: &[Tensor]| Ok(inputs[0].f_mul_scalar(2.0)?));
    for _ in 0..DEPTH {
        let inner: Arc<dyn Function> = Arc::new(Recomputed { block });
        block = Arc::new(move |inputs: &[Tensor]| Ok(apply(inner.clone(), &[&inputs[0]])?.remove(0)));
    }
    let x = normal(&[2], 1).set_requires_grad(true);
    let y = apply(Arc::new(Recomputed { block }), &[&x]).unwrap().remove(0);
    backward(&[(&y.sum(Kind::Double), None)]).unwrap();
    assert_eq!(values(&x.grad()), [2.0, 2.0]);
}

#[test]
fn backward_inside_backward_adds_to_the_leaves_it_reaches() {
    // A weight that the block holds itself gets its gradient from the inner pass; the input's is handed on.
    let weight = normal(&[3, 3], 4).set_requires_grad(true);
    let held = std::sync::Mutex::new(weight.shallow_clone());
    let function = closures(
        "holds_weight",
        |inputs| {
            Ok(Forward {
                outputs: vec![inputs[0].f_mul_scalar(1.0)?],
                saved: vec![inputs[0].shallow_clone()],
            })
        },
        move |saved, grads, _| {
            let x = saved[0].detach().set_requires_grad(true);
            let weight = held.lock().map_err(|error| error.to_string())?;
            let y = with_grad(true, || x.f_matmul(&weight))?;
            backward(&[(&y, grads[0].as_ref())])?;
            Ok(vec![Some(x.grad())])
        },
    );
    let x = normal(&[2, 3], 5).set_requires_grad(true);
    let y = apply(function, &[&x]).unwrap().remove(0);
    backward(&[(&y.sum(Kind::Double), None)]).unwrap();
    let ones = Tensor::ones_like(&x.detach());
    assert!(largest_difference(&weight.grad(), &x.detach().tr().matmul(&ones)) < 1e-13);
    assert!(largest_difference(&x.grad(), &ones.matmul(&weight.detach().tr())) < 1e-13);
}

#[test]
fn an_error_in_an_inner_pass_comes_out_of_the_outer_one_with_both_names() {
    let failing = doubling("inner", |_, _, _| Err("no more memory".into()));
    let block = move |inputs: &[Tensor]| -> Result<Tensor, BoxError> {
        Ok(apply(failing.clone(), &[&inputs[0]])?.remove(0))
    };
    let x = normal(&[2], 1).set_requires_grad(true);
    let y = apply(Arc::new(Recomputed { block: Arc::new(block) }), &[&x]).unwrap().remove(0);
    let error = backward(&[(&y.sum(Kind::Double), None)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "function `recomputed` failed in its backward pass: function `inner` failed in its backward pass: no more memory"
    );
    let Error::Function { source, .. } = error else { panic!("{error}") };
    assert!(matches!(source.downcast_ref(), Some(Error::Function { function, .. }) if function == "inner"));
}

//! Blocks that keep only their input and run again in the backward pass.

use std::{fmt::Debug, sync::Arc};

use ferrotune_torch::{BoxError, Forward, Function, apply, backward, generator, grad_enabled, with_grad};
use tch::Tensor;

use crate::{
    Pass, Result,
    seam::{Mode, Recompute},
};

/// A part of a model that can be run again: implementors provide the context and [`forward`](Self::forward).
pub trait Block: Debug + Send + Sync + 'static {
    /// What the block needs besides its input; nothing in it gets a gradient.
    type Context: Debug + Send + Sync + 'static;

    /// The block's outputs for the input `x`, all differentiable.
    fn forward(&self, x: &Tensor, context: &Self::Context, pass: &Pass) -> Result<Vec<Tensor>>;
}

/// Runs a block as the pass says: keeping what its backward needs, or only its input.
pub fn run_block<B: Block>(
    block: &Arc<B>,
    x: &Tensor,
    context: &Arc<B::Context>,
    pass: &Pass,
) -> Result<Vec<Tensor>> {
    if pass.recompute == Recompute::Nothing || !grad_enabled() {
        return block.forward(x, context, pass);
    }
    // Dropout must draw the same numbers again. Evaluation draws none.
    let generator = (pass.mode == Mode::Train).then(|| generator::state(x.device())).transpose()?;
    let function =
        Again { block: Arc::clone(block), context: Arc::clone(context), pass: pass.clone(), generator };
    // Behind frozen embeddings nothing asks for the gradient of the first block's input, and without that libtorch
    // would record no node and the block's adapters would silently not train.
    if x.requires_grad() {
        Ok(apply(Arc::new(function), &[x])?)
    } else {
        Ok(apply(Arc::new(function), &[&x.f_detach()?.f_set_requires_grad(true)?])?)
    }
}

#[derive(Debug)]
struct Again<B: Block> {
    block: Arc<B>,
    context: Arc<B::Context>,
    pass: Pass,
    generator: Option<Vec<u8>>,
}

impl<B: Block> Again<B> {
    fn recomputed(&self, x: &Tensor, grads: &[Option<Tensor>]) -> Result<Option<Tensor>> {
        let x = x.f_detach()?.f_set_requires_grad(true)?;
        let outputs = with_grad(true, || self.block.forward(&x, &self.context, &self.pass))?;
        let roots: Vec<(&Tensor, Option<&Tensor>)> = outputs
            .iter()
            .zip(grads)
            .filter_map(|(output, grad)| grad.as_ref().map(|grad| (output, Some(grad))))
            .collect();
        // The block's own trainable tensors accumulate their gradients here.
        backward(&roots)?;
        let grad = x.f_grad()?;
        Ok(grad.defined().then_some(grad))
    }
}

impl<B: Block> Function for Again<B> {
    fn name(&self) -> &str {
        "recomputed block"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError> {
        let outputs = self.block.forward(&inputs[0], &self.context, &self.pass)?;
        Ok(Forward { outputs, saved: vec![inputs[0].shallow_clone()] })
    }

    fn backward(
        &self,
        saved: &[Tensor],
        grads: &[Option<Tensor>],
        _: &[bool],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let device = saved[0].device();
        let Some(first) = &self.generator else { return Ok(vec![self.recomputed(&saved[0], grads)?]) };
        let now = generator::state(device)?;
        generator::set_state(device, first)?;
        let gradient = self.recomputed(&saved[0], grads);
        generator::set_state(device, &now)?;
        Ok(vec![gradient?])
    }
}

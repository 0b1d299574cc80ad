use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::ffi;

/// The numbers of an AdamW step.
///
/// *Source*: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2, as `torch.optim.AdamW` has it
/// (the decay is scaled by the learning rate).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay rate of the first moment, in `[0, 1)`.
    pub beta1: f64,
    /// Decay rate of the second moment, in `[0, 1)`.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay: each step multiplies a parameter by `1 - lr · weight_decay`.
    pub weight_decay: f64,
}

/// `torch.optim.AdamW`'s numbers, except for the decay, which is 0 as fine-tuning has it.
impl Default for AdamW {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// Takes one whole AdamW step, in place, with libtorch's fused kernel: counts the step, decays, updates the moments and
/// the parameters.
///
/// The lists run in parallel. `exp_avgs` and `exp_avg_sqs` are the first and second moments, zeros before the first
/// step. `steps` are `f32` tensors of one element: the number of steps taken so far, 0 before the first. **This call
/// adds 1 to each.** All tensors of one call are on one device; parameters, gradients and moments have equal shapes and
/// types and are contiguous.
///
/// A parameter may require a gradient; nothing is recorded. Versions of what changed go up, as with every operation in
/// place: a backward pass that saved a parameter notices, and so does what is computed once per step.
///
/// # Errors
///
/// [`Error::ListLength`] and [`Error::OptimizerTensor`] before anything is changed, and libtorch's own.
pub fn fused_adamw(
    params: &[Tensor],
    grads: &[Tensor],
    exp_avgs: &[Tensor],
    exp_avg_sqs: &[Tensor],
    steps: &[Tensor],
    options: &AdamW,
) -> Result<()> {
    for (what, list) in [
        ("gradients", grads),
        ("first moments", exp_avgs),
        ("second moments", exp_avg_sqs),
        ("step counts", steps),
    ] {
        if list.len() != params.len() {
            return Err(Error::ListLength { what, parameters: params.len(), found: list.len() });
        }
    }
    for (index, param) in params.iter().enumerate() {
        require_like("parameter", index, param, param)?;
        require_like("gradient", index, &grads[index], param)?;
        require_like("first moment", index, &exp_avgs[index], param)?;
        require_like("second moment", index, &exp_avg_sqs[index], param)?;
        require_step(index, &steps[index], param)?;
    }
    if params.is_empty() {
        Ok(())
    } else {
        ffi::fused_adamw(params, grads, exp_avgs, exp_avg_sqs, steps, options)
    }
}

/// The fused kernel walks raw storage from end to end and checks none of this itself.
fn require_like(what: &'static str, index: usize, tensor: &Tensor, param: &Tensor) -> Result<()> {
    let fail =
        |problem: String, expected: String| Err(Error::OptimizerTensor { what, index, problem, expected });
    if !tensor.defined() {
        return fail("is undefined".to_owned(), "a tensor".to_owned());
    }
    if tensor.size() != param.size() {
        return fail(format!("has shape {:?}", tensor.size()), format!("{:?}", param.size()));
    }
    if tensor.kind() != param.kind() {
        return fail(format!("has type {:?}", tensor.kind()), format!("{:?}", param.kind()));
    }
    if tensor.device() != param.device() {
        return fail(format!("is on {:?}", tensor.device()), format!("{:?}", param.device()));
    }
    if !tensor.is_contiguous() {
        return fail("is not contiguous".to_owned(), "a contiguous tensor".to_owned());
    }
    Ok(())
}

fn require_step(index: usize, step: &Tensor, param: &Tensor) -> Result<()> {
    if step.defined() && step.numel() == 1 && step.kind() == Kind::Float && step.device() == param.device() {
        return Ok(());
    }
    let problem = if step.defined() {
        format!("is {:?}{:?} on {:?}", step.kind(), step.size(), step.device())
    } else {
        "is undefined".to_owned()
    };
    let expected = format!("one Float on {:?}", param.device());
    Err(Error::OptimizerTensor { what: "step count", index, problem, expected })
}

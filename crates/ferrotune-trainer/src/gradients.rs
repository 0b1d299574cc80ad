//! The gradients of a step: that they are there, how large they are, and clipping.

use ferrotune_nn::{Gradient, Parameters};
use ferrotune_torch::backward;
use tch::{Kind, Tensor};

use crate::{Error, Result};

/// What `torch.nn.utils.clip_grad_norm_` adds to the norm before it divides by it.
const CLIP_EPSILON: f64 = 1e-6;

/// The gradients that a window has accumulated, in the parameters' order.
///
/// Nothing only for an expert that no token has ever been routed to. Gradients are set to zero between steps, not
/// freed, so an expert that a window leaves out has a gradient of zeros from then on, as a stacked tensor of all
/// experts would give it.
///
/// # Errors
/// [`Error::UndefinedGradient`] for any other tensor without one.
pub(crate) fn gather(parameters: &Parameters, step: u64) -> Result<Vec<Option<Tensor>>> {
    parameters
        .iter()
        .map(|trained| {
            let gradient = trained.tensor.f_grad()?;
            match (gradient.defined(), trained.gradient) {
                // The fused optimizer step walks raw storage.
                (true, _) if gradient.is_contiguous() => Ok(Some(gradient)),
                (true, _) => Ok(Some(gradient.f_contiguous()?)),
                (false, Gradient::WhenRouted) => Ok(None),
                (false, Gradient::EveryStep) => {
                    Err(Error::UndefinedGradient { tensor: trained.name.clone(), step })
                }
            }
        })
        .collect()
}

/// The norm of all gradients taken together: a tensor of one element, 32 bits, still on the device.
///
/// The norm of the tensors' norms, as `torch.nn.utils.clip_grad_norm_` computes it.
pub(crate) fn global_norm(gradients: &[Option<Tensor>]) -> Result<Tensor> {
    let norms = gradients
        .iter()
        .flatten()
        .map(|gradient| Ok(gradient.f_norm_scalaropt_dtype(2.0, Kind::Float)?))
        .collect::<Result<Vec<_>>>()?;
    if norms.is_empty() {
        return Ok(Tensor::from(0f32));
    }
    Ok(Tensor::f_stack(&norms, 0)?.f_norm_scalaropt_dtype(2.0, Kind::Float)?)
}

/// Scales the gradients so that their norm is at most `limit`; 0 leaves them alone.
///
/// `norm` is what [`global_norm`] gave and `measured` the same on the host: known to be within the limit, it saves a
/// multiplication by one.
pub(crate) fn clip(gradients: &[Option<Tensor>], norm: &Tensor, measured: f64, limit: f64) -> Result<()> {
    if limit == 0.0 || measured + CLIP_EPSILON <= limit {
        return Ok(());
    }
    let scale = (norm.f_add_scalar(CLIP_EPSILON)?.f_reciprocal()? * limit).f_clamp_max(1.0)?;
    for gradient in gradients.iter().flatten() {
        let _ = gradient.shallow_clone().f_mul_(&scale)?;
    }
    Ok(())
}

/// The first tensor whose gradient has an element that is no finite number, or, where each element is finite and only
/// the norm overflows, the one with the largest.
pub(crate) fn first_non_finite(parameters: &Parameters, gradients: &[Option<Tensor>]) -> Result<String> {
    let mut largest = (f64::NEG_INFINITY, String::new());
    for (trained, gradient) in parameters.iter().zip(gradients) {
        let Some(gradient) = gradient else { continue };
        let peak = gradient.f_abs()?.f_max()?.f_double_value(&[])?;
        if !peak.is_finite() {
            return Ok(trained.name.clone());
        }
        if peak > largest.0 {
            largest = (peak, trained.name.clone());
        }
    }
    Ok(largest.1)
}

/// Sets all gradients to zero.
pub(crate) fn zero(parameters: &Parameters) -> Result<()> {
    for trained in parameters {
        let mut gradient = trained.tensor.f_grad()?;
        if gradient.defined() {
            let _ = gradient.f_zero_()?;
        }
    }
    Ok(())
}

/// Gives a tensor a gradient of zeros, as it had when the run was interrupted.
pub(crate) fn define(tensor: &Tensor) -> Result<()> {
    if !tensor.f_grad()?.defined() {
        let alias = tensor.f_view_as(tensor)?;
        backward(&[(&alias, Some(&tensor.f_detach()?.f_zeros_like()?))])?;
    }
    Ok(())
}

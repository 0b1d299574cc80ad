//! Root-mean-square normalization.

use tch::{Kind, Tensor};

use crate::{Parameter, Result};

/// `x / sqrt(mean(x²) + eps) · weight` over the last dimension, computed in 32 bits and rounded before the weight is
/// applied, as transformers' `LlamaRMSNorm` does; libtorch's `rms_norm` rounds after, which differs in 16 bits.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Parameter,
    epsilon: f64,
}

impl RmsNorm {
    /// A normalization with the scale `weight` of `[hidden]`.
    #[must_use]
    pub fn new(weight: Parameter, epsilon: f64) -> Self {
        Self { weight, epsilon }
    }

    /// `[.., hidden]` to `[.., hidden]` in the type of `x`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.tensor().f_to_kind(x.kind())?;
        let wide = x.f_to_kind(Kind::Float)?;
        let mean_square = wide.f_square()?.f_mean_dim(-1, true, Kind::Float)?; // [.., 1]
        let normal = wide.f_mul(&mean_square.f_add_scalar(self.epsilon)?.f_rsqrt()?)?;
        Ok(weight.f_mul(&normal.f_to_kind(x.kind())?)?)
    }
}

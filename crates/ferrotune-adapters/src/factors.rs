//! A product of low rank: the only place that knows what an adapter adds.

use ferrotune_nn::{
    Mode, Pass, Projection, Result as ModelResult,
    seam::{FrozenProjection, differentiable_product},
};
use ferrotune_torch::SharedTensor;
use tch::{Device, Kind, Tensor};

use crate::{
    Init, Result,
    dora::{Magnitude, Rows},
};

/// `s · B A`, with an optional bias `s · b`; forward, merge and unmerge all come here.
#[derive(Debug)]
pub(crate) struct Factors {
    pub(crate) a: SharedTensor,            // [rank, in]
    pub(crate) b: SharedTensor,            // [out, rank]
    pub(crate) bias: Option<SharedTensor>, // [out]
    pub(crate) scaling: f64,
}

impl Factors {
    /// What is added to the output for the input `x`, in the factors' type: `[.., in]` to `[.., out]`.
    pub(crate) fn output(&self, x: &Tensor) -> ModelResult<Tensor> {
        let inner = x.f_linear::<Tensor>(&self.a, None)?; // [.., rank]
        Ok(inner.f_linear(&self.b, self.bias.as_deref())?.f_mul_scalar(self.scaling)?)
    }

    /// What is added to the weight, `[out, in]`.
    pub(crate) fn weight(&self) -> Result<Tensor> {
        Ok(self.b.f_matmul(&self.a)?.f_mul_scalar(self.scaling)?)
    }
}

/// Whether elements are dropped in this pass.
pub(crate) fn drops(dropout: f64, pass: &Pass) -> bool {
    dropout > 0.0 && pass.mode == Mode::Train
}

/// The input of a product of low rank: `x` in the factors' type, with elements dropped in training.
pub(crate) fn dropped(x: &Tensor, kind: Kind, dropout: f64, pass: &Pass) -> ModelResult<Tensor> {
    let x = x.f_to_kind(kind)?;
    Ok(if drops(dropout, pass) { x.f_dropout(dropout, true)? } else { x })
}

/// A frozen linear map with a product of low rank added.
#[derive(Debug)]
pub(crate) struct AdaptedProjection {
    pub(crate) base: FrozenProjection,
    pub(crate) factors: Factors,
    /// With DoRA.
    pub(crate) magnitude: Option<Magnitude>,
    pub(crate) kind: Kind,
    pub(crate) dropout: f64,
}

impl Projection for AdaptedProjection {
    fn forward(&self, x: &Tensor, pass: &Pass) -> ModelResult<Tensor> {
        let input = dropped(x, self.kind, self.dropout, pass)?;
        let sum = match &self.magnitude {
            // Added in the wider of both types.
            None => self.base.forward(x, pass)?.f_add(&self.factors.output(&input)?)?,
            Some(magnitude) => self.scaled(magnitude, x, &input, pass)?,
        };
        Ok(sum.f_to_kind(x.kind())?)
    }
}

impl AdaptedProjection {
    /// `g (W x + s·BA x) + bias` with `g = m / ‖W + s·BA‖`. Where elements of the added product's input are dropped, PEFT
    /// scales what the base makes of that input, too: `W x + (g - 1) W x' + g s·BA x' + bias`.
    fn scaled(&self, magnitude: &Magnitude, x: &Tensor, input: &Tensor, pass: &Pass) -> ModelResult<Tensor> {
        let Factors { a, b, scaling, .. } = &self.factors;
        let matrix = self.base.matrix();
        let scale = magnitude
            .scale(a, b, *scaling, || Rows::of(&**matrix).times(a))
            .map_err(|error| error.at("DoRA"))?; // [out]
        let base = differentiable_product(matrix, x, None)?; // [.., out]
        let added = self.factors.output(input)?; // [.., out]
        let sum = if drops(self.dropout, pass) {
            let of_dropped = differentiable_product(matrix, &input.f_to_kind(x.kind())?, None)?;
            of_dropped.f_add(&added)?.f_mul(&scale)?.f_sub(&of_dropped)?.f_add(&base)?
        } else {
            base.f_add(&added)?.f_mul(&scale)?
        };
        Ok(match self.base.bias() {
            Some(bias) => sum.f_add(bias)?,
            None => sum,
        })
    }
}

/// Which factor, and the shape of one of it: `[rank, in]` or `[out, rank]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factor {
    A,
    B,
}

/// A fresh factor of the given shape, whose last dimension is what it multiplies, from libtorch's default generator on
/// the CPU.
pub(crate) fn fresh(init: &Init, factor: Factor, shape: &[i64], rank: i64) -> Result<Tensor> {
    let mut tensor = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
    // Kaiming's bound √(6 / ((1 + a²) · fan_in)) with a = √5.
    let bound = (1.0 / shape[shape.len() - 1] as f64).sqrt();
    Ok(match (init, factor) {
        (Init::Gaussian, Factor::A) => tensor.f_normal_(0.0, 1.0 / rank as f64)?,
        (Init::Random, _) | (_, Factor::A) => tensor.f_uniform_(-bound, bound)?,
        (_, Factor::B) => tensor.f_zero_()?,
    })
}

impl std::fmt::Display for Factor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::A => "lora_A",
            Self::B => "lora_B",
        })
    }
}

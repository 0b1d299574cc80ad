//! DoRA: rows of an adapted weight scaled to magnitudes that train.
//!
//! `W' = m / ‖W + s·BA‖ · (W + s·BA)`, row by row. As in PEFT the norm counts as a constant in the backward pass, starts
//! as the first magnitude, and leaves out the bias of the base (arXiv:2402.09353, section 4.3).
//!
//! # The norm
//!
//! For a row `w` of the base and a row `b` of B, `‖w + s·bA‖² = ‖w‖² + 2s · b·(w Aᵀ) + s² · b (A Aᵀ) bᵀ`. The first term
//! is computed once. The others cost a product of W with `rank` columns and small matrices, never `[out, in]`, and are
//! computed when A or B have changed: once per optimizer step, whatever the number of micro-batches, and once in
//! evaluation.
//!
//! The sum is formed in 64 bits and the product `W Aᵀ` in 32, whatever the base's type. So with `γ ≈ √in · 6e-8` the
//! relative error of a norm is at most `γ · s · ‖w‖ · Σⱼ |bⱼ| ‖aⱼ‖ / ‖w + s·bA‖²`: rounding, unless the adapter takes
//! nearly all of a row away.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use ferrotune_nn::{GroupedMatrix, Matrix};
use ferrotune_torch::{BoxError, Forward, Function, SharedTensor, with_grad};
use tch::{Kind, Tensor};

use crate::{Result, experts::AdaptedRows};

/// Elements of the base that are made dense at a time.
const CHUNK: i64 = 1 << 22;

/// Keeps the row of a base and an adapter that are both zero at zero.
const SMALLEST_SQUARE: f64 = 1e-38;

/// The magnitudes of the rows of one matrix, `[out]`, or of several experts' matrices, `[slots, out]`.
#[derive(Debug)]
pub(crate) struct Magnitude {
    value: SharedTensor,
    /// ‖W‖² of each row, in 64 bits.
    squares: SharedTensor,
    newest: Mutex<Option<Norms>>,
}

/// Norms, and the versions of A and B that they belong to.
#[derive(Debug)]
struct Norms {
    versions: [i64; 2],
    norms: SharedTensor,
}

impl Magnitude {
    /// Magnitudes over a base whose rows have these [`squares`].
    pub(crate) fn new(value: SharedTensor, squares: Tensor) -> Self {
        Self { value, squares: squares.into(), newest: Mutex::new(None) }
    }

    /// `m / ‖W + s·BA‖`, differentiable with respect to `m`. `base_times_a` is `W Aᵀ` in 32 bits or more.
    pub(crate) fn scale(
        &self,
        a: &Tensor,
        b: &Tensor,
        scaling: f64,
        base_times_a: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let versions = [a.f_internal_version()?, b.f_internal_version()?];
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let norms = match &*newest {
            Some(known) if known.versions == versions => known.norms.clone(),
            _ => {
                let norms = with_grad(false, || norms(&self.squares, a, b, scaling, base_times_a))?;
                let norms = SharedTensor::from(norms.f_to_kind(self.value.kind())?);
                *newest = Some(Norms { versions, norms: norms.clone() });
                norms
            }
        };
        Ok(self.value.f_div(&norms)?)
    }
}

/// ‖W + s·BA‖ of each row, in 64 bits.
pub(crate) fn norms(
    squares: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scaling: f64,
    base_times_a: impl FnOnce() -> Result<Tensor>,
) -> Result<Tensor> {
    let cross = base_times_a()?.f_to_kind(Kind::Double)?; // [.., out, rank]
    let (a, b) = (a.f_detach()?.f_to_kind(Kind::Double)?, b.f_detach()?.f_to_kind(Kind::Double)?);
    let gram = a.f_matmul(&a.f_transpose(-2, -1)?)?; // [.., rank, rank]
    let inner =
        cross.f_mul_scalar(2.0 * scaling)?.f_add(&b.f_matmul(&gram)?.f_mul_scalar(scaling * scaling)?)?;
    let added = inner.f_mul(&b)?.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Double)?; // [.., out]
    Ok(squares.f_add(&added)?.f_clamp_min(SMALLEST_SQUARE)?.f_sqrt()?)
}

/// `weight` with its rows scaled to `magnitude`: what a merge stores.
pub(crate) fn scaled(weight: &Tensor, magnitude: &Tensor) -> Result<Tensor> {
    let wide = weight.f_to_kind(Kind::Double)?;
    let squares = wide.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
    let scale = magnitude.f_to_kind(Kind::Double)?.f_div(&squares.f_clamp_min(SMALLEST_SQUARE)?.f_sqrt()?)?;
    Ok(wide.f_mul(&scale.f_unsqueeze(1)?)?.f_to_kind(weight.kind())?)
}

/// Rows of a base that are made dense in pieces.
pub(crate) struct Rows<'a> {
    count: i64,
    columns: i64,
    read: Box<dyn Fn(Range<i64>) -> Result<Tensor> + 'a>,
}

impl<'a> Rows<'a> {
    /// All rows of `matrix`.
    pub(crate) fn of(matrix: &'a dyn Matrix) -> Self {
        let dims = matrix.dims();
        let read = Box::new(|range| Ok(matrix.rows(range)?));
        Self { count: dims.out_features, columns: dims.in_features, read }
    }

    /// `rows` of one expert's stacked parts.
    pub(crate) fn of_expert(matrix: &dyn GroupedMatrix, expert: i64, rows: Range<i64>) -> Result<Self> {
        let dense = matrix.expert(expert)?.f_narrow(0, rows.start, rows.end - rows.start)?;
        let (count, columns) = dense.size2()?;
        let read =
            Box::new(move |range: Range<i64>| Ok(dense.f_narrow(0, range.start, range.end - range.start)?));
        Ok(Self { count, columns, read })
    }

    /// ‖W‖² of each row, in 64 bits.
    pub(crate) fn squares(&self) -> Result<Tensor> {
        let dims = [1i64].as_slice();
        self.in_chunks(|chunk| {
            Ok(chunk.f_to_kind(Kind::Double)?.f_square()?.f_sum_dim_intlist(dims, false, Kind::Double)?)
        })
    }

    /// `W Aᵀ`, `[rows, rank]`, in the type of A.
    pub(crate) fn times(&self, a: &Tensor) -> Result<Tensor> {
        let transposed = a.f_detach()?.f_tr()?;
        self.in_chunks(|chunk| Ok(chunk.f_to_kind(a.kind())?.f_matmul(&transposed)?))
    }

    /// What `of` makes of each chunk of rows, one below the other.
    fn in_chunks(&self, of: impl Fn(Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let step = (CHUNK / self.columns.max(1)).max(1);
        let starts = (0..self.count).step_by(step as usize);
        let pieces = starts.map(|start| of((self.read)(start..(start + step).min(self.count))?));
        Ok(Tensor::f_cat(&pieces.collect::<Result<Vec<_>>>()?, 0)?)
    }
}

/// Rows of experts scaled by what their expert has for each column: `x_e ∘ g_e`. Written by hand for the reason that
/// the products on experts are.
#[derive(Debug)]
pub(crate) struct RowScale(pub(crate) AdaptedRows);

impl Function for RowScale {
    fn name(&self) -> &str {
        "magnitudes of experts"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError> {
        let [x, scale] = inputs else { return Err("expected x and the scale".into()) };
        let output = x.f_contiguous()?.f_detach_copy()?;
        self.0.for_each(|slot, start, length| {
            let _ = output.f_narrow(0, start, length)?.f_mul_(&scale.f_select(0, slot)?)?;
            Ok(())
        })?;
        Ok(Forward { outputs: vec![output], saved: vec![x.shallow_clone(), scale.shallow_clone()] })
    }

    fn backward(
        &self,
        saved: &[Tensor],
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let [x, scale] = saved else { return Err("expected what forward saved".into()) };
        let Some(grad) = &grads[0] else { return Ok(vec![None, None]) };
        let grad_x = needs[0].then(|| grad.f_detach_copy()).transpose()?;
        let grad_scale = needs[1].then(|| scale.f_zeros_like()).transpose()?;
        self.0.for_each(|slot, start, length| {
            if let Some(grad_x) = &grad_x {
                let _ = grad_x.f_narrow(0, start, length)?.f_mul_(&scale.f_select(0, slot)?)?;
            }
            if let Some(grad_scale) = &grad_scale {
                let product = grad.f_narrow(0, start, length)?.f_mul(&x.f_narrow(0, start, length)?)?;
                let sum = product.f_sum_dim_intlist([0i64].as_slice(), false, product.kind())?;
                grad_scale.f_select(0, slot)?.f_copy_(&sum)?;
            }
            Ok(())
        })?;
        Ok(vec![grad_x, grad_scale])
    }
}

#[cfg(test)]
mod tests {
    // The lint's own exception does not reach the functions that tests share.
    #![allow(clippy::unwrap_used)]

    use ferrotune_nn::Dims;
    use tch::Device;

    use super::*;

    #[derive(Debug)]
    struct InMemory(SharedTensor);

    impl Matrix for InMemory {
        fn dims(&self) -> Dims {
            Dims::new(self.0.size()[0], self.0.size()[1])
        }

        fn product(&self, x: &Tensor, bias: Option<&Tensor>) -> ferrotune_nn::Result<Tensor> {
            Ok(x.f_linear(&self.0, bias)?)
        }

        fn product_transposed(&self, g: &Tensor) -> ferrotune_nn::Result<Tensor> {
            Ok(g.f_matmul(&self.0)?)
        }

        fn rows(&self, range: Range<i64>) -> ferrotune_nn::Result<Tensor> {
            Ok(self.0.f_narrow(0, range.start, range.end - range.start)?)
        }
    }

    /// The bound of the module's essay, with every norm in 64 bits, for a base in bf16 that is made dense in two pieces.
    /// A runs along rows of the base and B takes parts of them away, up to 96 percent of a row.
    #[test]
    fn the_norm_is_as_exact_as_is_said_also_where_the_adapter_cancels_a_row() {
        let (out, width, rank, scaling) = (1030i64, 4100i64, 4i64, 2.0);
        assert!(out * width > CHUNK);
        let pseudo = |rows: i64, columns: i64, step: f64| {
            let indices = Tensor::arange(rows * columns, (Kind::Double, Device::Cpu)) * step;
            (indices.sin() * 43758.5453).frac().view([rows, columns])
        };
        let base = pseudo(out, width, 12.9898).to_kind(Kind::BFloat16);
        let a = base.narrow(0, 0, rank).to_kind(Kind::Float);
        let b = (pseudo(out, rank, 78.233) * 0.3).to_kind(Kind::Float);
        let taken = Tensor::from_slice(&[-0.1f32, -0.3, -0.45, -0.48]).diag(0);
        b.narrow(0, 0, rank).copy_(&taken);
        let matrix = InMemory(base.shallow_clone().into());
        let rows = Rows::of(&matrix);
        let found = norms(&rows.squares().unwrap(), &a, &b, scaling, || rows.times(&a)).unwrap();
        let [w, a, b] = [&base, &a, &b].map(|tensor| tensor.to_kind(Kind::Double));
        let norm = |tensor: &Tensor| tensor.norm_scalaropt_dim(2, [1i64].as_slice(), false);
        let expected = norm(&(&w + b.matmul(&a) * scaling));
        let weight = b.abs().matmul(&norm(&a));
        let gamma = (width as f64).sqrt() * 6e-8;
        let bound = norm(&w) * weight * gamma * scaling / expected.square();
        let error = (&found - &expected).abs() / &expected;
        assert!(error.le_tensor(&bound).all().int64_value(&[]) == 1, "{:?}", (error / bound).max());
        let left: f64 = (expected / norm(&w)).double_value(&[3]);
        assert!((left - 0.04).abs() < 1e-6, "the case is a cancellation: {left}");
    }
}

//! Frozen weights in any storage, and the backward that gives no gradient to them.

use std::sync::Arc;

use ferrotune_torch::{BoxError, Forward, Function, SharedTensor, apply};
use tch::Tensor;

use super::{
    Grouped, GroupedMatrix, GroupedSite, Matrix, Parameter, Pass, Projection, ProjectionBuilder, Role,
    RowGroups, Site, Storage,
};
use crate::{Result, Weights};

/// The builder of models that do not train: every weight frozen, matrices kept by a [`Storage`].
#[derive(Debug)]
pub struct Frozen<S> {
    storage: S,
}

impl<S: Storage> Frozen<S> {
    /// Frozen weights in `storage`.
    pub fn new(storage: S) -> Self {
        Self { storage }
    }

    /// The storage.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// The frozen projection at `at`, for adapters that put something on it.
    pub fn frozen_projection(&mut self, site: &Site, at: &Weights<'_>) -> Result<FrozenProjection> {
        let bias = site.bias.then(|| at.tensor("bias", &[site.dims.out_features])).transpose()?;
        Ok(FrozenProjection::new(self.storage.matrix(site, at)?, bias))
    }

    /// The frozen projections of all experts below `at`, likewise.
    pub fn frozen_group(&mut self, site: &GroupedSite, at: &Weights<'_>) -> Result<FrozenGroup> {
        Ok(FrozenGroup { matrix: self.storage.grouped_matrix(site, at)? })
    }
}

impl<S: Storage> ProjectionBuilder for Frozen<S> {
    fn parameter(&mut self, _role: Role, shape: &[i64], at: &Weights<'_>) -> Result<Parameter> {
        Ok(Parameter::new(at.tensor("weight", shape)?))
    }

    fn projection(&mut self, site: &Site, at: &Weights<'_>) -> Result<Box<dyn Projection>> {
        Ok(Box::new(self.frozen_projection(site, at)?))
    }

    fn grouped(&mut self, site: &GroupedSite, at: &Weights<'_>) -> Result<Box<dyn Grouped>> {
        Ok(Box::new(self.frozen_group(site, at)?))
    }
}

/// A frozen matrix with an optional bias; the bias may train.
#[derive(Debug)]
pub struct FrozenProjection {
    product: Arc<MatrixProduct>,
    bias: Option<SharedTensor>,
}

impl FrozenProjection {
    /// A projection over `matrix`. `bias` is `[out]`.
    pub fn new(matrix: Arc<dyn Matrix>, bias: Option<Tensor>) -> Self {
        Self { product: Arc::new(MatrixProduct { matrix }), bias: bias.map(SharedTensor::from) }
    }

    /// The matrix.
    #[must_use]
    pub fn matrix(&self) -> &Arc<dyn Matrix> {
        &self.product.matrix
    }

    /// The bias, `[out]`.
    #[must_use]
    pub fn bias(&self) -> Option<&SharedTensor> {
        self.bias.as_ref()
    }
}

impl Projection for FrozenProjection {
    fn forward(&self, x: &Tensor, _pass: &Pass) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(x.kind())).transpose()?;
        product(&self.product, x, bias.as_ref())
    }
}

/// The frozen matrices of all experts at a site.
#[derive(Debug)]
pub struct FrozenGroup {
    matrix: Arc<dyn GroupedMatrix>,
}

impl FrozenGroup {
    /// The matrices.
    #[must_use]
    pub fn matrix(&self) -> &Arc<dyn GroupedMatrix> {
        &self.matrix
    }
}

impl Grouped for FrozenGroup {
    fn forward(&self, x: &Tensor, groups: &RowGroups, _pass: &Pass) -> Result<Tensor> {
        let function = GroupProduct { matrix: Arc::clone(&self.matrix), groups: groups.clone() };
        only(apply(Arc::new(function), &[x])?)
    }
}

/// `x Wᵀ (+ bias)` with gradients for `x` and the bias and none for the matrix, in whatever storage it is.
pub fn differentiable_product(matrix: &Arc<dyn Matrix>, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    product(&Arc::new(MatrixProduct { matrix: Arc::clone(matrix) }), x, bias)
}

fn product(function: &Arc<MatrixProduct>, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let function = Arc::clone(function);
    only(match bias {
        None => apply(function, &[x])?,
        Some(bias) => apply(function, &[x, bias])?,
    })
}

/// The single output of a function that has one.
fn only(mut outputs: Vec<Tensor>) -> Result<Tensor> {
    Ok(outputs.swap_remove(0))
}

#[derive(Debug)]
struct MatrixProduct {
    matrix: Arc<dyn Matrix>,
}

impl Function for MatrixProduct {
    fn name(&self) -> &str {
        "product with a frozen matrix"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError> {
        let output = self.matrix.product(&inputs[0], inputs.get(1))?;
        Ok(Forward { outputs: vec![output], saved: Vec::new() })
    }

    fn backward(
        &self,
        _: &[Tensor],
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(grad) = &grads[0] else { return Ok(needs.iter().map(|_| None).collect()) };
        let mut gradients = Vec::with_capacity(needs.len());
        gradients.push(needs[0].then(|| self.matrix.product_transposed(grad)).transpose()?);
        if let Some(&bias) = needs.get(1) {
            let leading: Vec<i64> = (0..grad.dim() as i64 - 1).collect();
            gradients.push(bias.then(|| grad.f_sum_dim_intlist(leading, false, grad.kind())).transpose()?);
        }
        Ok(gradients)
    }
}

#[derive(Debug)]
struct GroupProduct {
    matrix: Arc<dyn GroupedMatrix>,
    groups: RowGroups,
}

impl Function for GroupProduct {
    fn name(&self) -> &str {
        "product with the frozen matrices of experts"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError> {
        let output = self.matrix.product(&inputs[0], &self.groups)?;
        Ok(Forward { outputs: vec![output], saved: Vec::new() })
    }

    fn backward(
        &self,
        _: &[Tensor],
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(grad), true) = (&grads[0], needs[0]) else { return Ok(vec![None]) };
        Ok(vec![Some(self.matrix.product_transposed(grad, &self.groups)?)])
    }
}

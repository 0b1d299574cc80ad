//! Full fine-tuning: every weight is a trainable leaf.

use ferrotune_torch::SharedTensor;
use tch::Tensor;

use super::{Parameter, Pass, Projection, ProjectionBuilder, Role, Site};
use crate::{Decay, Gradient, Parameters, Result, Trained, Weights};

/// The builder of models whose every weight trains. The name of a trained tensor is its name in the checkpoint.
#[derive(Debug, Default)]
pub struct Trainable {
    parameters: Parameters,
}

impl Trainable {
    /// A builder that has built nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All weights that were asked for, in that order.
    #[must_use]
    pub fn finish(self) -> Parameters {
        self.parameters
    }

    fn leaf(&mut self, role: Role, leaf: &str, shape: &[i64], at: &Weights<'_>) -> Result<SharedTensor> {
        let trained = trainable_leaf(role, leaf, shape, at)?;
        let tensor = trained.tensor.clone();
        self.parameters.push(trained);
        Ok(tensor)
    }
}

/// The weight `{at}.{leaf}` as a trainable tensor of its own storage.
pub(crate) fn trainable_leaf(role: Role, leaf: &str, shape: &[i64], at: &Weights<'_>) -> Result<Trained> {
    let tensor = at.tensor(leaf, shape)?.f_detach_copy()?.f_set_requires_grad(true)?;
    let decay = if role == Role::Norm || leaf == "bias" { Decay::Exempt } else { Decay::Applies };
    let gradient = if role == Role::Expert { Gradient::WhenRouted } else { Gradient::EveryStep };
    Ok(Trained { name: format!("{}.{leaf}", at.path()), tensor: tensor.into(), decay, gradient })
}

impl ProjectionBuilder for Trainable {
    fn parameter(&mut self, role: Role, shape: &[i64], at: &Weights<'_>) -> Result<Parameter> {
        Ok(Parameter::new(self.leaf(role, "weight", shape, at)?))
    }

    fn projection(&mut self, site: &Site, at: &Weights<'_>) -> Result<Box<dyn Projection>> {
        let weight = self.leaf(site.role, "weight", &site.dims.shape(), at)?;
        let bias =
            site.bias.then(|| self.leaf(site.role, "bias", &[site.dims.out_features], at)).transpose()?;
        Ok(Box::new(TrainableProjection::new(weight, bias)))
    }
}

/// A matrix whose weights train.
#[derive(Debug)]
pub struct TrainableProjection {
    weight: SharedTensor,       // [out, in]
    bias: Option<SharedTensor>, // [out]
}

impl TrainableProjection {
    /// A projection with these leaves: `[out, in]` and `[out]`.
    #[must_use]
    pub fn new(weight: SharedTensor, bias: Option<SharedTensor>) -> Self {
        Self { weight, bias }
    }
}

impl Projection for TrainableProjection {
    fn forward(&self, x: &Tensor, _pass: &Pass) -> Result<Tensor> {
        let weight = self.weight.f_to_kind(x.kind())?;
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(x.kind())).transpose()?;
        Ok(x.f_linear(&weight, bias.as_ref())?)
    }
}

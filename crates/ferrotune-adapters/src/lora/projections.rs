//! What stands on a linear map.

use ferrotune_nn::{
    Decay, Dims, Frozen, Gradient, Matrix, Projection, Role, Site, Storage, Weights,
    seam::{FrozenProjection, TrainableProjection},
};
use ferrotune_torch::SharedTensor;
use tch::{Device, Kind, Tensor};

use super::draft::{Draft, keys};
use crate::{
    Adaptation, Bias, Init, Result,
    adapter::Place,
    dora::{Magnitude, Rows, norms},
    factors::{AdaptedProjection, Factor, Factors, fresh},
    files::{self, key},
    init::Residual,
    target::{Decision, Scale, alias},
};

impl Draft {
    pub(super) fn build_projection<S: Storage>(
        &mut self,
        base: &mut Frozen<S>,
        site: &Site,
        at: &Weights<'_>,
    ) -> Result<Box<dyn Projection>> {
        let (path, role, dims) = (at.path(), site.role, site.dims);
        let alias = alias(role, path);
        let decision = self.rules.module(role, path)?;
        if decision == Decision::Saved {
            self.record(path, role, Adaptation::Saved);
            let weight = self.copy(role, "weight", &["weight"], &dims.shape(), at)?;
            let bias = site
                .bias
                .then(|| self.copy(role, "bias", &["bias"], &[dims.out_features], at))
                .transpose()?;
            return Ok(Box::new(TrainableProjection::new(weight, bias)));
        }
        // A module named as a parameter is filed under the name that transformers 5 gives it.
        let by_name = self.parameter_scale(path, alias.as_deref())?;
        let (scale, names): (_, Vec<String>) = match decision {
            Decision::Adapted(scale) => {
                (Some(scale), std::iter::once(path.to_owned()).chain(alias).collect())
            }
            _ => (by_name, alias.into_iter().chain([path.to_owned()]).collect()),
        };
        let taken = match scale {
            Some(scale) => self.derive(base.storage(), site, scale, &names, at)?,
            None => None,
        };
        let taken = taken.map(|taken| (format!("{path}.weight"), taken)).into_iter().collect();
        let mut base = base.frozen_projection(site, &at.with_source(&Residual::new(at.source(), taken)))?;
        let trains_bias = site.bias
            && (self.config.bias == Bias::All || self.config.bias == Bias::LoraOnly && scale.is_some());
        if trains_bias {
            // PEFT's wrapper puts the base one step deeper.
            let saved_as: &[&str] =
                if scale.is_some() { &["base_layer.bias", "bias"] } else { &["bias", "base_layer.bias"] };
            let bias = self.copy(role, "bias", saved_as, &[dims.out_features], at)?;
            base = FrozenProjection::new(base.matrix().clone(), Some(bias.shallow_clone()));
            self.record(path, role, Adaptation::Bias);
        }
        let Some(scale) = scale else { return Ok(Box::new(base)) };
        self.record(path, role, Adaptation::LowRank { rank: scale.rank, scaling: scale.scaling });
        let factors = self.factors(&names, site, scale, at)?;
        let magnitude = if self.config.use_dora {
            Some(self.magnitude(&names, role, &**base.matrix(), &factors, at.device())?)
        } else {
            None
        };
        let (kind, dropout) = (self.kind, self.config.lora_dropout);
        Ok(Box::new(AdaptedProjection { base, factors, magnitude, kind, dropout }))
    }

    fn parameter_scale(&mut self, path: &str, alias: Option<&str>) -> Result<Option<Scale>> {
        for path in alias.into_iter().chain([path]) {
            if let Some(scale) = self.rules.parameter(&format!("{path}.weight"))? {
                return Ok(Some(scale));
            }
        }
        Ok(None)
    }

    /// The product added to the linear map that files call by the first of `names` (and may call by the others).
    fn factors(&mut self, names: &[String], site: &Site, scale: Scale, at: &Weights<'_>) -> Result<Factors> {
        let (Scale { rank, scaling }, dims, device) = (scale, site.dims, at.device());
        let derived = self.take_derived(at.path());
        let gradient = gradient(site.role);
        let factor = |this: &mut Self, factor, shape: [i64; 2]| -> Result<SharedTensor> {
            let value = match (&derived, &mut this.origin) {
                (Some(derived), _) => derived.of(factor).shallow_clone(),
                (None, None) => fresh(&this.config.init_lora_weights, factor, &shape, rank)?,
                (None, Some(taker)) => taker.take(&keys(names, files::leaf(factor)), &shape)?,
            };
            let place = Place::Whole(key(&names[0], files::leaf(factor)));
            let name = format!("{}.{factor}", names[0]);
            let leaf = this.leaf(name, &value, place, Decay::Applies, gradient, device)?;
            let taken = derived.as_ref().and_then(|derived| derived.taken.as_ref());
            this.took(factor, taken.map(|taken| taken.of(factor).clone()));
            Ok(leaf)
        };
        let a = factor(self, Factor::A, [rank, dims.in_features])?;
        let b = factor(self, Factor::B, [dims.out_features, rank])?;
        let bias = self
            .config
            .lora_bias
            .then(|| self.added_bias(names, dims, rank, gradient, device))
            .transpose()?;
        Ok(Factors { a, b, bias, scaling })
    }

    fn added_bias(
        &mut self,
        names: &[String],
        dims: Dims,
        rank: i64,
        gradient: Gradient,
        device: Device,
    ) -> Result<SharedTensor> {
        let shape = [dims.out_features];
        let value = match &mut self.origin {
            None if self.config.init_lora_weights == Init::Random => {
                let bound = (1.0 / rank as f64).sqrt();
                Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?.f_uniform_(-bound, bound)?
            }
            None => Tensor::f_zeros(shape, (Kind::Float, Device::Cpu))?,
            Some(taker) => taker.take(&keys(names, "lora_B.bias"), &shape)?,
        };
        let place = Place::Whole(key(&names[0], "lora_B.bias"));
        let name = format!("{}.lora_B.bias", names[0]);
        self.leaf(name, &value, place, Decay::Exempt, gradient, device)
    }

    /// The magnitudes of the rows of `matrix` with `factors` added: those of the file, or the norms that the rows have.
    fn magnitude(
        &mut self,
        names: &[String],
        role: Role,
        matrix: &dyn Matrix,
        factors: &Factors,
        device: Device,
    ) -> Result<Magnitude> {
        let rows = Rows::of(matrix);
        let Factors { a, b, scaling, .. } = factors;
        let squares = rows.squares()?;
        let value = match &mut self.origin {
            None => norms(&squares, a, b, *scaling, || rows.times(a))?,
            Some(taker) => taker.take(&keys(names, files::MAGNITUDE), &[matrix.dims().out_features])?,
        };
        let place = Place::Whole(key(&names[0], files::MAGNITUDE));
        let name = format!("{}.{}", names[0], files::MAGNITUDE);
        let value = self.leaf(name, &value, place, Decay::Exempt, gradient(role), device)?;
        Ok(Magnitude::new(value, squares))
    }
}

/// An expert built alone is not called while no row reaches it.
fn gradient(role: Role) -> Gradient {
    if role == Role::Expert { Gradient::WhenRouted } else { Gradient::EveryStep }
}

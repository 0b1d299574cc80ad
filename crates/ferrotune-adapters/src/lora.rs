//! The builder: it decides at every place of a model what stands there.

mod groups;

use std::collections::BTreeMap;

use ferrotune_nn::{
    Decay, Dims, Frozen, Gradient, Grouped, GroupedSite, Parameter, Parameters, Projection,
    ProjectionBuilder, Result as ModelResult, Role, Site, Storage, Trained, Weights,
    seam::{FrozenProjection, TrainableProjection},
};
use ferrotune_torch::SharedTensor;
use tch::{Device, Kind, Tensor};

use crate::{
    Adaptation, AdaptedSite, AdapterWeights, Bias, LoraAdapter, LoraConfig, Result,
    adapter::{Entry, Place},
    factors::{AdaptedProjection, Factor, Factors, fresh},
    files::{self, Taker, key},
    target::{Decision, Rules, Scale, alias},
};

/// Builds models with LoRA on frozen weights in any storage.
///
/// What trains is kept in 32 bits whatever the model's type: the added product is computed in it and the sum with the
/// base's output is rounded once.
///
/// ```no_run
/// use ferrotune_adapters::{Lora, LoraConfig};
/// use ferrotune_nn::{Dense, ProjectionBuilder};
///
/// let mut lora = Lora::new(LoraConfig { r: 64, lora_alpha: 16.0, ..LoraConfig::default() }, Dense)?;
/// # fn load(_: &mut dyn ProjectionBuilder) {}
/// load(&mut lora); // a model's constructor
/// let adapter = lora.finish()?;
/// adapter.save("adapter".as_ref())?;
/// # Ok::<(), ferrotune_adapters::Error>(())
/// ```
#[derive(Debug)]
pub struct Lora<S> {
    base: Frozen<S>,
    config: LoraConfig,
    rules: Rules,
    kind: Kind,
    /// Where first values come from; nothing for fresh ones.
    origin: Option<Taker>,
    parameters: Parameters,
    entries: Vec<Entry>,
    sites: Vec<AdaptedSite>,
    /// Stacked parameters adapted so far in each module.
    flat: BTreeMap<String, usize>,
}

impl<S: Storage> Lora<S> {
    /// A new adapter over base weights kept by `storage`. Fresh values follow libtorch's default generator on the CPU.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config), [`Error::Unsupported`](crate::Error::Unsupported) and
    /// [`Error::Pattern`](crate::Error::Pattern).
    pub fn new(config: LoraConfig, storage: S) -> Result<Self> {
        let place = "the LoRA configuration";
        config.check(place)?;
        if let crate::Init::Other(word) = &config.init_lora_weights {
            return Err(crate::Error::Unsupported {
                field: "init_lora_weights".to_owned(),
                place: place.to_owned(),
                found: format!("{word:?}"),
                remedy: "use true, false or gaussian".to_owned(),
            });
        }
        Self::build(config, storage, None)
    }

    /// An adapter with the values of one that was read, to use it or to train it further.
    ///
    /// # Errors
    /// [`Error::Pattern`](crate::Error::Pattern). Tensors that do not fit the model are errors while it is built;
    /// tensors that nobody asked for are one of [`finish`](Self::finish).
    pub fn load(weights: &AdapterWeights, storage: S) -> Result<Self> {
        Self::build(weights.config.clone(), storage, Some(Taker::new(weights)))
    }

    fn build(config: LoraConfig, storage: S, origin: Option<Taker>) -> Result<Self> {
        Ok(Self {
            base: Frozen::new(storage),
            rules: Rules::new(&config)?,
            config,
            kind: Kind::Float,
            origin,
            parameters: Parameters::default(),
            entries: Vec::new(),
            sites: Vec::new(),
            flat: BTreeMap::new(),
        })
    }

    /// Keeps what trains in another type.
    #[must_use]
    pub fn with_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// What matched so far.
    #[must_use]
    pub fn sites(&self) -> &[AdaptedSite] {
        &self.sites
    }

    /// The adapter, after the model was built.
    ///
    /// # Errors
    /// [`Error::NoMatch`](crate::Error::NoMatch) if something that was asked for matched nothing,
    /// [`Error::UnusedTensors`](crate::Error::UnusedTensors) if the file has tensors that the model gave no place to,
    /// [`Error::TiedEmbedding`](crate::Error::TiedEmbedding).
    pub fn finish(self) -> Result<LoraAdapter> {
        self.rules.finish(self.origin.is_some())?;
        if let Some(taker) = &self.origin {
            taker.finish()?;
        }
        let mut config = LoraConfig { target_modules: self.rules.resolved(), ..self.config };
        let on_experts = |site: &AdaptedSite| {
            site.role == Role::Expert && matches!(site.adaptation, Adaptation::LowRank { .. })
        };
        config.hide_dropout(self.sites.iter().any(on_experts));
        for site in &self.sites {
            tracing::debug!(%site, "adapted");
        }
        Ok(LoraAdapter { config, parameters: self.parameters, entries: self.entries, sites: self.sites })
    }

    fn record(&mut self, path: &str, role: Role, adaptation: Adaptation) {
        self.sites.push(AdaptedSite { path: path.to_owned(), role, adaptation });
    }

    /// Makes `value` a trainable leaf of its own storage.
    fn leaf(
        &mut self,
        name: String,
        value: &Tensor,
        place: Place,
        decay: Decay,
        gradient: Gradient,
        device: Device,
    ) -> Result<SharedTensor> {
        let value = value.f_detach()?.f_to_device(device)?.f_to_kind(self.kind)?.f_contiguous()?;
        let tensor = SharedTensor::from(value.f_detach_copy()?.f_set_requires_grad(true)?);
        self.parameters.push(Trained { name, tensor: tensor.clone(), decay, gradient });
        self.entries.push(Entry { tensor: tensor.clone(), place });
        Ok(tensor)
    }

    /// The product added to the linear map that files call by the first of `names` (and may call by the others).
    fn factors(&mut self, names: &[String], site: &Site, scale: Scale, device: Device) -> Result<Factors> {
        let (Scale { rank, scaling }, dims) = (scale, site.dims);
        // An expert built alone is not called while no row reaches it.
        let gradient = if site.role == Role::Expert { Gradient::WhenRouted } else { Gradient::EveryStep };
        let factor = |this: &mut Self, factor, shape: [i64; 2]| {
            let value = match &mut this.origin {
                None => fresh(&this.config.init_lora_weights, factor, &shape, rank)?,
                Some(taker) => taker.take(&keys(names, files::leaf(factor)), &shape)?,
            };
            let place = Place::Whole(key(&names[0], files::leaf(factor)));
            let name = format!("{}.{factor}", names[0]);
            this.leaf(name, &value, place, Decay::Applies, gradient, device)
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
            None if self.config.init_lora_weights == crate::Init::Random => {
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

    /// A full trainable copy of `{at}.{leaf}`; `saved_as` are its names in the file, below the module.
    fn copy(
        &mut self,
        role: Role,
        leaf: &str,
        saved_as: &[&str],
        shape: &[i64],
        at: &Weights<'_>,
    ) -> Result<SharedTensor> {
        // A router that trains in full is filed where transformers 5 has it: PEFT renames factors and nothing else.
        let names: Vec<String> = alias(role, at.path()).into_iter().chain([at.path().to_owned()]).collect();
        let keys: Vec<String> = saved_as.iter().flat_map(|leaf| keys(&names, leaf)).collect();
        let value = match &mut self.origin {
            None => at.tensor(leaf, shape)?,
            Some(taker) => taker.take(&keys, shape)?,
        };
        let decay = if role == Role::Norm || leaf == "bias" { Decay::Exempt } else { Decay::Applies };
        let gradient = if role == Role::Expert { Gradient::WhenRouted } else { Gradient::EveryStep };
        let place = Place::Whole(keys[0].clone());
        self.leaf(format!("{}.{leaf}", at.path()), &value, place, decay, gradient, at.device())
    }

    fn build_parameter(&mut self, role: Role, shape: &[i64], at: &Weights<'_>) -> Result<Parameter> {
        if self.rules.module(role, at.path())? == Decision::Saved {
            self.record(at.path(), role, Adaptation::Saved);
            return Ok(Parameter::new(self.copy(role, "weight", &["weight"], shape, at)?));
        }
        Ok(self.base.parameter(role, shape, at)?)
    }

    fn build_projection(&mut self, site: &Site, at: &Weights<'_>) -> Result<Box<dyn Projection>> {
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
        let mut base = self.base.frozen_projection(site, at)?;
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
        let factors = self.factors(&names, site, scale, at.device())?;
        Ok(Box::new(AdaptedProjection { base, factors, kind: self.kind, dropout: self.config.lora_dropout }))
    }

    fn parameter_scale(&mut self, path: &str, alias: Option<&str>) -> Result<Option<Scale>> {
        for path in alias.into_iter().chain([path]) {
            if let Some(scale) = self.rules.parameter(&format!("{path}.weight"))? {
                return Ok(Some(scale));
            }
        }
        Ok(None)
    }
}

impl<S: Storage> ProjectionBuilder for Lora<S> {
    fn parameter(&mut self, role: Role, shape: &[i64], at: &Weights<'_>) -> ModelResult<Parameter> {
        self.build_parameter(role, shape, at).map_err(|error| error.at(at.path()))
    }

    fn projection(&mut self, site: &Site, at: &Weights<'_>) -> ModelResult<Box<dyn Projection>> {
        self.build_projection(site, at).map_err(|error| error.at(at.path()))
    }

    fn grouped(&mut self, site: &GroupedSite, at: &Weights<'_>) -> ModelResult<Box<dyn Grouped>> {
        self.build_group(site, at).map_err(|error| error.at(at.path()))
    }
}

fn keys(names: &[String], leaf: &str) -> Vec<String> {
    names.iter().map(|name| key(name, leaf)).collect()
}

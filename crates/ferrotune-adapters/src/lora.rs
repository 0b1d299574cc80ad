//! The builder: it decides at every place of a model what stands there.

use std::collections::BTreeMap;

use ferrotune_nn::{
    Decay, Dims, Frozen, Gradient, Grouped, GroupedSite, Parameter, Parameters, Pass, Projection,
    ProjectionBuilder, Result as ModelResult, Role, Site, Storage, Trained, Weights,
    seam::{FrozenProjection, LoopedGroup, TrainableProjection},
};
use ferrotune_torch::SharedTensor;
use tch::{Device, Kind, Tensor};

use crate::{
    Adaptation, AdaptedSite, AdapterWeights, Bias, LoraAdapter, LoraConfig, Result,
    adapter::{Entry, Place},
    experts::{AdaptedGroup, Stack},
    factors::{Factor, Factors, dropped, fresh},
    files::{self, Taker, key},
    target::{Decision, Rules, Scale, alias, stacked_parameter},
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
    origin: Origin,
    parameters: Parameters,
    entries: Vec<Entry>,
    sites: Vec<AdaptedSite>,
    /// Stacked parameters adapted so far in each module.
    flat: BTreeMap<String, usize>,
}

/// Where first values come from.
#[derive(Debug)]
enum Origin {
    Fresh,
    Read(Taker),
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
        Self::build(config, storage, Origin::Fresh)
    }

    /// An adapter with the values of one that was read, to use it or to train it further.
    ///
    /// # Errors
    /// [`Error::Pattern`](crate::Error::Pattern). Tensors that do not fit the model are errors while it is built;
    /// tensors that nobody asked for are one of [`finish`](Self::finish).
    pub fn load(weights: &AdapterWeights, storage: S) -> Result<Self> {
        Self::build(weights.config.clone(), storage, Origin::Read(Taker::new(weights)))
    }

    fn build(config: LoraConfig, storage: S, origin: Origin) -> Result<Self> {
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
        self.rules.finish(matches!(self.origin, Origin::Read(_)))?;
        if let Origin::Read(taker) = &self.origin {
            taker.finish()?;
        }
        let mut config = LoraConfig { target_modules: self.rules.resolved(), ..self.config };
        let on_experts = |site: &AdaptedSite| {
            site.role == Role::Expert && matches!(site.adaptation, Adaptation::LowRank { .. })
        };
        if self.sites.iter().any(on_experts) {
            config.hide_dropout();
        }
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
    fn factors(&mut self, names: &[String], dims: Dims, scale: Scale, device: Device) -> Result<Factors> {
        let Scale { rank, scaling } = scale;
        let factor = |this: &mut Self, factor, shape: [i64; 2]| {
            let value = match &mut this.origin {
                Origin::Fresh => fresh(&this.config.init_lora_weights, factor, &shape, rank)?,
                Origin::Read(taker) => taker.take(&keys(names, files::leaf(factor)), &shape)?,
            };
            let place = Place::Whole(key(&names[0], files::leaf(factor)));
            let name = format!("{}.{factor}", names[0]);
            this.leaf(name, &value, place, Decay::Applies, Gradient::EveryStep, device)
        };
        let a = factor(self, Factor::A, [rank, dims.in_features])?;
        let b = factor(self, Factor::B, [dims.out_features, rank])?;
        let bias = self.config.lora_bias.then(|| self.added_bias(names, dims, rank, device)).transpose()?;
        Ok(Factors { a, b, bias, scaling })
    }

    fn added_bias(
        &mut self,
        names: &[String],
        dims: Dims,
        rank: i64,
        device: Device,
    ) -> Result<SharedTensor> {
        let shape = [dims.out_features];
        let value = match &mut self.origin {
            Origin::Fresh if self.config.init_lora_weights == crate::Init::Random => {
                let bound = (1.0 / rank as f64).sqrt();
                Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?.f_uniform_(-bound, bound)?
            }
            Origin::Fresh => Tensor::f_zeros(shape, (Kind::Float, Device::Cpu))?,
            Origin::Read(taker) => taker.take(&keys(names, "lora_B.bias"), &shape)?,
        };
        let place = Place::Whole(key(&names[0], "lora_B.bias"));
        let name = format!("{}.lora_B.bias", names[0]);
        self.leaf(name, &value, place, Decay::Exempt, Gradient::EveryStep, device)
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
        let names: Vec<String> =
            std::iter::once(at.path().to_owned()).chain(alias(role, at.path())).collect();
        let keys: Vec<String> = saved_as.iter().flat_map(|leaf| keys(&names, leaf)).collect();
        let value = match &mut self.origin {
            Origin::Fresh => at.tensor(leaf, shape)?,
            Origin::Read(taker) => taker.take(&keys, shape)?,
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
        let factors = self.factors(&names, dims, scale, at.device())?;
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

    fn build_group(&mut self, site: &GroupedSite, at: &Weights<'_>) -> Result<Box<dyn Grouped>> {
        let stacked = stacked_parameter(at.path(), site.stacked_name);
        let flat = self.rules.parameter(&stacked)?;
        let mut decisions = Vec::new(); // part by part, expert by expert
        for part in &site.parts {
            let decide = |expert| self.rules.module(Role::Expert, at.at(expert).at(part.name).path());
            decisions.push((0..site.experts).map(decide).collect::<Result<Vec<_>>>()?);
        }
        if decisions.iter().flatten().any(|decision| *decision == Decision::Saved) {
            return Ok(Box::new(LoopedGroup::build(self, site, at)?));
        }
        let base = self.base.frozen_group(site, at)?;
        let mut stacks = Vec::new();
        if let Some(scale) = flat {
            stacks.push(self.flat_stack(site, &stacked, scale, at.device())?);
        }
        let mut start = 0;
        for (part, decisions) in site.parts.iter().zip(&decisions) {
            let dims = Dims::new(part.out_features, site.in_features);
            let mut groups: Vec<(Scale, Vec<i64>)> = Vec::new(); // experts of one rank and scaling together
            for (expert, decision) in (0..).zip(decisions) {
                let Decision::Adapted(scale) = *decision else { continue };
                match groups.iter_mut().find(|(other, _)| *other == scale) {
                    Some((_, experts)) => experts.push(expert),
                    None => groups.push((scale, vec![expert])),
                }
            }
            let several = groups.len() > 1;
            for (scale, experts) in groups {
                let at = (at, part.name);
                stacks.push(self.expert_stack(at, site.experts, dims, start, scale, &experts, several)?);
            }
            start += part.out_features;
        }
        if stacks.is_empty() {
            return Ok(Box::new(base));
        }
        let parts = site.parts.iter().map(|part| part.out_features).collect();
        Ok(Box::new(AdaptedGroup { base, stacks, parts, kind: self.kind, dropout: self.config.lora_dropout }))
    }

    /// Factors of several experts' matrices of one part, each under its own name in the file.
    #[allow(clippy::too_many_arguments)]
    fn expert_stack(
        &mut self,
        (at, part): (&Weights<'_>, &str),
        all_experts: i64,
        dims: Dims,
        start: i64,
        scale: Scale,
        experts: &[i64],
        several: bool,
    ) -> Result<Stack> {
        let Scale { rank, scaling } = scale;
        let paths: Vec<String> =
            experts.iter().map(|expert| at.at(expert).at(part).path().to_owned()).collect();
        for path in &paths {
            self.record(path, Role::Expert, Adaptation::LowRank { rank, scaling });
        }
        // Distinct also where patterns give some experts another rank.
        let stack_name = if several { paths[0].clone() } else { at.at(part).path().to_owned() };
        let factor = |this: &mut Self, factor, shape: [i64; 2]| {
            let value = match &mut this.origin {
                Origin::Fresh => {
                    let shape = [experts.len() as i64, shape[0], shape[1]];
                    fresh(&this.config.init_lora_weights, factor, &shape, rank)?
                }
                Origin::Read(taker) => {
                    let each = paths.iter().map(|path| taker.take(&[key(path, files::leaf(factor))], &shape));
                    Tensor::f_stack(&each.collect::<Result<Vec<_>>>()?, 0)?
                }
            };
            let place = Place::Slices(paths.iter().map(|path| key(path, files::leaf(factor))).collect());
            // Always with a gradient: where no row reaches an expert its slice is zero.
            let name = format!("{stack_name}.{factor}");
            this.leaf(name, &value, place, Decay::Applies, Gradient::EveryStep, at.device())
        };
        let a = factor(self, Factor::A, [rank, dims.in_features])?;
        let b = factor(self, Factor::B, [dims.out_features, rank])?;
        let slot = |expert| experts.iter().position(|&other| other == expert).map(|slot| slot as i64);
        Ok(Stack { a, b, slots: (0..all_experts).map(slot).collect(), start, scaling })
    }

    /// Factors of a stacked parameter: one A for all of an expert's parts.
    fn flat_stack(
        &mut self,
        site: &GroupedSite,
        stacked: &str,
        scale: Scale,
        device: Device,
    ) -> Result<Stack> {
        let Scale { rank, scaling } = scale;
        self.record(stacked, Role::Expert, Adaptation::LowRank { rank, scaling });
        let module = stacked.rsplit_once('.').map_or("", |(module, _)| module).to_owned();
        let counter = self.flat.entry(module.clone()).or_default();
        let index = *counter;
        *counter += 1;
        let factor = |this: &mut Self, factor, shape: [i64; 3]| {
            let value = match &mut this.origin {
                Origin::Fresh => fresh(&this.config.init_lora_weights, factor, &shape, rank)?,
                Origin::Read(taker) => taker.take_flat(stacked, factor, shape)?,
            };
            let place = Place::Flat { module: module.clone(), index, factor };
            let name = format!("{stacked}.{factor}");
            this.leaf(name, &value, place, Decay::Applies, Gradient::EveryStep, device)
        };
        let a = factor(self, Factor::A, [site.experts, rank, site.in_features])?;
        let b = factor(self, Factor::B, [site.experts, site.out_features(), rank])?;
        Ok(Stack { a, b, slots: (0..site.experts).map(Some).collect(), start: 0, scaling })
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

/// A frozen linear map with a product of low rank added.
#[derive(Debug)]
struct AdaptedProjection {
    base: FrozenProjection,
    factors: Factors,
    kind: Kind,
    dropout: f64,
}

impl Projection for AdaptedProjection {
    fn forward(&self, x: &Tensor, pass: &Pass) -> ModelResult<Tensor> {
        let output = self.base.forward(x, pass)?;
        let added = self.factors.output(&dropped(x, self.kind, self.dropout, pass)?)?;
        Ok(output.f_add(&added)?.f_to_kind(x.kind())?) // added in the wider of both types
    }
}

fn keys(names: &[String], leaf: &str) -> Vec<String> {
    names.iter().map(|name| key(name, leaf)).collect()
}

//! An adapter while a model is built: what it decided, and what it made so far.

use std::collections::BTreeMap;

use ferrotune_nn::{Decay, Gradient, Parameter, Parameters, Role, Trained, Weights};
use ferrotune_torch::SharedTensor;
use tch::{Device, Kind, Tensor};

use crate::{
    Adaptation, AdaptedSite, AdapterWeights, Error, Init, LoraAdapter, LoraConfig, Result,
    adapter::{Entry, Place},
    factors::Factor,
    files::{Taker, key},
    init::Derived,
    target::{Decision, Rules, alias},
};

/// One adapter of a model that is being built, whatever stores the base.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(super) config: LoraConfig,
    pub(super) rules: Rules,
    pub(super) kind: Kind,
    /// Where first values come from; nothing for fresh ones.
    pub(super) origin: Option<Taker>,
    pub(super) parameters: Parameters,
    pub(super) entries: Vec<Entry>,
    pub(super) sites: Vec<AdaptedSite>,
    /// Stacked parameters adapted so far in each module.
    pub(super) flat: BTreeMap<String, usize>,
    /// Whether the origin is a saved form of this configuration's own run, with what its base had lost.
    pub(super) resumes: bool,
    /// First values that came from the base's weights, by module, until they are put to use.
    pub(super) derived: BTreeMap<String, Derived>,
    pub(super) derived_any: bool,
}

impl Draft {
    /// An adapter with fresh values.
    pub(crate) fn fresh(config: LoraConfig) -> Result<Self> {
        let place = "the LoRA configuration";
        config.check(place)?;
        if let Init::Other(word) = &config.init_lora_weights {
            return Err(Error::Unsupported {
                field: "init_lora_weights".to_owned(),
                place: place.to_owned(),
                found: format!("{word:?}"),
                remedy: "use true, false or gaussian".to_owned(),
            });
        }
        Self::new(config, None)
    }

    /// An adapter with the values of one that was read.
    pub(crate) fn of(weights: &AdapterWeights) -> Result<Self> {
        Self::new(weights.config.clone(), Some(Taker::new(weights)))
    }

    /// The adapter of a run that began with `config`, with the values that it was saved with.
    pub(crate) fn resumed(config: LoraConfig, weights: &AdapterWeights) -> Result<Self> {
        config.check("the LoRA configuration")?;
        let expected = if config.init_lora_weights.changes_base() { 2 * config.r } else { config.r };
        if weights.config.r != expected {
            return Err(Error::Config {
                field: "r".to_owned(),
                place: weights.place.clone(),
                found: weights.config.r.to_string(),
                expected: format!(
                    "{expected}, which a run of rank {} saves; go on with the settings that it began with",
                    config.r
                ),
            });
        }
        Ok(Self { resumes: true, ..Self::new(config, Some(Taker::new(weights)))? })
    }

    fn new(config: LoraConfig, origin: Option<Taker>) -> Result<Self> {
        Ok(Self {
            rules: Rules::new(&config)?,
            config,
            kind: Kind::Float,
            origin,
            parameters: Parameters::default(),
            entries: Vec::new(),
            sites: Vec::new(),
            flat: BTreeMap::new(),
            resumes: false,
            derived: BTreeMap::new(),
            derived_any: false,
        })
    }

    /// The adapter, once everything was asked for.
    pub(crate) fn finish(self) -> Result<LoraAdapter> {
        self.rules.finish(self.origin.is_some())?;
        if self.origin.is_none() && self.config.init_lora_weights.derives() && !self.derived_any {
            return Err(Error::Config {
                field: "init_lora_weights".to_owned(),
                place: "the LoRA configuration".to_owned(),
                found: format!("\"{}\"", self.config.init_lora_weights),
                expected: "another one over this base: no matrix that is adapted is quantized, so there is no loss to make \
                           up for"
                    .to_owned(),
            });
        }
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
        let Self { parameters, entries, sites, .. } = self;
        Ok(LoraAdapter { config, base: None, parameters, entries, sites })
    }

    /// A tensor used directly that `modules_to_save` says is to be trained in full.
    pub(crate) fn trained_parameter(
        &mut self,
        role: Role,
        shape: &[i64],
        at: &Weights<'_>,
    ) -> Result<Option<Parameter>> {
        if self.rules.module(role, at.path())? != Decision::Saved {
            return Ok(None);
        }
        self.record(at.path(), role, Adaptation::Saved);
        Ok(Some(Parameter::new(self.copy(role, "weight", &["weight"], shape, at)?)))
    }

    pub(super) fn record(&mut self, path: &str, role: Role, adaptation: Adaptation) {
        self.sites.push(AdaptedSite { path: path.to_owned(), role, adaptation });
    }

    /// Makes `value` a trainable leaf of its own storage.
    pub(super) fn leaf(
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
        self.entries.push(Entry { tensor: tensor.clone(), place, taken: None });
        Ok(tensor)
    }

    /// Says of the tensor that was made last what the base lost to it.
    pub(super) fn took(&mut self, factor: Factor, first: Option<SharedTensor>) {
        if let (Some(entry), Some(first)) = (self.entries.last_mut(), first) {
            entry.taken = Some((factor, first));
        }
    }

    /// A full trainable copy of `{at}.{leaf}`; `saved_as` are its names in the file, below the module.
    pub(super) fn copy(
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
}

/// The keys in the file of something at a module that has several names.
pub(super) fn keys(names: &[String], leaf: &str) -> Vec<String> {
    names.iter().map(|name| key(name, leaf)).collect()
}

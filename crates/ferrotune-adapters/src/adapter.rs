//! An adapter that stands in a model: what trains, and how it is laid out in a file.

use std::{collections::BTreeMap, fmt, path::Path};

use ferrotune_nn::{Parameters, Role};
use ferrotune_torch::SharedTensor;
use tch::{Device, Tensor};

use crate::{AdapterWeights, BaseRecord, LoraConfig, Result, factors::Factor, files};

/// A LoRA adapter inside a model that was built with [`Lora`](crate::Lora).
#[derive(Clone, Debug)]
pub struct LoraAdapter {
    pub(crate) config: LoraConfig,
    pub(crate) base: Option<BaseRecord>,
    pub(crate) parameters: Parameters,
    pub(crate) entries: Vec<Entry>,
    pub(crate) sites: Vec<AdaptedSite>,
}

/// A part of the model that the adapter changes.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptedSite {
    /// Its module path; for a stacked parameter of all experts that parameter's name.
    pub path: String,
    /// What it is for.
    pub role: Role,
    /// What was done to it.
    pub adaptation: Adaptation,
}

/// What an adapter does to a part of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Adaptation {
    /// A product of this rank is added, multiplied by the scaling.
    LowRank {
        /// Rank.
        rank: i64,
        /// Scaling.
        scaling: f64,
    },
    /// A full copy trains.
    Saved,
    /// Its bias trains.
    Bias,
}

impl fmt::Display for AdaptedSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.adaptation {
            Adaptation::LowRank { rank, scaling } => {
                write!(f, "{}: rank {rank}, scaling {scaling}", self.path)
            }
            Adaptation::Saved => write!(f, "{}: all weights", self.path),
            Adaptation::Bias => write!(f, "{}: bias", self.path),
        }
    }
}

/// A trained tensor and its place in the file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) tensor: SharedTensor,
    pub(crate) place: Place,
    /// The factor of what was taken out of the base for it.
    pub(crate) taken: Option<(Factor, SharedTensor)>,
}

impl Entry {
    /// The present value; together with the negative of what was taken out of the base, if something was, so that it fits
    /// the base as it was: `s·BA - s·B₀A₀ = s·[B, -B₀] [A; A₀]`.
    fn value(&self) -> Result<Tensor> {
        let value = self.tensor.f_detach()?;
        Ok(match &self.taken {
            None => value,
            Some((Factor::A, first)) => Tensor::f_cat(&[&value, &**first], -2)?,
            Some((Factor::B, first)) => Tensor::f_cat(&[&value, &first.f_neg()?], -1)?,
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Under this key as it is.
    Whole(String),
    /// The slices of its first dimension under these keys.
    Slices(Vec<String>),
    /// All experts' factors in one matrix, in PEFT's `target_parameters` layout: below `module`, which holds several
    /// such parameters, of which this is number `index` in the model's order.
    Flat { module: String, index: usize, factor: Factor },
}

impl LoraAdapter {
    /// The configuration, with a word such as `all-linear` replaced by the names that it found.
    #[must_use]
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Records which base it stands on; [`weights`](Self::weights) and what is saved say so.
    pub fn record_base(&mut self, base: BaseRecord) {
        self.base = Some(base);
    }

    /// Says by what name the base goes that it stands on, for the reader of the file.
    pub fn name_base(&mut self, name: String) {
        self.config.base_model_name_or_path = Some(name);
    }

    /// What trains, in a fixed order.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Everything that the configuration matched, in the order in which the model asked for it.
    #[must_use]
    pub fn sites(&self) -> &[AdaptedSite] {
        &self.sites
    }

    /// A copy of the present values in the layout of a PEFT file, on the CPU.
    ///
    /// An adapter that took a part out of the base when it began (PiSSA, OLoRA, LoftQ of several iterations) comes out as a
    /// plain one of twice the rank that fits the base as its checkpoint has it: the first half of each factor is what
    /// trains, the second what it began as, with the sign turned in B. The file says so where PEFT does not look, and
    /// [`Lora::load`](crate::Lora::load) makes of it the base and the adapter that trained.
    ///
    /// # Errors
    /// libtorch's.
    pub fn weights(&self) -> Result<AdapterWeights> {
        let tensors = self.laid_out(|entry| Ok(Some(entry.value()?)))?;
        let doubled = self.entries.iter().any(|entry| entry.taken.is_some());
        let derives = self.config.init_lora_weights.derives();
        let config = if derives { self.config.plain(doubled) } else { self.config.clone() };
        Ok(AdapterWeights {
            config,
            tensors,
            base: self.base.clone(),
            began: doubled.then(|| self.config.clone()),
            place: "the adapter in memory".to_owned(),
        })
    }

    /// A copy of the present gradients, named and laid out like the values in a PEFT file. Tensors without a gradient
    /// are left out.
    ///
    /// # Errors
    /// libtorch's.
    pub fn gradients(&self) -> Result<BTreeMap<String, Tensor>> {
        self.laid_out(|entry| {
            let gradient = entry.tensor.f_grad()?;
            Ok(gradient.defined().then_some(gradient))
        })
    }

    /// Writes a PEFT folder: `adapter_config.json`, `adapter_model.safetensors`, `README.md`.
    ///
    /// # Errors
    /// Those of [`AdapterWeights::save`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.weights()?.save(folder)
    }

    /// What `of` takes from each trained tensor, in the layout of a PEFT file.
    fn laid_out(&self, of: impl Fn(&Entry) -> Result<Option<Tensor>>) -> Result<BTreeMap<String, Tensor>> {
        let copy = |tensor: &Tensor| -> Result<Tensor> {
            Ok(tensor.f_to_device(Device::Cpu)?.f_contiguous()?.f_detach_copy()?)
        };
        let mut tensors = BTreeMap::new();
        for entry in &self.entries {
            let Some(tensor) = of(entry)? else { continue };
            match &entry.place {
                Place::Whole(key) => drop(tensors.insert(key.clone(), copy(&tensor)?)),
                Place::Slices(keys) => {
                    for (index, key) in (0..).zip(keys) {
                        tensors.insert(key.clone(), copy(&tensor.f_select(0, index)?)?);
                    }
                }
                Place::Flat { module, index, factor } => {
                    let depth = self.flat_parameters(module) - 1 - index;
                    let key = files::flat_key(module, depth, *factor);
                    tensors.insert(key, copy(&files::flatten(&tensor, *factor)?)?);
                }
            }
        }
        Ok(tensors)
    }

    fn flat_parameters(&self, module: &str) -> usize {
        let here = |entry: &&Entry| matches!(&entry.place, Place::Flat { module: other, factor: Factor::A, .. } if other == module);
        self.entries.iter().filter(here).count()
    }
}

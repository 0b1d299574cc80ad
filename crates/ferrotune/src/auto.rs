//! A model folder of any family.

use std::path::{Path, PathBuf};

use ferrotune_adapters::bitsandbytes::{Decoded, QuantizationConfig};
use ferrotune_llama2::Llama2;
use ferrotune_mixtral::{AuxiliaryLoss, Mixtral};
use ferrotune_nn::{
    CausalLm, ProjectionBuilder, WeightSource, WeightSpec,
    checkpoint::{Checkpoint, read_json},
    config::ConfigFile,
    plan::BlockPlan,
};
use serde_json::{Map, Value};
use tch::{Device, Kind};

use crate::{Error, Result};

/// The family of a model, with its configuration.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Architecture {
    /// LLaMA 2 and Mistral.
    Llama2(ferrotune_llama2::Config),
    /// Mixtral.
    Mixtral(ferrotune_mixtral::Config),
}

/// Where and how a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// The device of its weights.
    pub device: Device,
    /// The type of its weights and activations.
    pub kind: Kind,
    /// The balancing loss of a mixture of experts; dense models have none.
    pub auxiliary_loss: AuxiliaryLoss,
}

impl LoadOptions {
    /// Weights on `device` in `kind`, with the families' default balancing loss.
    #[must_use]
    pub fn new(device: Device, kind: Kind) -> Self {
        Self { device, kind, auxiliary_loss: AuxiliaryLoss::default() }
    }
}

/// A causal language model described by a `config.json`, told apart by its `model_type`.
///
/// ```no_run
/// use ferrotune::{AutoCausalLm, LoadOptions, nn::{Dense, Frozen}};
///
/// let folder = AutoCausalLm::open("models/llama-2-7b".as_ref())?;
/// let options = LoadOptions::new(tch::Device::Cpu, tch::Kind::Float);
/// let model = folder.load(&options, &mut Frozen::new(Dense))?;
/// println!("{} tokens", model.vocabulary_size());
/// # Ok::<(), ferrotune::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AutoCausalLm {
    folder: PathBuf,
    config_file: ConfigFile,
    architecture: Architecture,
    quantization: Option<QuantizationConfig>,
}

impl AutoCausalLm {
    /// Reads and checks the configuration of a model folder; weights are not touched.
    ///
    /// # Errors
    /// [`Error::NoModel`], [`Error::UnknownFamily`], and what the family's configuration refuses.
    pub fn open(folder: &Path) -> Result<Self> {
        let problem = match (folder.is_dir(), folder.join("config.json").is_file()) {
            (true, true) => None,
            (true, false) => Some("has no `config.json`"),
            (false, _) => Some("is not a folder that can be read"),
        };
        if let Some(problem) = problem {
            return Err(Error::NoModel { folder: folder.to_owned(), problem });
        }
        Self::from_config(folder, ConfigFile::open(folder)?)
    }

    /// The same from a configuration file alone, of which no weights need to be there.
    ///
    /// # Errors
    /// [`ferrotune_nn::Error::Io`] and [`ferrotune_nn::Error::Json`] for the file; otherwise as [`open`](Self::open).
    pub fn open_config(file: &Path) -> Result<Self> {
        let folder = file.parent().unwrap_or(Path::new(""));
        let place = format!("`{}`", file.display());
        Self::from_config(folder, ConfigFile::from_fields(&place, read_json(file)?))
    }

    /// The same from fields in memory, for models that are made rather than read. `name` is what messages call it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_fields(name: &str, fields: Map<String, Value>) -> Result<Self> {
        Self::from_config(Path::new(name), ConfigFile::from_fields(name, fields))
    }

    fn from_config(folder: &Path, config_file: ConfigFile) -> Result<Self> {
        let quantization = QuantizationConfig::read(&config_file)?;
        let architecture = match config_file.required::<String>("model_type")?.as_str() {
            "llama" | "mistral" => Architecture::Llama2(ferrotune_llama2::Config::read(&config_file)?),
            "mixtral" => Architecture::Mixtral(ferrotune_mixtral::Config::read(&config_file)?),
            found => return Err(Error::UnknownFamily { folder: folder.to_owned(), found: found.to_owned() }),
        };
        Ok(Self { folder: folder.to_owned(), config_file, architecture, quantization })
    }

    /// The same model with a head of its own, if its head is the embedding; nothing if it has one already.
    ///
    /// # Errors
    /// None for a configuration that was read before.
    pub fn untied(&self) -> Result<Option<Self>> {
        if self.weights().iter().any(|spec| spec.role == ferrotune_nn::Role::Head) {
            return Ok(None);
        }
        let mut fields = self.config_file.fields().clone();
        fields.insert("tie_word_embeddings".to_owned(), Value::Bool(false));
        Ok(Some(Self::from_config(&self.folder, ConfigFile::from_fields(self.config_file.place(), fields))?))
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The raw configuration.
    #[must_use]
    pub fn config_file(&self) -> &ConfigFile {
        &self.config_file
    }

    /// What the folder's configuration says of 4-bit weights; nothing for a dense model.
    #[must_use]
    pub fn quantization(&self) -> Option<&QuantizationConfig> {
        self.quantization.as_ref()
    }

    /// Opens the folder's weights; those in 4 bits show as the matrices that they stand for.
    ///
    /// # Errors
    /// A folder without readable weights, with the remedy; a 4-bit tensor that is damaged, incomplete or does not belong
    /// into 4 bits, and a configuration that does not fit the tensors, by name.
    pub fn open_weights(&self) -> Result<Decoded> {
        let checkpoint = Checkpoint::open(&self.folder)?;
        Ok(Decoded::new(checkpoint, self.quantization.as_ref(), &self.weights())?)
    }

    /// The raw configuration as compact JSON, for digests: a resumed run must share it.
    #[must_use]
    pub fn config_text(&self) -> String {
        Value::Object(self.config_file.fields().clone()).to_string()
    }

    /// The family and its configuration.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Every weight of a checkpoint of this configuration, as pure data.
    #[must_use]
    pub fn weights(&self) -> Vec<WeightSpec> {
        match &self.architecture {
            Architecture::Llama2(config) => config.weights(),
            Architecture::Mixtral(config) => config.weights(),
        }
    }

    /// What each block keeps for its backward pass, in order.
    #[must_use]
    pub fn block_plans(&self) -> Vec<BlockPlan> {
        match &self.architecture {
            Architecture::Llama2(config) => {
                (0..config.num_hidden_layers).map(|layer| config.block_plan(layer)).collect()
            }
            Architecture::Mixtral(config) => {
                (0..config.num_hidden_layers).map(|layer| config.block_plan(layer)).collect()
            }
        }
    }

    /// Width of the states between blocks.
    #[must_use]
    pub fn hidden_size(&self) -> i64 {
        match &self.architecture {
            Architecture::Llama2(config) => config.hidden_size,
            Architecture::Mixtral(config) => config.hidden_size,
        }
    }

    /// Number of weights, and of those that one token crosses: of a mixture only the experts it is sent to.
    #[must_use]
    pub fn parameters(&self) -> (u64, u64) {
        let count = |spec: &WeightSpec| spec.shape.iter().product::<i64>() as u64;
        let specs = self.weights();
        let all = specs.iter().map(count).sum();
        let Architecture::Mixtral(config) = &self.architecture else { return (all, all) };
        let experts: u64 =
            specs.iter().filter(|spec| spec.role == ferrotune_nn::Role::Expert).map(count).sum();
        let (chosen, held) = (config.num_experts_per_tok as u64, config.num_local_experts as u64);
        (all, all - experts + experts / held * chosen)
    }

    /// Number of token ids.
    #[must_use]
    pub fn vocabulary_size(&self) -> i64 {
        match &self.architecture {
            Architecture::Llama2(config) => config.vocab_size,
            Architecture::Mixtral(config) => config.vocab_size,
        }
    }

    /// The most positions of a sequence.
    #[must_use]
    pub fn max_positions(&self) -> i64 {
        match &self.architecture {
            Architecture::Llama2(config) => config.rope.max_positions(),
            Architecture::Mixtral(config) => config.rope.max_positions(),
        }
    }

    /// Loads the folder's weights through `builder`. Weights in 4 bits are decoded, or kept as their bytes by a storage
    /// that takes them so.
    ///
    /// # Errors
    /// A missing, misshapen or unexpected tensor, by name; a folder without readable weights, with the remedy; what
    /// the builder refuses.
    pub fn load(
        &self,
        options: &LoadOptions,
        builder: &mut dyn ProjectionBuilder,
    ) -> Result<Box<dyn CausalLm>> {
        self.load_from(&self.open_weights()?, options, builder)
    }

    /// Builds the model with weights from another source, such as fresh ones.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_from(
        &self,
        source: &dyn WeightSource,
        options: &LoadOptions,
        builder: &mut dyn ProjectionBuilder,
    ) -> Result<Box<dyn CausalLm>> {
        let LoadOptions { device, kind, auxiliary_loss } = *options;
        Ok(match &self.architecture {
            Architecture::Llama2(config) => {
                Box::new(Llama2::load(config.clone(), source, device, kind, builder)?)
            }
            Architecture::Mixtral(config) => {
                Box::new(Mixtral::load(config.clone(), auxiliary_loss, source, device, kind, builder)?)
            }
        })
    }
}

//! PEFT adapter folders.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use ferrotune_nn::{
    WeightSource as _,
    checkpoint::{Checkpoint, read_json, write_file, write_whole},
};
use tch::Tensor;

use crate::{BaseRecord, Error, Init, LoraConfig, Result, factors::Factor};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const CARD: &str = "README.md";

/// Where the file of weights says which base it was made for: among what safetensors files hold beside their tensors, which no
/// other reader looks at. Of a key of its own in `adapter_config.json` PEFT would warn.
const BASE: &str = "ferrotune_base";

/// Where the same file says with which settings an adapter began that took a part out of its base.
pub(crate) const BEGAN: &str = "ferrotune_began";

/// An adapter outside any model: its configuration, and its tensors by their names in the file.
#[derive(Debug)]
pub struct AdapterWeights {
    pub(crate) config: LoraConfig,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) base: Option<BaseRecord>,
    /// The settings of an adapter that took a part out of its base, of which `config` is the plain form: the first half of each
    /// factor is what trained, the second what the base lost, with the sign turned in B.
    pub(crate) began: Option<LoraConfig>,
    /// What messages call it.
    pub(crate) place: String,
}

impl AdapterWeights {
    /// An adapter of these tensors, by the names that they have in a PEFT file.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Unsupported`] for a configuration that makes no sense.
    pub fn new(config: LoraConfig, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let place = "the adapter in memory";
        config.check(place)?;
        require_readable(&config, place)?;
        Ok(Self { config, tensors, base: None, began: None, place: place.to_owned() })
    }

    /// Reads a PEFT folder.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] and [`Error::Pickled`] if a file is missing, [`Error::Config`] and [`Error::Unsupported`] for
    /// the configuration, [`Error::Model`] for a damaged file.
    pub fn open(folder: &Path) -> Result<Self> {
        let (config, weights) = (folder.join(CONFIG), folder.join(WEIGHTS));
        if !config.is_file() {
            return Err(Error::NoAdapter { folder: folder.to_owned(), missing: CONFIG });
        }
        let place = format!("`{}`", config.display());
        let config = LoraConfig::from_fields(read_json(&config)?, &place)?;
        require_readable(&config, &place)?;
        if !weights.is_file() {
            let folder = folder.to_owned();
            let pickled = folder.join("adapter_model.bin").is_file();
            return Err(if pickled {
                Error::Pickled { folder }
            } else {
                Error::NoAdapter { folder, missing: WEIGHTS }
            });
        }
        let file = Checkpoint::open_file(&weights)?;
        let tensors = file
            .names()
            .into_iter()
            .map(|name| {
                let tensor = file.read(&name)?;
                Ok((name, tensor))
            })
            .collect::<Result<_>>()?;
        let base = file.metadata(BASE).map(|text| BaseRecord::parse(text, &file.place())).transpose()?;
        let began = file.metadata(BEGAN).map(|text| config.began(text, &file.place())).transpose()?;
        Ok(Self { config, tensors, base, began, place: file.place() })
    }

    /// Writes a PEFT folder. A new folder appears complete or not at all; in one that exists each file is replaced in
    /// one piece, the configuration last, and a `README.md` that is there is kept.
    ///
    /// # Errors
    /// [`Error::Model`] with the file that could not be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let exists = folder.is_dir();
        let stage = if exists { folder.join(".adapter.tmp") } else { beside(folder) };
        if stage.exists() {
            on(&stage, fs::remove_dir_all)?;
        }
        on(&stage, fs::create_dir_all)?;
        let staged = self.write_into(&stage).and_then(|()| {
            if !exists {
                return on(folder, |folder| fs::rename(&stage, folder));
            }
            for name in [WEIGHTS, CARD, CONFIG] {
                let target = folder.join(name);
                if name != CARD || !target.exists() {
                    on(&target, |target| fs::rename(stage.join(name), target))?;
                }
            }
            on(&stage, fs::remove_dir_all)
        });
        if staged.is_err() {
            // The error that matters is the first.
            let _ = fs::remove_dir_all(&stage);
        }
        staged
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The tensors by their names in the file, in the file's order.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// What messages call it: the file, or a word for one in memory.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Which base it was made for, if its writer recorded that.
    #[must_use]
    pub fn base(&self) -> Option<&BaseRecord> {
        self.base.as_ref()
    }

    /// Forgets which base it was made for, so that it goes onto any other of the same shapes.
    #[must_use]
    pub fn without_base(self) -> Self {
        Self { base: None, ..self }
    }

    /// The settings with which it trains on where its base may lose what it lost when the adapter began: those that it began with if
    /// it took a part out of the base (PiSSA, OLoRA, LoftQ of several iterations), else [`config`](Self::config).
    #[must_use]
    pub fn trained(&self) -> &LoraConfig {
        self.began.as_ref().unwrap_or(&self.config)
    }

    /// The same adapter as PEFT reads it: on the base as it is, whatever the base lost when the adapter began.
    #[must_use]
    pub fn plain(&self) -> Self {
        Self { began: None, ..self.share() }
    }

    /// Refuses an adapter that changes the base for itself.
    pub(crate) fn require_plain(&self) -> Result<()> {
        self.config.require_plain(&self.place)
    }

    /// Another handle on the same tensors.
    pub(crate) fn share(&self) -> Self {
        let tensors =
            self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        let Self { config, base, began, place, .. } = self;
        Self {
            config: config.clone(),
            tensors,
            base: base.clone(),
            began: began.clone(),
            place: place.clone(),
        }
    }

    fn write_into(&self, stage: &Path) -> Result<()> {
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
        let base = self.base.as_ref().map(ToString::to_string);
        let began = self.began.as_ref().map(LoraConfig::beginning);
        let said = [(BASE, &base), (BEGAN, &began)];
        let said = said.into_iter().filter_map(|(key, text)| Some((key, text.as_deref()?)));
        let metadata: Vec<_> = [("format", "pt")].into_iter().chain(said).collect();
        write_file(&stage.join(WEIGHTS), tensors, &metadata)?;
        let path = stage.join(CONFIG);
        let json = serde_json::to_vec_pretty(&self.config.to_fields())
            .map_err(|source| ferrotune_nn::Error::Json { path: path.clone(), source })?;
        write_whole(&path, &json)?;
        Ok(write_whole(&stage.join(CARD), self.card().as_bytes())?)
    }

    fn card(&self) -> String {
        let base = self.config.base_model_name_or_path.as_deref().unwrap_or("");
        let rank = self.config.r;
        format!(
            "---\nbase_model: {base:?}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n---\n\n# LoRA \
             adapter of rank {rank}\n\nRead it with PEFT (`PeftModel.from_pretrained(base, folder)`) or with Ferrotune.\n"
        )
    }
}

/// Refuses an adapter whose file does not say what its base has lost: chance, and the quantizer, had a part in that.
fn require_readable(config: &LoraConfig, place: &str) -> Result<()> {
    match &config.init_lora_weights {
        Init::Pissa { iterations: Some(_) } | Init::Loftq { .. } => Err(Error::Unsupported {
            field: "init_lora_weights".to_owned(),
            place: place.to_owned(),
            found: format!("\"{}\"", config.init_lora_weights),
            remedy: "it changes the base model's weights in a way that its file does not tell; convert the adapter to a \
                     plain one with PEFT's `path_initial_model_for_weight_conversion`"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The folder's name with `.tmp` behind it, so that a rename stays on one file system.
fn beside(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    folder.with_file_name(name)
}

fn on<'p, T>(path: &'p Path, action: impl FnOnce(&'p Path) -> std::io::Result<T>) -> Result<T> {
    action(path).map_err(|source| ferrotune_nn::Error::Io { path: path.to_owned(), source }.into())
}

/// The name in the file of something at a module.
pub(crate) fn key(path: &str, leaf: &str) -> String {
    format!("base_model.model.{path}.{leaf}")
}

/// The name in the file of all experts' factors of one stacked parameter. PEFT wraps a module once per parameter, so
/// those wrapped first lie deeper.
pub(crate) fn flat_key(module: &str, depth: usize, factor: Factor) -> String {
    key(&format!("{module}{}", ".base_layer".repeat(depth)), leaf(factor))
}

/// The last segments of a factor's name.
pub(crate) fn leaf(factor: Factor) -> &'static str {
    match factor {
        Factor::A => "lora_A.weight",
        Factor::B => "lora_B.weight",
    }
}

/// The last segment of the name of a module's magnitudes.
pub(crate) const MAGNITUDE: &str = "lora_magnitude_vector";

/// All experts' factors as PEFT lays them out in one matrix: A expert-major, `[experts, rank, in]` to
/// `[experts · rank, in]`; B rank-major, `[experts, out, rank]` to `[out, rank · experts]`.
pub(crate) fn flatten(stacked: &Tensor, factor: Factor) -> Result<Tensor> {
    let size = stacked.size();
    Ok(match factor {
        Factor::A => stacked.f_reshape([size[0] * size[1], size[2]])?,
        Factor::B => stacked.f_permute([1, 2, 0])?.f_reshape([size[1], size[2] * size[0]])?,
    })
}

/// The inverse of [`flatten`].
pub(crate) fn unflatten(flat: &Tensor, experts: i64, factor: Factor) -> Result<Tensor> {
    Ok(match factor {
        Factor::A => flat.f_reshape([experts, -1, flat.size()[1]])?,
        Factor::B => flat.f_reshape([flat.size()[0], -1, experts])?.f_permute([2, 0, 1])?,
    })
}

/// Hands out an adapter's tensors by name and shape, and knows which nobody asked for.
#[derive(Debug)]
pub(crate) struct Taker {
    weights: AdapterWeights,
    used: BTreeSet<String>,
    /// The stacked parameters asked for so far, by module, in the model's order.
    flat: BTreeMap<String, Vec<String>>,
}

impl Taker {
    pub(crate) fn new(weights: &AdapterWeights) -> Self {
        Self { weights: weights.share(), used: BTreeSet::new(), flat: BTreeMap::new() }
    }

    /// The tensor under the first of `keys` that the adapter has.
    pub(crate) fn take(&mut self, keys: &[String], shape: &[i64]) -> Result<Tensor> {
        let found = keys.iter().find_map(|key| Some((key, self.weights.tensors.get(key)?)));
        let place = || self.weights.place.clone();
        let Some((key, tensor)) = found else {
            return Err(Error::MissingTensor { key: keys[0].clone(), place: place() });
        };
        if tensor.size() != shape {
            let (key, found) = (key.clone(), tensor.size());
            return Err(Error::WrongShape { key, place: place(), found, expected: shape.to_vec() });
        }
        self.used.insert(key.clone());
        Ok(tensor.shallow_clone())
    }

    /// All experts' factors of the stacked parameter `module.name`: `[experts, rank, in]` or `[experts, out, rank]`.
    pub(crate) fn take_flat(&mut self, parameter: &str, factor: Factor, shape: [i64; 3]) -> Result<Tensor> {
        let (module, name) = parameter.rsplit_once('.').unwrap_or(("", parameter));
        let levels = (0..)
            .take_while(|&depth| self.weights.tensors.contains_key(&flat_key(module, depth, Factor::A)))
            .count();
        let order = self.flat.entry(module.to_owned()).or_default();
        let index = order.iter().position(|other| other == name).unwrap_or_else(|| {
            order.push(name.to_owned());
            order.len() - 1
        });
        // Asking for more than there are ends in the error that the first key is missing.
        let depth = if index < levels { levels - 1 - index } else { levels };
        let [experts, rows, columns] = shape;
        let flat = match factor {
            Factor::A => [experts * rows, columns],
            Factor::B => [rows, columns * experts],
        };
        unflatten(&self.take(&[flat_key(module, depth, factor)], &flat)?, experts, factor)
    }

    /// Whether every tensor was asked for.
    pub(crate) fn finish(&self) -> Result<()> {
        let unused: Vec<&String> =
            self.weights.tensors.keys().filter(|key| !self.used.contains(*key)).collect();
        match unused.first() {
            None => Ok(()),
            Some(&first) => Err(Error::UnusedTensors {
                place: self.weights.place.clone(),
                count: unused.len(),
                first: first.clone(),
            }),
        }
    }
}

//! Flags that several examples have, and what they open.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::{
    ArgAction, Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use ferrotune::{
    Adapted, AutoCausalLm, BaseConfig, Compute, Error, LoadOptions, Quantize, Start, adapt,
    adapters::{AdapterWeights, BlockSize, Census, Codebook, Quantization},
    check_base,
    core::Tokenize as _,
    data::Tokenizer,
    nn::{CausalLm, Frozen},
    study::{ModelTemplate, is_pattern},
    tch::{Device, Kind},
};

use super::Result;

/// Where and in what to compute.
#[derive(Args, Debug)]
#[command(next_help_heading = "Computing")]
pub(crate) struct ComputeFlags {
    /// `auto` (CUDA where there is a device, else the CPU), `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = AUTO)]
    device: String,
    /// Type of weights and activations; `auto` is f32 on a CPU and bf16 on CUDA
    #[arg(long, default_value = AUTO, value_parser = DTYPES)]
    dtype: String,
    /// Seeds everything that is random
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Threads for arithmetic on the CPU; libtorch's choice where absent
    #[arg(long)]
    threads: Option<u32>,
}

/// Where the program or the device decides.
pub(crate) const AUTO: &str = "auto";

pub(crate) const DTYPES: [&str; 4] = [AUTO, "f32", "bf16", "f16"];

impl ComputeFlags {
    pub(crate) fn resolve(&self) -> Result<(Device, Kind)> {
        let Self { device, dtype, threads, .. } = self;
        Ok(Compute { device: device.clone(), dtype: dtype.clone(), threads: *threads }.resolve()?)
    }
}

/// The same for programs that work on files, one tensor at a time and on the CPU.
#[derive(Args, Debug)]
#[command(next_help_heading = "Computing")]
pub(crate) struct HostFlags {
    /// This program works on the CPU
    #[arg(long, default_value = AUTO, value_parser = [AUTO, "cpu"])]
    device: String,
    /// Threads for arithmetic; libtorch's choice where absent
    #[arg(long)]
    threads: Option<u32>,
}

impl HostFlags {
    /// Sets the number of threads, and finds the type that `dtype` means.
    pub(crate) fn resolve(&self, dtype: &str) -> Result<Kind> {
        let (device, dtype) = ("cpu".to_owned(), dtype.to_owned());
        Ok(Compute { device, dtype, threads: self.threads }.resolve()?.1)
    }
}

/// The flags of every example that reads a model, and those of how it computes.
#[derive(Args, Debug)]
pub(crate) struct Common<C: Args = ComputeFlags> {
    /// Hugging Face folder of a LLaMA, Mistral or Mixtral model
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// TOML file with flags, without their dashes in front; flags on the command line win
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) compute: C,
}

impl Common {
    /// Loads the model to use it as it is, with an adapter where one is named.
    pub(crate) fn load(
        &self,
        base: &BaseFlags,
        adapter: Option<&Path>,
        other: OtherBase,
    ) -> Result<(AutoCausalLm, Box<dyn CausalLm>)> {
        load(&self.model, &self.compute, base, adapter, other)
    }
}

/// Loads the model of a folder to use it as it is, with an adapter where one is named.
pub(crate) fn load(
    model: &Path,
    compute: &ComputeFlags,
    base: &BaseFlags,
    adapter: Option<&Path>,
    other: OtherBase,
) -> Result<(AutoCausalLm, Box<dyn CausalLm>)> {
    let (device, kind) = compute.resolve()?;
    let folder = AutoCausalLm::open(model)?;
    let options = LoadOptions::new(device, kind);
    let (storage, census) = base.config()?.storage(&folder)?;
    let model = match adapter {
        None => folder.load(&options, &mut Frozen::new(storage))?,
        Some(adapter) => {
            let weights = other.open(adapter, &folder)?;
            let Adapted { model, .. } = adapt(&folder, Start::From(&weights), storage, &options)?;
            model
        }
    };
    say_census(&census);
    Ok((folder, model))
}

/// A folder with or without a name in front: `NAME=DIR`.
#[derive(Clone, Debug)]
pub(crate) struct NamedFolder {
    pub(crate) name: Option<String>,
    pub(crate) folder: PathBuf,
}

impl NamedFolder {
    /// A name ends at the first `=`; what has a slash before it is a folder with such a character.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        match text.split_once('=') {
            Some(("", _) | (_, "")) => Err("expected DIR or NAME=DIR".to_owned()),
            Some((name, folder)) if !name.contains('/') => {
                Ok(Self { name: Some(name.to_owned()), folder: folder.into() })
            }
            _ => Ok(Self { name: None, folder: text.into() }),
        }
    }

    /// Its name, or else its path.
    pub(crate) fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.folder.display().to_string())
    }
}

/// Whether an adapter's word about its base counts.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OtherBase {
    /// Uses an adapter although it says that it was made for another base of the same shapes
    #[arg(long, requires = "adapter")]
    allow_other_base: bool,
}

impl OtherBase {
    /// The adapter of a folder, to be put on `base`.
    pub(crate) fn open(self, folder: &Path, base: &AutoCausalLm) -> Result<AdapterWeights> {
        let weights = AdapterWeights::open(folder)?;
        if !self.allow_other_base {
            return Ok(weights); // whoever uses it will refuse
        }
        match check_base(base, &weights) {
            Err(Error::OtherBase { adapter, base, difference, .. }) => {
                let base = base.display();
                super::say(&format!(
                    "{adapter} was made for another base than `{base}`: {difference}; it is used all the same"
                ));
            }
            other => other?,
        }
        Ok(weights.without_base())
    }
}

/// What the flags of [`BaseFlags`] stand under in `--help`.
pub(crate) const BASE_HEADING: &str = "Base";

/// How the base's matrices are kept.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = BASE_HEADING)]
pub(crate) struct BaseFlags {
    /// Keeps the base's matrices in 4 bits, or all of it dense; as the folder has them where absent
    #[arg(long, value_name = "FORMAT", value_parser = words(&FORMATS))]
    quantize: Option<Quantize>,
    #[command(flatten)]
    blocks: BlockFlags,
}

/// How weights are put into 4 bits, where they are.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct BlockFlags {
    /// Weights that share a scale in 4 bits: a power of two from 32 to 4096 [default: 64]
    #[arg(long, value_name = "N")]
    block_size: Option<usize>,
    /// Keeps the scales in 8 bits: 4.127 bits a weight in blocks of 64, instead of 4.5 [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    double_quant: Option<bool>,
}

pub(crate) const FORMATS: [(&str, Quantize); 3] =
    [("none", Quantize::None), ("nf4", Quantize::Nf4), ("fp4", Quantize::Fp4)];

impl BlockFlags {
    /// How weights are put into 4 bits of a kind.
    pub(crate) fn quantization(self, codebook: Codebook) -> Result<Quantization> {
        let usual = Quantization::default();
        Ok(Quantization {
            codebook,
            block_size: self.block_size.map(BlockSize::new).transpose()?.unwrap_or(usual.block_size),
            double_quantization: self.double_quant.unwrap_or(usual.double_quantization),
        })
    }

    /// The base that these flags and the format that `flag` named describe.
    ///
    /// # Errors
    /// A flag that would have no effect, because nothing is put into 4 bits.
    pub(crate) fn config(self, flag: &str, quantize: Option<Quantize>) -> Result<BaseConfig> {
        let Self { block_size, double_quant } = self;
        if matches!(quantize, None | Some(Quantize::None)) {
            let idle = [("block-size", block_size.is_some()), ("double-quant", double_quant.is_some())];
            if let Some((name, _)) = idle.into_iter().find(|(_, given)| *given) {
                return Err(format!(
                    "`--{name}` says how weights are put into 4 bits, and nothing is without `{flag} nf4` or `{flag} fp4`; \
                     leave it out, or name the format"
                )
                .into());
            }
        }
        let usual = BaseConfig::default();
        Ok(BaseConfig {
            quantize,
            block_size: block_size.unwrap_or(usual.block_size),
            double_quant: double_quant.unwrap_or(usual.double_quant),
        })
    }
}

impl BaseFlags {
    pub(crate) fn config(&self) -> Result<BaseConfig> {
        self.blocks.config("--quantize", self.quantize)
    }

    /// The format's name, if one is asked for.
    pub(crate) fn format(&self) -> Option<&'static str> {
        let named = |&(name, format)| Some(name).filter(|_| self.quantize == Some(format));
        FORMATS.iter().find_map(named).filter(|&name| name != "none")
    }
}

/// What a request is written in, in training and when it is answered.
pub(crate) const TEMPLATES: [(&str, ModelTemplate); 2] =
    [("study", ModelTemplate::Study), ("chat", ModelTemplate::Chat)];

/// Says what is in 4 bits and what is not.
pub(crate) fn say_census(census: &Census) {
    census.tallies().iter().for_each(|tally| super::say(&tally.to_string()));
}

/// The sentence encoder where `cargo xtask setup` puts it, if it is there.
pub(crate) fn usual_embedder() -> Option<PathBuf> {
    Some(PathBuf::from(".models/all-minilm-l6-v2")).filter(|folder| folder.is_dir())
}

/// The tokenizer of a model folder, which must not have more ids than the model.
pub(crate) fn tokenizer(folder: &AutoCausalLm) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_folder(folder.folder())?;
    let (ids, model) = (tokenizer.vocabulary_size(), folder.vocabulary_size());
    if ids as i64 > model {
        return Err(
            Error::VocabularyMismatch { folder: folder.folder().to_owned(), tokenizer: ids, model }.into()
        );
    }
    Ok(tokenizer)
}

/// Names separated by commas, or a regular expression, in which a comma means something else.
pub(crate) fn names(text: &str) -> Vec<String> {
    if is_pattern(text) {
        vec![text.to_owned()]
    } else {
        text.split(',').map(|name| name.trim().to_owned()).collect()
    }
}

/// A number of bytes as people write it: `80GiB`, `24 GB`, `16000000000`.
pub(crate) fn bytes(text: &str) -> std::result::Result<u64, String> {
    let size: bytesize::ByteSize =
        text.parse().map_err(|_| "expected bytes, such as 80GiB, 24GB or 16000000000".to_owned())?;
    Ok(size.as_u64())
}

/// A flag that takes one of several words; `--help` lists them.
pub(crate) fn words<T: Copy + Send + Sync + 'static>(
    meanings: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(meanings.iter().map(|(word, _)| *word)).try_map(move |found| {
        let meaning = meanings.iter().find(|(word, _)| *word == found);
        meaning.map(|(_, meaning)| *meaning).ok_or("not a word that was listed")
    })
}

/// Wall-clock seconds, never 0, so that rates can be divided by them.
pub(crate) fn seconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
}

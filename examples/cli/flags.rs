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
    adapters::{AdapterWeights, Census},
    core::Tokenize as _,
    data::Tokenizer,
    nn::{CausalLm, Frozen},
    tch::{Device, Kind},
};

use super::Result;

/// Where and in what to compute.
#[derive(Args, Debug)]
#[command(next_help_heading = "Computing")]
pub(crate) struct ComputeFlags {
    /// `auto` (CUDA where there is a device, else the CPU), `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Type of weights and activations; `auto` is f32 on a CPU and bf16 on CUDA
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "bf16", "f16"])]
    pub(crate) dtype: String,
    /// Seeds everything that is random
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Threads for arithmetic on the CPU; libtorch's choice where absent
    #[arg(long)]
    pub(crate) threads: Option<u32>,
}

impl ComputeFlags {
    pub(crate) fn resolve(&self) -> Result<(Device, Kind)> {
        let Self { device, dtype, threads, .. } = self;
        Ok(Compute { device: device.clone(), dtype: dtype.clone(), threads: *threads }.resolve()?)
    }
}

/// The flags of every example that reads a model.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Hugging Face folder of a LLaMA, Mistral or Mixtral model
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// TOML file with flags, without their dashes in front; flags on the command line win
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) compute: ComputeFlags,
}

impl Common {
    /// Loads the model to use it as it is, with an adapter where one is named.
    pub(crate) fn load(
        &self,
        base: &BaseFlags,
        adapter: Option<&Path>,
    ) -> Result<(AutoCausalLm, Box<dyn CausalLm>)> {
        load(&self.model, &self.compute, base, adapter)
    }
}

/// Loads the model of a folder to use it as it is, with an adapter where one is named.
pub(crate) fn load(
    model: &Path,
    compute: &ComputeFlags,
    base: &BaseFlags,
    adapter: Option<&Path>,
) -> Result<(AutoCausalLm, Box<dyn CausalLm>)> {
    let (device, kind) = compute.resolve()?;
    let folder = AutoCausalLm::open(model)?;
    let options = LoadOptions::new(device, kind);
    let (storage, census) = base.config().storage(&folder)?;
    let model = match adapter {
        None => folder.load(&options, &mut Frozen::new(storage))?,
        Some(adapter) => {
            let weights = AdapterWeights::open(adapter)?;
            let Adapted { model, .. } = adapt(&folder, Start::From(&weights), storage, &options)?;
            model
        }
    };
    say_census(&census);
    Ok((folder, model))
}

/// How the base's matrices are kept.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Base")]
pub(crate) struct BaseFlags {
    /// Keeps the base's matrices in 4 bits, or all of it dense; as the folder has them where absent
    #[arg(long, value_name = "FORMAT", value_parser = words(&FORMATS))]
    pub(crate) quantize: Option<Quantize>,
    /// Weights that share a scale in 4 bits
    #[arg(long, default_value_t = BaseConfig::default().block_size)]
    pub(crate) block_size: usize,
    /// Whether the scales are quantized too
    #[arg(long, value_name = "BOOL", default_value_t = BaseConfig::default().double_quant, action = ArgAction::Set)]
    pub(crate) double_quant: bool,
}

const FORMATS: [(&str, Quantize); 3] =
    [("none", Quantize::None), ("nf4", Quantize::Nf4), ("fp4", Quantize::Fp4)];

impl BaseFlags {
    pub(crate) fn config(&self) -> BaseConfig {
        let Self { quantize, block_size, double_quant } = *self;
        BaseConfig { quantize, block_size, double_quant }
    }

    /// The format's name, if one is asked for.
    pub(crate) fn format(&self) -> Option<&'static str> {
        let named = |&(name, format)| Some(name).filter(|_| self.quantize == Some(format));
        FORMATS.iter().find_map(named).filter(|&name| name != "none")
    }
}

/// Says what is in 4 bits and what is not.
pub(crate) fn say_census(census: &Census) {
    census.tallies().iter().for_each(|tally| super::say(&tally.to_string()));
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

/// Whether there is a character that no module name has.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '(', '[', '|', '\\', '^', '$', '{'])
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

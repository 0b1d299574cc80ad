//! A study as its author writes it.

use std::path::{Path, PathBuf};

use ferrotune_adapters::{LoraConfig, TargetModules};
use ferrotune_mixtral::AuxiliaryLoss;
use ferrotune_trainer::TrainingConfig;
use serde::{Deserialize, Serialize};

use crate::{BaseConfig, Compute, DataConfig, Error, MeasureConfig, Quantize, Result, slug::slug};

/// What is compared, on what, and how.
///
/// ```
/// let study: ferrotune::study::Study = toml::from_str(r#"
///     title = "Two families"
///     [data]
///     files = ["alpaca_data.json"]
///     [[models]]
///     name = "LLaMA 2 7B"
///     path = "models/llama-2-7b"
///     [[models]]
///     name = "Mixtral 8x7B"
///     path = "models/mixtral-8x7b"
/// "#)?;
/// assert_eq!(study.adapter.rank, 64);
/// assert_eq!(study.training.learning_rate, 2.5e-5);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// The report's title.
    pub title: String,
    /// What the reader should know about it, in a sentence or two.
    #[serde(default)]
    pub description: String,
    /// Fine-tuning is done once for each; a seed decides the adapter's start, the order of records and dropout.
    #[serde(default = "default_seeds")]
    pub seeds: Vec<u64>,
    /// Where and in what type to compute.
    #[serde(default)]
    pub compute: Compute,
    /// How the models' bases are kept, when they are measured and when they are fine-tuned: `nf4` is QLoRA. As the
    /// checkpoints have them where absent.
    #[serde(default)]
    pub quantize: Option<Quantize>,
    /// Weights that share a scale in 4 bits.
    #[serde(default = "default_block_size")]
    pub block_size: usize,
    /// Whether the scales are quantized too.
    #[serde(default = "default_double_quant")]
    pub double_quant: bool,
    /// The instruction data.
    #[serde(default)]
    pub data: DataConfig,
    /// The adapter put on each model.
    #[serde(default)]
    pub adapter: AdapterConfig,
    /// The balancing loss of mixtures of experts in fine-tuning.
    #[serde(default)]
    pub router_aux_loss: RouterAuxLoss,
    /// Training; its `seed` is replaced by each of [`seeds`](Self::seeds).
    #[serde(default)]
    pub training: TrainingConfig,
    /// What is measured before and after.
    #[serde(default)]
    pub evaluation: MeasureConfig,
    /// The models.
    pub models: Vec<ModelConfig>,
}

/// The balancing loss of mixtures of experts, as flags and files spell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouterAuxLoss {
    /// None, as transformers does unless `output_router_logits` is set.
    Off,
    /// Over all layers' routing taken together.
    #[default]
    Concatenated,
    /// The mean of each layer's.
    PerLayer,
}

impl From<RouterAuxLoss> for AuxiliaryLoss {
    fn from(form: RouterAuxLoss) -> Self {
        match form {
            RouterAuxLoss::Off => Self::Off,
            RouterAuxLoss::Concatenated => Self::Concatenated,
            RouterAuxLoss::PerLayer => Self::PerLayer,
        }
    }
}

fn default_seeds() -> Vec<u64> {
    vec![42]
}

fn default_block_size() -> usize {
    BaseConfig::default().block_size
}

fn default_double_quant() -> bool {
    BaseConfig::default().double_quant
}

/// A model of a study.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// What the report calls it.
    pub name: String,
    /// Its Hugging Face folder.
    pub path: PathBuf,
    /// How it came to be, for the report; the folder's name where absent.
    #[serde(default)]
    pub origin: Option<String>,
    /// What its records and held-out requests are written in.
    #[serde(default)]
    pub template: ModelTemplate,
}

/// What the records of a model are written in, when it trains and when it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelTemplate {
    /// The study's template, for base checkpoints. Benchmarks are asked in plain text.
    #[default]
    Study,
    /// The checkpoint's own chat template, for instruct checkpoints. Benchmarks go through it too.
    Chat,
}

/// The study's adapter: LoRA of rank 64, alpha 16, dropout 0.1 on `q_proj` and `v_proj`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterConfig {
    /// Rank.
    pub rank: i64,
    /// Alpha; the product is multiplied by alpha / rank.
    pub alpha: f64,
    /// Dropout on the product's input.
    pub dropout: f64,
    /// Names separated by commas, or `all-linear`, `peft-all-linear`, or a regular expression for whole paths.
    pub target_modules: Vec<String>,
    /// Whether the scaling is by the root of the rank.
    pub use_rslora: bool,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            rank: 64,
            alpha: 16.0,
            dropout: 0.1,
            target_modules: vec!["q_proj".to_owned(), "v_proj".to_owned()],
            use_rslora: false,
        }
    }
}

impl AdapterConfig {
    /// The same in the words of PEFT. A single name with `all-linear` or a character that no module name has is a word
    /// or a regular expression, as in PEFT's files.
    #[must_use]
    pub fn lora(&self) -> LoraConfig {
        LoraConfig {
            r: self.rank,
            lora_alpha: self.alpha,
            lora_dropout: self.dropout,
            target_modules: parse_targets(&self.target_modules),
            use_rslora: self.use_rslora,
            ..LoraConfig::default()
        }
    }
}

/// Whether a text is a regular expression for modules: it has a character that no name of a module has.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '(', '[', '|', '\\', '^', '$', '{'])
}

/// `target_modules` of a flag or file: several names are a list; a single one may be a word such as `all-linear` or a
/// regular expression.
pub(crate) fn parse_targets(names: &[String]) -> TargetModules {
    match names {
        [single] if single.ends_with("all-linear") || is_pattern(single) => TargetModules::parse(single),
        names => TargetModules::list(names.iter().cloned()),
    }
}

impl Study {
    /// Reads a TOML file. Relative paths in it are relative to the file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::StudyFile`] with the line of the mistake, [`Error::Setting`].
    pub fn open(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let mut study: Self = toml::from_str(&text)
            .map_err(|source| Error::StudyFile { path: path.to_owned(), source: Box::new(source) })?;
        study.resolve(path.parent().unwrap_or(Path::new("")));
        study.validate()?;
        Ok(study)
    }

    fn resolve(&mut self, base: &Path) {
        let DataConfig { files, train, validation, test, cache, .. } = &mut self.data;
        let listed = [files, train, validation, test].into_iter().flatten();
        let models = self.models.iter_mut().map(|model| &mut model.path);
        for path in listed.chain(models).chain(cache).chain(self.evaluation.paths()) {
            *path = base.join(&*path);
        }
    }

    /// Checks what can be checked without opening a model.
    ///
    /// # Errors
    /// [`Error::Setting`], the trainer's and the adapter's own refusals.
    pub fn validate(&self) -> Result<()> {
        let setting = |setting: &'static str, found: String, expected: &str| {
            Err(Error::Setting { setting: setting.into(), found, expected: expected.to_owned() })
        };
        if self.models.is_empty() {
            return setting("models", "empty".to_owned(), "at least one model");
        }
        if self.seeds.is_empty() {
            return setting("seeds", "empty".to_owned(), "at least one seed");
        }
        if let Some(seed) = repeated(self.seeds.iter().copied()) {
            return setting(
                "seeds",
                format!("{seed} twice"),
                "each seed once: a repeated run is no further evidence",
            );
        }
        if let Some(model) = self.models.iter().find(|model| slug(&model.name).is_empty()) {
            let expected = "a name with a letter or a digit of ASCII, since its folder is called by them";
            return setting("models.name", format!("{:?}", model.name), expected);
        }
        if let Some(name) = repeated(self.models.iter().map(|model| slug(&model.name))) {
            return setting(
                "models.name",
                format!("`{name}` twice"),
                "names that give each model a folder of its own",
            );
        }
        self.training.validate()?;
        self.adapter.lora().check("the study")?;
        self.base().quantization()?;
        self.evaluation.validate()
    }

    /// How the models' bases are kept.
    #[must_use]
    pub fn base(&self) -> BaseConfig {
        BaseConfig { quantize: self.quantize, block_size: self.block_size, double_quant: self.double_quant }
    }
}

/// The lowest value that occurs more than once.
fn repeated<T: Ord>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort();
    let place = values.windows(2).position(|pair| pair[0] == pair[1])?;
    Some(values.swap_remove(place))
}

#[cfg(test)]
mod tests {
    use ferrotune_adapters::{ModuleNames, Quantization};

    use super::{BaseConfig, Study, TargetModules, parse_targets};

    fn refused(seeds: &str, names: [&str; 2]) -> Option<String> {
        let [first, second] = names;
        let text = format!(
            "title = \"t\"\nseeds = {seeds}\n[[models]]\nname = \"{first}\"\npath = \"a\"\n[[models]]\nname = \"{second}\"\npath \
             = \"b\"\n"
        );
        let study: Study = toml::from_str(&text).unwrap();
        study.validate().err().map(|error| error.to_string())
    }

    #[test]
    fn a_study_names_how_its_bases_are_kept() {
        let study = |settings: &str| -> Study {
            toml::from_str(&format!("title = \"t\"\n{settings}\n[[models]]\nname = \"A\"\npath = \"a\"\n"))
                .unwrap()
        };
        assert_eq!(study("").base(), BaseConfig::default());
        let qlora = study("quantize = \"nf4\"");
        assert_eq!(qlora.base().quantization().unwrap(), Some(Quantization::default()));
        assert_eq!(qlora.base().describe(), "NF4 in blocks of 64, double quantization");
        let other = study("quantize = \"fp4\"\nblock_size = 128\ndouble_quant = false");
        assert_eq!(other.base().describe(), "FP4 in blocks of 128");
        assert_eq!(study("quantize = \"none\"").base().quantization().unwrap(), None);
        let message = study("quantize = \"nf4\"\nblock_size = 48").validate().unwrap_err().to_string();
        assert!(message.starts_with("setting `block_size` is 48, expected 32, 64"), "{message}");
    }

    #[test]
    fn a_target_with_a_character_that_no_name_has_is_a_regular_expression() {
        let parsed =
            |names: &[&str]| parse_targets(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        for pattern in [".*_proj", "(q|v)_proj", "[qv]_proj", "w\\d", "q_pro{1}j"] {
            assert_eq!(
                parsed(&[pattern]),
                TargetModules::Named(ModuleNames::Pattern(pattern.to_owned())),
                "{pattern}"
            );
        }
        assert_eq!(parsed(&["all-linear"]), TargetModules::AllLinear);
        assert_eq!(parsed(&["q_proj"]), TargetModules::list(["q_proj"]));
    }

    #[test]
    fn what_would_share_a_folder_or_count_twice_is_refused() {
        assert_eq!(refused("[2, 1]", ["A b", "A c"]), None);
        for (seeds, names, expected) in [
            ("[1, 2, 1]", ["A", "B"], "setting `seeds` is 1 twice"),
            ("[]", ["A", "B"], "setting `seeds` is empty"),
            ("[1]", ["A b", "a-B"], "setting `models.name` is `a-b` twice"),
            ("[1]", ["A", "混合"], "setting `models.name` is \"混合\""),
        ] {
            let message = refused(seeds, names).unwrap();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}

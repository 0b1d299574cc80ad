//! What to adapt and how: the fields of PEFT's `LoraConfig` that act here.

use std::{fmt, str::FromStr};

use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// What to adapt with LoRA and how; fields are named as in `adapter_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank of the added product, above 0.
    pub r: i64,
    /// The added product is multiplied by `lora_alpha / r`, or `lora_alpha / √r` with [`use_rslora`](Self::use_rslora).
    pub lora_alpha: f64,
    /// Probability with which an element of the added product's input is dropped in training, in [0, 1). On experts, too.
    pub lora_dropout: f64,
    /// The linear maps to adapt.
    pub target_modules: TargetModules,
    /// Parameters to adapt, named as transformers 5 does: `mlp.experts.gate_up_proj` is all experts' `w1` and `w3`.
    pub target_parameters: Vec<String>,
    /// Linear maps that stay as they are although they are targeted.
    pub exclude_modules: Option<ModuleNames>,
    /// The layers in which to adapt what a list of targets names; empty for all.
    pub layers_to_transform: Vec<i64>,
    /// The name of the list of layers, if it is not the first numbered one; regular expressions.
    pub layers_pattern: Vec<String>,
    /// Other ranks for the modules that a pattern matches; the first match counts.
    pub rank_pattern: Vec<(String, i64)>,
    /// Other alphas, likewise.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Which biases of the base train.
    pub bias: Bias,
    /// Whether the added product has a bias of its own.
    pub lora_bias: bool,
    /// Whether the scaling is by the root of the rank (rank-stabilized LoRA).
    pub use_rslora: bool,
    /// Whether each row of an adapted weight has a magnitude of its own that trains (DoRA).
    pub use_dora: bool,
    /// Modules of which a full copy trains: those whose path ends in one of these, as PEFT has it, so that `norm` means
    /// every normalization and `model.norm` the last.
    pub modules_to_save: Vec<String>,
    /// How the factors start.
    pub init_lora_weights: Init,
    /// What the model is for, `CAUSAL_LM`.
    pub task_type: Option<String>,
    /// The base, for the reader of the file.
    pub base_model_name_or_path: Option<String>,
    /// All other fields of the file that was read, kept for writing.
    pub other: Map<String, Value>,
}

/// PEFT's defaults, with its targets for the LLaMA and Mixtral families.
impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::list(["q_proj", "v_proj"]),
            target_parameters: Vec::new(),
            exclude_modules: None,
            layers_to_transform: Vec::new(),
            layers_pattern: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            bias: Bias::None,
            lora_bias: false,
            use_rslora: false,
            use_dora: false,
            modules_to_save: Vec::new(),
            init_lora_weights: Init::Default,
            task_type: Some("CAUSAL_LM".to_owned()),
            base_model_name_or_path: None,
            other: Map::new(),
        }
    }
}

/// Modules by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleNames {
    /// Each name is a whole path or its last segments.
    List(Vec<String>),
    /// A regular expression for the whole path.
    Pattern(String),
}

/// The linear maps to adapt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// By name. An empty list leaves the targeting to `target_parameters`.
    Named(ModuleNames),
    /// `all-linear`: attention, dense MLP and experts; never the router or the head.
    AllLinear,
    /// `peft-all-linear`: what PEFT's own `all-linear` finds on transformers 5, where experts are not linear modules:
    /// attention and dense MLP.
    PeftAllLinear,
}

impl TargetModules {
    /// Modules by the last segments of their paths.
    #[must_use]
    pub fn list<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Self {
        Self::Named(ModuleNames::List(names.into_iter().map(Into::into).collect()))
    }

    /// A field's string: one of the two words, or else a regular expression.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.to_lowercase().as_str() {
            "all-linear" => Self::AllLinear,
            "peft-all-linear" => Self::PeftAllLinear,
            _ => Self::Named(ModuleNames::Pattern(text.to_owned())),
        }
    }
}

/// Which biases of the base train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// Every one in the model.
    All,
    /// Those of adapted modules.
    LoraOnly,
}

/// How the factors start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// `true`: A uniform within 1/√in (Kaiming with a = √5), B zero.
    #[default]
    Default,
    /// `false`: both random, for tests.
    Random,
    /// `gaussian`: A normal with standard deviation 1/r, B zero.
    Gaussian,
    /// `pissa`: the largest singular values of the weight, which the base loses. `pissa_niter_N`: the same by a randomized
    /// decomposition, many times faster; 16 iterations are usual.
    Pissa {
        /// Power iterations; nothing for an exact decomposition.
        iterations: Option<u32>,
    },
    /// `olora`: the first columns and rows of a QR decomposition of the weight, which the base loses.
    Olora,
    /// `loftq`: what the base loses by being quantized, as far as the rank goes.
    Loftq {
        /// How often quantizing and decomposing alternate, above 0; 1 is PEFT's default.
        iterations: u32,
    },
    /// Another of PEFT's words. Accepted only in a file that is read, and only if it says nothing about how to read it.
    Other(String),
}

impl Init {
    /// Whether first values come from the base's weights.
    pub(crate) fn derives(&self) -> bool {
        matches!(self, Self::Pissa { .. } | Self::Olora | Self::Loftq { .. })
    }

    /// Whether the base loses something to the adapter, which then fits only the base so changed while it trains. To go on
    /// with such a run takes [`Lora::resume`](crate::Lora::resume).
    #[must_use]
    pub fn changes_base(&self) -> bool {
        match self {
            Self::Pissa { .. } | Self::Olora => true,
            Self::Loftq { iterations } => *iterations > 1,
            _ => false,
        }
    }
}

/// In PEFT's words, with `true` for the default and `false` for random values; and `loftq_iter_N` for LoftQ with more
/// than one iteration, which PEFT's files say in another field.
impl FromStr for Init {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        let number = |text: &str| text.parse().ok();
        let init = match word {
            "true" => Some(Self::Default),
            "false" => Some(Self::Random),
            "gaussian" => Some(Self::Gaussian),
            "pissa" => Some(Self::Pissa { iterations: None }),
            "olora" => Some(Self::Olora),
            "loftq" => Some(Self::Loftq { iterations: 1 }),
            _ => word.strip_prefix("pissa_niter_").and_then(number).map_or_else(
                || {
                    word.strip_prefix("loftq_iter_")
                        .and_then(number)
                        .map(|iterations| Self::Loftq { iterations })
                },
                |iterations| Some(Self::Pissa { iterations: Some(iterations) }),
            ),
        };
        init.ok_or_else(|| Error::Config {
            field: "init_lora_weights".to_owned(),
            place: "the LoRA configuration".to_owned(),
            found: format!("{word:?}"),
            expected: "true, false, gaussian, pissa, pissa_niter_N, olora, loftq or loftq_iter_N".to_owned(),
        })
    }
}

/// As in `adapter_config.json`; the number of LoftQ's iterations stands in another field there.
impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("true"),
            Self::Random => f.write_str("false"),
            Self::Gaussian => f.write_str("gaussian"),
            Self::Pissa { iterations: None } => f.write_str("pissa"),
            Self::Pissa { iterations: Some(iterations) } => write!(f, "pissa_niter_{iterations}"),
            Self::Olora => f.write_str("olora"),
            Self::Loftq { .. } => f.write_str("loftq"),
            Self::Other(word) => f.write_str(word),
        }
    }
}

impl LoraConfig {
    /// Whether the values make sense together; what building an adapter begins with.
    ///
    /// # Errors
    /// [`Error::Config`] and, for an initialization that changes the base, [`Error::Unsupported`].
    pub fn check(&self, place: &str) -> Result<()> {
        let wrong = |field: &str, found: Value, expected: &str| {
            Err(Error::Config {
                field: field.to_owned(),
                place: place.to_owned(),
                found: found.to_string(),
                expected: expected.to_owned(),
            })
        };
        if self.r < 1 {
            return wrong("r", json!(self.r), "an integer above 0");
        }
        if let Some((pattern, rank)) = self.rank_pattern.iter().find(|(_, rank)| *rank < 1) {
            return wrong("rank_pattern", json!({ pattern: rank }), "integers above 0");
        }
        if !self.lora_alpha.is_finite() {
            return wrong("lora_alpha", json!(self.lora_alpha.to_string()), "a finite number");
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return wrong(
                "lora_dropout",
                json!(self.lora_dropout),
                "a probability of at least 0 and below 1",
            );
        }
        let listed = matches!(self.target_modules, TargetModules::Named(ModuleNames::List(_)));
        if !listed && !self.layers_to_transform.is_empty() {
            let expected =
                "absent where target_modules is not a list; name the layers in the regular expression";
            return wrong("layers_to_transform", json!(self.layers_to_transform), expected);
        }
        if !self.layers_pattern.is_empty() && self.layers_to_transform.is_empty() {
            let expected = "absent where layers_to_transform is absent";
            return wrong("layers_pattern", json!(self.layers_pattern), expected);
        }
        if self.lora_bias && !matches!(self.init_lora_weights, Init::Default | Init::Random) {
            return wrong("lora_bias", json!(true), "false with this init_lora_weights");
        }
        if !self.target_parameters.is_empty() && self.lora_bias {
            return wrong("lora_bias", json!(true), "false with target_parameters");
        }
        if self.use_dora && self.lora_bias {
            return wrong("lora_bias", json!(true), "false with use_dora");
        }
        if self.use_dora && !self.target_parameters.is_empty() {
            let expected = "false with target_parameters, for which PEFT has no magnitudes; name the experts' matrices in \
                            target_modules";
            return wrong("use_dora", json!(true), expected);
        }
        if let Init::Loftq { iterations: 0 } = self.init_lora_weights {
            return wrong("loftq_iter", json!(0), "an integer above 0");
        }
        if self.init_lora_weights.derives() {
            let word = json!(self.init_lora_weights.to_string());
            if !self.target_parameters.is_empty() {
                return wrong("init_lora_weights", word, "true, false or gaussian with target_parameters");
            }
            let alphas = self.alpha_pattern.iter().map(|(_, alpha)| *alpha);
            if let Some(alpha) = alphas.chain([self.lora_alpha]).find(|alpha| *alpha <= 0.0) {
                return wrong(
                    "lora_alpha",
                    json!(alpha),
                    &format!("a number above 0 with init_lora_weights {word}"),
                );
            }
        }
        let listed_names = match &self.target_modules {
            TargetModules::Named(ModuleNames::List(names)) => names.as_slice(),
            _ => &[],
        };
        for (field, names) in [
            ("target_modules", listed_names),
            ("target_parameters", &self.target_parameters),
            ("modules_to_save", &self.modules_to_save),
        ] {
            if names.iter().any(String::is_empty) {
                return wrong(field, json!(names), "names that are not empty");
            }
        }
        let nothing = self.target_modules == TargetModules::list::<String>([])
            && self.target_parameters.is_empty()
            && self.modules_to_save.is_empty()
            && self.bias != Bias::All;
        if nothing {
            return wrong(
                "target_modules",
                Value::Null,
                "a list of names, a regular expression or all-linear",
            );
        }
        match &self.init_lora_weights {
            Init::Other(word)
                if CHANGES_BASE.iter().any(|prefix| word.to_lowercase().starts_with(prefix)) =>
            {
                Err(Error::Unsupported {
                    field: "init_lora_weights".to_owned(),
                    place: place.to_owned(),
                    found: json!(word).to_string(),
                    remedy:
                        "it changes the base model's weights; convert the adapter to a plain one with PEFT's \
                             `path_initial_model_for_weight_conversion`"
                            .to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Refuses an adapter that changes the base for itself, where its base is not its own.
    pub(crate) fn require_plain(&self, place: &str) -> Result<()> {
        if !self.init_lora_weights.changes_base() {
            return Ok(());
        }
        Err(Error::Unsupported {
            field: "init_lora_weights".to_owned(),
            place: place.to_owned(),
            found: json!(self.init_lora_weights.to_string()).to_string(),
            remedy: "it takes a part out of the base; build a model with this adapter alone and save it, which makes a \
                     plain one for the base as it is"
                .to_owned(),
        })
    }

    /// The configuration of the same adapter over the base as it is, where `doubled` products of the first values were
    /// added to its own.
    pub(crate) fn plain(&self, doubled: bool) -> Self {
        let plain = Self { init_lora_weights: Init::Default, ..self.clone() };
        if !doubled {
            return plain;
        }
        // Twice the rank with the scaling that there was.
        let factor = if self.use_rslora { std::f64::consts::SQRT_2 } else { 2.0 };
        Self {
            r: 2 * self.r,
            lora_alpha: factor * self.lora_alpha,
            rank_pattern: self.rank_pattern.iter().map(|(name, rank)| (name.clone(), 2 * rank)).collect(),
            alpha_pattern: self
                .alpha_pattern
                .iter()
                .map(|(name, alpha)| (name.clone(), factor * alpha))
                .collect(),
            ..plain
        }
    }

    /// What multiplies the added product of a rank and an alpha.
    pub(crate) fn scaling(&self, rank: i64, alpha: f64) -> f64 {
        if self.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 }
    }
}

/// Initializations that take a part out of the base, so that the adapter fits only the base so changed.
const CHANGES_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga", "mica"]; // those known are no `Other`

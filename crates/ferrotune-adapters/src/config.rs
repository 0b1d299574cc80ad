//! `adapter_config.json`: the fields of PEFT's `LoraConfig` that act here, and a careful look at those that do not.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// The version of PEFT whose files these are.
const PEFT_VERSION: &str = "0.21.2";

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
    /// Another of PEFT's words. Accepted only in a file that is read, and only if it says nothing about how to read it.
    Other(String),
}

impl LoraConfig {
    /// Reads the fields of an `adapter_config.json`; `place` names them in messages. Unknown fields are kept.
    ///
    /// # Errors
    /// [`Error::Config`] for a field of another type or range; [`Error::Unsupported`] for another `peft_type` and for an
    /// option that changes the mathematics and is not implemented.
    pub fn from_fields(fields: Map<String, Value>, place: &str) -> Result<Self> {
        let mut fields = Fields { fields, place };
        match fields.take::<String>("peft_type", "a string")?.as_deref() {
            Some("LORA") => {}
            Some(other) => {
                return Err(fields.unsupported("peft_type", &json!(other), "only LORA adapters are read"));
            }
            None => return Err(fields.wrong("peft_type", &Value::Null, "\"LORA\"")),
        }
        let defaults = Self::default();
        let config = Self {
            r: fields.take("r", "an integer")?.unwrap_or(defaults.r),
            lora_alpha: fields.take("lora_alpha", "a number")?.unwrap_or(defaults.lora_alpha),
            lora_dropout: match fields.fields.get(EXPERT_DROPOUT).and_then(Value::as_f64) {
                Some(dropout) => {
                    fields.take("lora_dropout", "a number")?.filter(|&other| other > 0.0).unwrap_or(dropout)
                }
                None => fields.take("lora_dropout", "a number")?.unwrap_or(0.0),
            },
            target_modules: match fields.names("target_modules")? {
                None => TargetModules::list::<String>([]),
                Some(ModuleNames::Pattern(text)) => TargetModules::parse(&text),
                Some(list) => TargetModules::Named(list),
            },
            target_parameters: fields.take("target_parameters", "a list of names")?.unwrap_or_default(),
            exclude_modules: fields.names("exclude_modules")?,
            layers_to_transform: fields
                .one_or_several("layers_to_transform", "an integer or a list of them")?,
            layers_pattern: fields.one_or_several("layers_pattern", "a string or a list of them")?,
            rank_pattern: fields.patterns("rank_pattern", "an object of patterns and integers")?,
            alpha_pattern: fields.patterns("alpha_pattern", "an object of patterns and numbers")?,
            bias: match fields.take::<String>("bias", "a string")?.as_deref() {
                None | Some("none") => Bias::None,
                Some("all") => Bias::All,
                Some("lora_only") => Bias::LoraOnly,
                Some(other) => return Err(fields.wrong("bias", &json!(other), "none, all or lora_only")),
            },
            lora_bias: fields.take("lora_bias", "true or false")?.unwrap_or(false),
            use_rslora: fields.take("use_rslora", "true or false")?.unwrap_or(false),
            modules_to_save: fields.take("modules_to_save", "a list of names")?.unwrap_or_default(),
            init_lora_weights: fields.init()?,
            task_type: fields.take("task_type", "a string")?,
            base_model_name_or_path: fields.take("base_model_name_or_path", "a string")?,
            other: Map::new(),
        };
        for (field, remedy) in REFUSED {
            if let Some(value) = fields.fields.get(*field).filter(|value| !is_off(value)) {
                return Err(fields.unsupported(field, value, remedy));
            }
        }
        // Written by every writer about itself; nothing in them says how to read the adapter.
        for field in ["peft_version", "inference_mode"] {
            fields.fields.remove(field);
        }
        // Defaults are written anyway; keeping them would make equal configurations unequal.
        for (field, default) in PASSIVE {
            if fields.fields.get(*field).is_some_and(|value| *value == default()) {
                fields.fields.remove(*field);
            }
        }
        let config = Self { other: fields.fields, ..config };
        config.check(place)?;
        Ok(config)
    }

    /// The fields as PEFT writes them: all of them, sorted.
    ///
    /// `all-linear` stands as it is; an adapter that was built writes the names it found.
    #[must_use]
    pub fn to_fields(&self) -> BTreeMap<String, Value> {
        let mut fields: BTreeMap<String, Value> =
            PASSIVE.iter().map(|(field, default)| ((*field).to_owned(), default())).collect();
        fields.extend(self.other.clone());
        let list = |names: &[String]| if names.is_empty() { Value::Null } else { json!(names) };
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            json!(names)
        };
        let mut set = |field: &str, value: Value| drop(fields.insert(field.to_owned(), value));
        set("peft_type", json!("LORA"));
        set("peft_version", json!(PEFT_VERSION));
        set("inference_mode", json!(true));
        set("task_type", json!(self.task_type));
        set("base_model_name_or_path", json!(self.base_model_name_or_path));
        set("r", json!(self.r));
        set("lora_alpha", number(self.lora_alpha));
        let hidden = self.other.contains_key(EXPERT_DROPOUT);
        set("lora_dropout", json!(if hidden { 0.0 } else { self.lora_dropout }));
        set(
            "target_modules",
            match &self.target_modules {
                TargetModules::Named(ModuleNames::List(names)) => sorted(names),
                TargetModules::Named(ModuleNames::Pattern(pattern)) => json!(pattern),
                TargetModules::AllLinear => json!("all-linear"),
                TargetModules::PeftAllLinear => json!("peft-all-linear"),
            },
        );
        set(
            "target_parameters",
            if self.target_parameters.is_empty() { Value::Null } else { sorted(&self.target_parameters) },
        );
        set(
            "exclude_modules",
            match &self.exclude_modules {
                None => Value::Null,
                Some(ModuleNames::List(names)) => sorted(names),
                Some(ModuleNames::Pattern(pattern)) => json!(pattern),
            },
        );
        let layers = &self.layers_to_transform;
        set("layers_to_transform", if layers.is_empty() { Value::Null } else { json!(layers) });
        set("layers_pattern", list(&self.layers_pattern));
        set("rank_pattern", json!(self.rank_pattern.iter().cloned().collect::<BTreeMap<_, _>>()));
        let alphas = self.alpha_pattern.iter().map(|(pattern, alpha)| (pattern.clone(), number(*alpha)));
        set("alpha_pattern", json!(alphas.collect::<BTreeMap<_, _>>()));
        let bias = match self.bias {
            Bias::None => "none",
            Bias::All => "all",
            Bias::LoraOnly => "lora_only",
        };
        set("bias", json!(bias));
        set("lora_bias", json!(self.lora_bias));
        set("use_rslora", json!(self.use_rslora));
        set("modules_to_save", list(&self.modules_to_save));
        set(
            "init_lora_weights",
            match &self.init_lora_weights {
                Init::Default => json!(true),
                Init::Random => json!(false),
                Init::Gaussian => json!("gaussian"),
                Init::Other(word) => json!(word),
            },
        );
        fields
    }

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

    /// Writes the dropout under a name of our own from now on, since PEFT reads no adapter of experts that has one.
    pub(crate) fn hide_dropout(&mut self) {
        if self.lora_dropout > 0.0 {
            self.other.insert(EXPERT_DROPOUT.to_owned(), json!(self.lora_dropout));
        }
    }

    /// What multiplies the added product of a rank and an alpha.
    pub(crate) fn scaling(&self, rank: i64, alpha: f64) -> f64 {
        if self.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 }
    }
}

impl Serialize for LoraConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_fields().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LoraConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Map::deserialize(deserializer)?;
        Self::from_fields(fields, "the adapter configuration").map_err(serde::de::Error::custom)
    }
}

/// The dropout with which an adapter of experts was trained. PEFT on transformers 5 adds its products to the experts'
/// weights, where no input could be dropped, and refuses `lora_dropout` there even to evaluate.
const EXPERT_DROPOUT: &str = "ferrotune_lora_dropout";

/// Initializations that take a part out of the base, so that the adapter fits only the base so changed.
const CHANGES_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga", "mica"];

/// Options that change what is computed, and what to do about them.
const REFUSED: &[(&str, &str)] = &[
    ("use_dora", "merge the adapter with PEFT, or train one without it"),
    ("use_qalora", "merge the adapter with PEFT, or train one without it"),
    ("use_bdlora", "train an adapter without it"),
    ("alora_invocation_tokens", "train an adapter without it"),
    ("arrow_config", "use one adapter alone"),
    ("ensure_weight_tying", "set it to false and name what trains in modules_to_save"),
    ("fan_in_fan_out", "no model here stores its weights transposed; set it to false"),
    ("kasa_config", "merge the adapter with PEFT, or train one without it"),
    ("layer_replication", "merge the adapter with PEFT into a model of that many layers"),
    ("megatron_config", "convert the adapter to plain linear layers"),
    ("monteclora_config", "train an adapter without it"),
    ("trainable_token_indices", "merge the adapter with PEFT, or name the embedding in modules_to_save"),
    ("velora_config", "train an adapter without it"),
];

/// The fields that PEFT writes and nothing here sets, with its defaults.
const PASSIVE: &[(&str, fn() -> Value)] = &[
    ("alora_invocation_tokens", || Value::Null),
    ("arrow_config", || Value::Null),
    ("auto_mapping", || Value::Null),
    ("corda_config", || Value::Null),
    ("ensure_weight_tying", || json!(false)),
    ("eva_config", || Value::Null),
    ("fan_in_fan_out", || json!(false)),
    ("kasa_config", || Value::Null),
    ("layer_replication", || Value::Null),
    ("loftq_config", || json!({})),
    ("lora_ga_config", || Value::Null),
    ("megatron_config", || Value::Null),
    ("megatron_core", || json!("megatron.core")),
    ("monteclora_config", || Value::Null),
    ("qalora_group_size", || json!(16)),
    ("revision", || Value::Null),
    ("trainable_token_indices", || Value::Null),
    ("use_bdlora", || Value::Null),
    ("use_dora", || json!(false)),
    ("use_qalora", || json!(false)),
    ("velora_config", || Value::Null),
];

/// Whether a value says that an option is not used.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
}

/// Whole numbers without a fraction, as PEFT's own files have them.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The fields of a file that are still to be read.
struct Fields<'p> {
    fields: Map<String, Value>,
    place: &'p str,
}

impl Fields<'_> {
    fn take<T: DeserializeOwned>(&mut self, field: &str, expected: &str) -> Result<Option<T>> {
        match self.fields.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|_| self.wrong(field, &value, expected)),
        }
    }

    fn one_or_several<T: DeserializeOwned>(&mut self, field: &str, expected: &str) -> Result<Vec<T>> {
        match self.fields.get(field) {
            None | Some(Value::Null | Value::Array(_)) => Ok(self.take(field, expected)?.unwrap_or_default()),
            Some(_) => Ok(self.take(field, expected)?.into_iter().collect()),
        }
    }

    fn names(&mut self, field: &str) -> Result<Option<ModuleNames>> {
        match self.fields.get(field) {
            Some(Value::String(_)) => Ok(self.take(field, "a string")?.map(ModuleNames::Pattern)),
            _ => Ok(self.take(field, "a list of names or a regular expression")?.map(ModuleNames::List)),
        }
    }

    fn patterns<T: DeserializeOwned>(&mut self, field: &str, expected: &str) -> Result<Vec<(String, T)>> {
        let object: Map<String, Value> = self.take(field, expected)?.unwrap_or_default();
        object
            .into_iter()
            .map(|(pattern, value)| match serde_json::from_value(value.clone()) {
                Ok(value) => Ok((pattern, value)),
                Err(_) => Err(self.wrong(field, &json!({ pattern: value }), expected)),
            })
            .collect()
    }

    fn init(&mut self) -> Result<Init> {
        Ok(match self.fields.remove("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(true)) => Init::Default,
            Some(Value::Bool(false)) => Init::Random,
            Some(Value::String(word)) if word.eq_ignore_ascii_case("gaussian") => Init::Gaussian,
            Some(Value::String(word)) => Init::Other(word),
            Some(other) => return Err(self.wrong("init_lora_weights", &other, "true, false or a word")),
        })
    }

    fn wrong(&self, field: &str, found: &Value, expected: &str) -> Error {
        let found = if found.is_null() { "absent".to_owned() } else { found.to_string() };
        Error::Config {
            field: field.to_owned(),
            place: self.place.to_owned(),
            found,
            expected: expected.to_owned(),
        }
    }

    fn unsupported(&self, field: &str, found: &Value, remedy: &str) -> Error {
        let (place, found) = (self.place.to_owned(), found.to_string());
        Error::Unsupported { field: field.to_owned(), place, found, remedy: remedy.to_owned() }
    }
}

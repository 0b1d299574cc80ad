//! `adapter_config.json`: fields that act are read and written, fields that would act and are not implemented are
//! refused, and all others are kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{Bias, Error, Init, LoraConfig, ModuleNames, Result, TargetModules, files::BEGAN};

/// The version of PEFT whose files these are.
const PEFT_VERSION: &str = "0.21.2";

/// What the plain form of an adapter that took a part out of its base says otherwise than its settings did.
const OF_BEGINNING: [&str; 6] =
    ["alpha_pattern", "init_lora_weights", "loftq_config", "lora_alpha", "r", "rank_pattern"];

/// The dropout with which an adapter of experts was trained. PEFT on transformers 5 adds its products to the experts'
/// weights, where no input could be dropped, and refuses `lora_dropout` there even to evaluate.
const EXPERT_DROPOUT: &str = "ferrotune_lora_dropout";

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
            use_dora: fields.take("use_dora", "true or false")?.unwrap_or(false),
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
        for (field, default) in passive() {
            if fields.fields.get(field) == Some(&default) {
                fields.fields.remove(field);
            }
        }
        for field in fields.fields.keys() {
            if field != EXPERT_DROPOUT && !passive().iter().any(|(known, _)| known == field) {
                tracing::warn!(field, place, "an unknown field is kept and has no effect");
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
            passive().into_iter().map(|(field, default)| (field.to_owned(), default)).collect();
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
        set("use_dora", json!(self.use_dora));
        set("modules_to_save", list(&self.modules_to_save));
        set(
            "init_lora_weights",
            match &self.init_lora_weights {
                Init::Default => json!(true),
                Init::Random => json!(false),
                other => json!(other.to_string()),
            },
        );
        if let Init::Loftq { iterations } = self.init_lora_weights {
            set("loftq_config", json!({ "loftq_bits": 4, "loftq_iter": iterations }));
        }
        fields
    }

    /// What of these settings their plain form leaves out, for the file of weights.
    pub(crate) fn beginning(&self) -> String {
        let fields = self.to_fields().into_iter().filter(|(field, _)| OF_BEGINNING.contains(&field.as_str()));
        Value::Object(fields.collect()).to_string()
    }

    /// The settings of which these are the plain form, by what [`beginning`](Self::beginning) gave; `place` names the file in
    /// messages.
    pub(crate) fn began(&self, text: &str, place: &str) -> Result<Self> {
        let wrong = |expected: &str| Error::Config {
            field: BEGAN.to_owned(),
            place: place.to_owned(),
            found: text.to_owned(),
            expected: expected.to_owned(),
        };
        let Ok(beginning) = serde_json::from_str::<Map<String, Value>>(text) else {
            return Err(wrong("a JSON object"));
        };
        let mut fields: Map<String, Value> = self.to_fields().into_iter().collect();
        fields.extend(beginning);
        let began = Self::from_fields(fields, place)?;
        let (plain, found) = (began.plain(true).to_fields(), self.to_fields());
        if !began.init_lora_weights.changes_base() || plain != found {
            return Err(wrong(
                "an initialization that changes the base, and half of the ranks and alphas of adapter_config.json, which must \
                 be as they were saved",
            ));
        }
        Ok(began)
    }

    /// Says whether the dropout is to be written under a name of our own, as PEFT reads no adapter of experts that has
    /// one.
    pub(crate) fn hide_dropout(&mut self, hide: bool) {
        if hide && self.lora_dropout > 0.0 {
            self.other.insert(EXPERT_DROPOUT.to_owned(), json!(self.lora_dropout));
        } else {
            self.other.remove(EXPERT_DROPOUT);
        }
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

/// Options that change what is computed, and what to do about them.
const REFUSED: &[(&str, &str)] = &[
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
fn passive() -> Vec<(&'static str, Value)> {
    vec![
        ("alora_invocation_tokens", Value::Null),
        ("arrow_config", Value::Null),
        ("auto_mapping", Value::Null),
        ("corda_config", Value::Null),
        ("ensure_weight_tying", json!(false)),
        ("eva_config", Value::Null),
        ("fan_in_fan_out", json!(false)),
        ("kasa_config", Value::Null),
        ("layer_replication", Value::Null),
        ("loftq_config", json!({})),
        ("lora_ga_config", Value::Null),
        ("megatron_config", Value::Null),
        ("megatron_core", json!("megatron.core")),
        ("monteclora_config", Value::Null),
        ("qalora_group_size", json!(16)),
        ("revision", Value::Null),
        ("trainable_token_indices", Value::Null),
        ("use_bdlora", Value::Null),
        ("use_qalora", json!(false)),
        ("velora_config", Value::Null),
    ]
}

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
            Some(Value::String(word)) if word == "loftq" => self.loftq()?,
            Some(Value::String(word)) => match word.parse() {
                Ok(init @ (Init::Pissa { .. } | Init::Olora)) => init,
                _ => Init::Other(word),
            },
            Some(other) => return Err(self.wrong("init_lora_weights", &other, "true, false or a word")),
        })
    }

    fn loftq(&mut self) -> Result<Init> {
        let config: Map<String, Value> = self.take("loftq_config", "an object")?.unwrap_or_default();
        let number = |field: &str, default| config.get(field).map_or(Some(default), Value::as_u64);
        match number("loftq_bits", 4) {
            Some(4) => {}
            _ => return Err(self.unsupported("loftq_bits", &config["loftq_bits"], "only 4 bits are")),
        }
        match number("loftq_iter", 1).and_then(|iterations| u32::try_from(iterations).ok()) {
            Some(iterations) => Ok(Init::Loftq { iterations }),
            None => Err(self.wrong("loftq_iter", &config["loftq_iter"], "an integer above 0")),
        }
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

//! `quantization_config` of a `config.json`.

use ferrotune_nf4::Codebook;
use ferrotune_nn::{Result, Role, WeightSpec, config::ConfigFile};
use serde_json::{Map, Value, json};
use tch::Kind;

use crate::nf4::Quantization;

/// What to do instead of reading another quantized format.
const REMEDY: &str = "take the model's 16-bit folder; the example `quantize` makes a 4-bit one of it";

/// The types by which a file may show the bytes of its codes.
const STORAGE_TYPES: [&str; 6] = ["uint8", "int8", "float16", "bfloat16", "float32", "float64"];

/// What a `config.json` says of its folder's 4-bit weights, in transformers' words.
///
/// It describes and does not decide: how a tensor is decoded stands beside the tensor, as bitsandbytes has it.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizationConfig {
    /// NF4 or FP4.
    pub bnb_4bit_quant_type: Codebook,
    /// Whether scales are in eight bits.
    pub bnb_4bit_use_double_quant: bool,
    /// The type in which transformers multiplies: `float32`, `bfloat16` or `float16`. It changes nothing here.
    pub bnb_4bit_compute_dtype: String,
    /// The type by which files show the codes' bytes, `uint8` if nothing is said.
    pub bnb_4bit_quant_storage: String,
    /// Modules that transformers does not quantize; nothing for its own choice, which is the head.
    pub llm_int8_skip_modules: Option<Vec<String>>,
}

impl QuantizationConfig {
    /// The field of `config.json` that holds it.
    pub const FIELD: &str = "quantization_config";

    /// What to write beside weights that [`quantize`](super::quantize) wrote; transformers is to multiply in `kind`.
    #[must_use]
    pub fn new(settings: &Quantization, kind: Kind, specs: &[WeightSpec]) -> Self {
        let module = |spec: &WeightSpec| {
            let path = spec.name.strip_suffix(".weight").unwrap_or(&spec.name);
            path.rsplit('.').next().unwrap_or(path).to_owned()
        };
        let named = |role| specs.iter().find(|spec| spec.role == role).map(module);
        // transformers leaves out the head by itself, but a router only if it is told so, and then also the head only if told.
        let skipped =
            named(Role::Router).map(|router| named(Role::Head).into_iter().chain([router]).collect());
        Self {
            bnb_4bit_quant_type: settings.codebook,
            bnb_4bit_use_double_quant: settings.double_quantization,
            bnb_4bit_compute_dtype: match kind {
                Kind::BFloat16 => "bfloat16",
                Kind::Half => "float16",
                _ => "float32",
            }
            .to_owned(),
            bnb_4bit_quant_storage: STORAGE_TYPES[0].to_owned(),
            llm_int8_skip_modules: skipped,
        }
    }

    /// Reads the field, if there is one. Keys that say nothing about how to read the weights are passed over.
    ///
    /// # Errors
    /// [`Error::Config`](ferrotune_nn::Error::Config) for another method than bitsandbytes', for eight bits and for values
    /// that are not of the format, by the key's name.
    pub fn read(file: &ConfigFile) -> Result<Option<Self>> {
        let Some(fields) = file.optional::<Map<String, Value>>(Self::FIELD)? else { return Ok(None) };
        let refuse = |key: &str, expected: &str| {
            let value = fields.get(key).unwrap_or(&Value::Null);
            file.refuse(&format!("{}.{key}", Self::FIELD), value, expected)
        };
        let present = |key: &str| fields.get(key).filter(|value| !value.is_null());
        // Files from before there were several methods do not name theirs.
        if present("quant_method").is_some_and(|method| method != "bitsandbytes") {
            return Err(refuse("quant_method", &format!("\"bitsandbytes\" (no other is read): {REMEDY}")));
        }
        let flag = |key: &str| match present(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| refuse(key, "true or false")),
        };
        let text = |key: &str, default: &str| match present(key) {
            None => Ok(default.to_owned()),
            Some(value) => value.as_str().map(str::to_owned).ok_or_else(|| refuse(key, "a word")),
        };
        if flag("load_in_8bit")? {
            return Err(refuse("load_in_8bit", &format!("false (8-bit weights are not read): {REMEDY}")));
        }
        if !flag("load_in_4bit")? {
            return Err(refuse("load_in_4bit", &format!("true (nothing else is read): {REMEDY}")));
        }
        let bnb_4bit_quant_type = match text("bnb_4bit_quant_type", "fp4")?.as_str() {
            "nf4" => Codebook::Nf4,
            "fp4" => Codebook::Fp4,
            _ => return Err(refuse("bnb_4bit_quant_type", "\"nf4\" or \"fp4\"")),
        };
        let bnb_4bit_quant_storage = text("bnb_4bit_quant_storage", STORAGE_TYPES[0])?;
        if !STORAGE_TYPES.contains(&bnb_4bit_quant_storage.as_str()) {
            return Err(refuse("bnb_4bit_quant_storage", &format!("one of {}", STORAGE_TYPES.join(", "))));
        }
        let skipped = present("llm_int8_skip_modules").map(|value| serde_json::from_value(value.clone()));
        Ok(Some(Self {
            bnb_4bit_quant_type,
            bnb_4bit_use_double_quant: flag("bnb_4bit_use_double_quant")?,
            bnb_4bit_compute_dtype: text("bnb_4bit_compute_dtype", "float32")?,
            bnb_4bit_quant_storage,
            llm_int8_skip_modules: skipped
                .transpose()
                .map_err(|_| refuse("llm_int8_skip_modules", "a list of names"))?,
        }))
    }

    /// The field's value, with every key that transformers writes.
    #[must_use]
    pub fn to_fields(&self) -> Value {
        let quant_type = match self.bnb_4bit_quant_type {
            Codebook::Nf4 => "nf4",
            Codebook::Fp4 => "fp4",
        };
        json!({
            "_load_in_4bit": true,
            "_load_in_8bit": false,
            "bnb_4bit_compute_dtype": self.bnb_4bit_compute_dtype,
            "bnb_4bit_quant_storage": self.bnb_4bit_quant_storage,
            "bnb_4bit_quant_type": quant_type,
            "bnb_4bit_use_double_quant": self.bnb_4bit_use_double_quant,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": self.llm_int8_skip_modules,
            "llm_int8_threshold": 6.0,
            "load_in_4bit": true,
            "load_in_8bit": false,
            "quant_method": "bitsandbytes",
        })
    }
}

//! The tensors by which bitsandbytes' files hold a 4-bit weight.

use ferrotune_nf4::{BlockSize, Codebook, DYNAMIC_MAP, NESTED_BLOCK_SIZE, check_nested_map};
use ferrotune_nn::Encoded;
use ferrotune_torch::SharedTensor;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{BlockScales, QuantizedTensor, ffi};
use crate::{Error, Result};

/// What the name of [`QuantState`]'s tensor starts with; the type follows.
const STATE: &str = "quant_state.bitsandbytes__";

/// What a file says of a 4-bit weight in JSON, in the fields' own words. Source: `QuantState.as_dict` in bitsandbytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantState {
    /// `nf4` or `fp4`.
    pub quant_type: String,
    /// Weights to a scale.
    pub blocksize: usize,
    /// The type that was quantized: `float32`, `float16` or `bfloat16`.
    pub dtype: String,
    /// The shape of the weight.
    pub shape: Vec<i64>,
    /// Scales to a second-level scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested_blocksize: Option<usize>,
    /// The type of the first-level scales.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested_dtype: Option<String>,
    /// What is added to decoded scales.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested_offset: Option<f64>,
}

impl QuantState {
    /// Whether a tensor stored beside a weight, by what follows the weight's name and a dot, is its state.
    #[must_use]
    pub fn is_named(part: &str) -> bool {
        part.strip_prefix(STATE).is_some_and(|kind| codebook_of(kind).is_some())
    }

    /// The format that `quant_type` names, if it is one.
    pub(crate) fn codebook(&self) -> Option<Codebook> {
        codebook_of(&self.quant_type)
    }

    /// The type that `dtype` names, if weights come in it.
    pub(crate) fn kind(&self) -> Option<Kind> {
        kind_of(&self.dtype)
    }

    /// Reads the state from its tensor of bytes.
    ///
    /// # Errors
    /// [`Error::QuantizedPart`] for what is not JSON, or not of these fields.
    pub fn parse(part: &str, tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.f_to_device(Device::Cpu)?.f_contiguous()?;
        let bytes = ffi::slice::<u8>(&tensor)?;
        serde_json::from_slice(bytes).map_err(|error| Error::QuantizedPart {
            part: part.to_owned(),
            found: error.to_string(),
            expected: "the JSON of a bitsandbytes quant_state".to_owned(),
        })
    }
}

impl QuantizedTensor {
    /// Takes the bytes of a bitsandbytes checkpoint as they are, after they were checked.
    ///
    /// # Errors
    /// [`Error::QuantizedPart`] for a part that is missing or is not what the format has there, [`Error::Format`] for
    /// a map that is not the format's, wrong lengths and scales that are not finite.
    pub fn from_encoded(encoded: &Encoded) -> Result<Self> {
        let parts = Parts(encoded);
        let Some((name, state)) = encoded.beside.iter().find(|(part, _)| QuantState::is_named(part)) else {
            return Err(missing(&format!("{STATE}nf4")));
        };
        let state = QuantState::parse(name, state)?;
        let field = |field: &str, found: &dyn std::fmt::Debug, expected: &str| Error::QuantizedPart {
            part: format!("{name}: {field}"),
            found: format!("{found:?}"),
            expected: expected.to_owned(),
        };
        let codebook =
            state.codebook().ok_or_else(|| field("quant_type", &state.quant_type, "nf4 or fp4"))?;
        let kind =
            state.kind().ok_or_else(|| field("dtype", &state.dtype, "float32, float16 or bfloat16"))?;
        if state.shape != encoded.shape {
            return Err(field("shape", &state.shape, &format!("{:?}", encoded.shape)));
        }
        let map = parts.part("quant_map", Kind::Float)?;
        codebook.check_map(ffi::slice(&map)?)?;
        let block_size = BlockSize::new(state.blocksize)?;
        let codes = bytes_of(&encoded.codes)?;
        let scales = if encoded.beside.contains_key("nested_absmax") {
            if state.nested_blocksize != Some(NESTED_BLOCK_SIZE) {
                return Err(field("nested_blocksize", &state.nested_blocksize, "256"));
            }
            let Some(offset) = state.nested_offset else {
                return Err(field("nested_offset", &state.nested_offset, "a number"));
            };
            let map = parts.part("nested_quant_map", Kind::Float)?;
            check_nested_map(ffi::slice(&map)?)?;
            BlockScales::Nested {
                codes: parts.part("absmax", Kind::Uint8)?,
                absmax: parts.part("nested_absmax", Kind::Float)?,
                offset: offset as f32,
            }
        } else {
            BlockScales::Plain(parts.part("absmax", Kind::Float)?)
        };
        Self::from_parts(state.shape, kind, codebook, block_size, codes.into(), scales)
    }

    /// The tensors by which a bitsandbytes file holds this weight, on the CPU.
    ///
    /// # Errors
    /// libtorch's.
    pub fn to_encoded(&self) -> Result<Encoded> {
        let host = |tensor: &Tensor| tensor.f_to_device(Device::Cpu);
        let settings = self.quantization();
        let quant_type = match settings.codebook {
            Codebook::Nf4 => "nf4",
            Codebook::Fp4 => "fp4",
        };
        let mut state = QuantState {
            quant_type: quant_type.to_owned(),
            blocksize: settings.block_size.get(),
            dtype: dtype_of(self.kind()).to_owned(),
            shape: self.shape().to_vec(),
            nested_blocksize: None,
            nested_dtype: None,
            nested_offset: None,
        };
        let mut beside = std::collections::BTreeMap::new();
        beside.insert("quant_map".to_owned(), Tensor::f_from_slice(settings.codebook.table())?);
        match self.scales() {
            BlockScales::Plain(absmax) => {
                beside.insert("absmax".to_owned(), host(absmax)?);
            }
            BlockScales::Nested { codes, absmax, offset } => {
                beside.insert("absmax".to_owned(), host(codes)?);
                beside.insert("nested_absmax".to_owned(), host(absmax)?);
                beside.insert("nested_quant_map".to_owned(), Tensor::f_from_slice(&DYNAMIC_MAP)?);
                state.nested_blocksize = Some(NESTED_BLOCK_SIZE);
                state.nested_dtype = Some(dtype_of(Kind::Float).to_owned());
                // Every f32 is an f64, whose digits the JSON holds in full.
                state.nested_offset = Some(f64::from(*offset));
            }
        }
        let name = format!("{STATE}{quant_type}");
        let json = serde_json::to_vec(&state).map_err(|error| Error::QuantizedPart {
            part: name.clone(),
            found: error.to_string(),
            expected: "finite numbers".to_owned(),
        })?;
        beside.insert(name, Tensor::f_from_slice(&json)?);
        let codes = host(self.codes())?.f_view([-1, 1])?;
        Ok(Encoded { shape: self.shape().to_vec(), codes, beside })
    }
}

struct Parts<'e>(&'e Encoded);

impl Parts<'_> {
    /// A part as a flat tensor.
    fn part(&self, name: &str, kind: Kind) -> Result<SharedTensor> {
        let part = self.0.beside.get(name).ok_or_else(|| missing(name))?;
        if part.kind() != kind {
            return Err(Error::QuantizedPart {
                part: name.to_owned(),
                found: format!("of type {:?}", part.kind()),
                expected: format!("{kind:?}"),
            });
        }
        Ok(part.f_contiguous()?.f_view([-1])?.into())
    }
}

/// The codes' bytes; a file may show them as numbers of another type (`bnb_4bit_quant_storage`).
fn bytes_of(codes: &Tensor) -> Result<Tensor> {
    Ok(codes.f_contiguous()?.f_view([-1])?.f_view_dtype(Kind::Uint8)?)
}

fn missing(part: &str) -> Error {
    Error::QuantizedPart {
        part: part.to_owned(),
        found: "missing".to_owned(),
        expected: "to be stored beside the codes".to_owned(),
    }
}

fn codebook_of(quant_type: &str) -> Option<Codebook> {
    match quant_type {
        "nf4" => Some(Codebook::Nf4),
        "fp4" => Some(Codebook::Fp4),
        _ => None,
    }
}

fn kind_of(dtype: &str) -> Option<Kind> {
    match dtype {
        "float32" => Some(Kind::Float),
        "float16" => Some(Kind::Half),
        "bfloat16" => Some(Kind::BFloat16),
        _ => None,
    }
}

fn dtype_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        _ => "float32",
    }
}

//! Rotary position embeddings in the half-split layout of Hugging Face checkpoints, with their context extensions.
//!
//! Source: transformers' `modeling_rope_utils.py`, whose formulas and order of 32-bit operations are matched. Angles
//! are always 32-bit; only cosines and sines are rounded to the compute type (bf16 holds integers exactly to 256 only).

use std::f64::consts::PI;

use ferrotune_torch::SharedTensor;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::{Error, Result, config::ConfigFile};

/// How positions become angles.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base of the wavelengths, `rope_theta`.
    pub theta: f64,
    /// What stretches the context.
    pub scaling: Scaling,
    /// Width of a head.
    pub head_dim: i64,
    /// Positions that the model was made for.
    pub max_position_embeddings: i64,
}

/// The context extensions that LLaMA-family configurations carry.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Scaling {
    /// None.
    Default,
    /// Positions divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// A base that grows with the sequence once it is longer than the model's positions ("dynamic NTK").
    ///
    /// All rows of a batch take the base of its whole width, padding included, as in transformers. So where some row is
    /// longer than the model's positions, the numbers of the others depend on what they are batched with.
    Dynamic {
        /// The factor.
        factor: f64,
    },
    /// Long wavelengths divided by a factor, short ones kept, a ramp between (LLaMA 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Positions before the extension.
        original: f64,
    },
    /// A ramp over rotations, and a temperature on the attention (Peng et al., 2023).
    Yarn {
        /// The factor.
        factor: f64,
        /// Multiplies cosines and sines.
        attention_factor: f64,
        /// Dimensions that rotate more often than this over the original context are kept.
        beta_fast: f64,
        /// Dimensions that rotate less often are interpolated.
        beta_slow: f64,
        /// Positions before the extension.
        original: f64,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
}

impl RopeConfig {
    /// Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (transformers 4), whose table may hold
    /// `rope_theta` too.
    ///
    /// `default_theta` is the family's own base for files that give none.
    ///
    /// # Errors
    /// [`Error::ConfigConflict`] if several spellings are there and disagree; [`Error::Config`] for a type that is not
    /// implemented, and for a parameter that is missing or out of range.
    pub fn read(config: &ConfigFile, head_dim: i64, default_theta: f64) -> Result<Self> {
        let max_position_embeddings = config.size("max_position_embeddings")?;
        config.only("partial_rotary_factor", &[json!(1.0)])?;
        let new = config.table("rope_parameters")?;
        let old = config.table("rope_scaling")?;
        let nested = |table: &Option<ConfigFile>| -> Result<Option<f64>> {
            Ok(table.as_ref().map(|table| table.optional("rope_theta")).transpose()?.flatten())
        };
        let thetas = [
            ("rope_parameters.rope_theta", nested(&new)?),
            ("rope_scaling.rope_theta", nested(&old)?),
            ("rope_theta", config.optional("rope_theta")?),
        ];
        let mut given = thetas.iter().filter_map(|&(field, theta)| Some((field, theta?)));
        let first = given.next();
        if let Some((field, theta)) = first
            && let Some((other, second)) = given.find(|&(_, other)| other != theta)
        {
            return Err(conflict(config, field, &json!(theta), other, &json!(second)));
        }
        let theta = first.map_or(default_theta, |(_, theta)| theta);
        if !(theta.is_finite() && theta > 1.0) {
            return Err(config.refuse("rope_theta", &json!(theta), "a number above 1"));
        }
        let read = |table: &ConfigFile| Scaling::read(table, config, max_position_embeddings);
        let scaling = match (new.as_ref().map(read).transpose()?, old.as_ref().map(read).transpose()?) {
            (Some(new_scaling), Some(old_scaling)) if new_scaling != old_scaling => {
                let text = |table: &Option<ConfigFile>| {
                    table.as_ref().map_or(Value::Null, |t| t.fields().clone().into())
                };
                return Err(conflict(config, "rope_parameters", &text(&new), "rope_scaling", &text(&old)));
            }
            (new, old) => new.or(old).unwrap_or(Scaling::Default),
        };
        Ok(Self { theta, scaling, head_dim, max_position_embeddings })
    }

    /// The longest sequence that the angles are meant for: extensions by position or base reach past the model's own
    /// positions, the others count theirs in.
    #[must_use]
    pub fn max_positions(&self) -> i64 {
        match self.scaling {
            Scaling::Linear { factor } | Scaling::Dynamic { factor } => {
                (self.max_position_embeddings as f64 * factor) as i64
            }
            _ => self.max_position_embeddings,
        }
    }
}

fn conflict(
    config: &ConfigFile,
    first: &str,
    first_value: &Value,
    second: &str,
    second_value: &Value,
) -> Error {
    Error::ConfigConflict {
        place: config.place().to_owned(),
        first: first.to_owned(),
        first_value: first_value.to_string(),
        second: second.to_owned(),
        second_value: second_value.to_string(),
    }
}

impl Scaling {
    fn read(table: &ConfigFile, config: &ConfigFile, max_position_embeddings: i64) -> Result<Self> {
        table.only("partial_rotary_factor", &[json!(1.0)])?;
        let spelt = |field| table.optional::<String>(field);
        let (rope_type, old_type) = (spelt("rope_type")?, spelt("type")?);
        if let (Some(first), Some(second)) = (&rope_type, &old_type)
            && first != second
        {
            return Err(conflict(table, "rope_type", &json!(first), "type", &json!(second)));
        }
        let kind = rope_type.or(old_type).unwrap_or_else(|| "default".to_owned());
        // Other families give each type of layer a table of its own here; none of it would be read.
        if let Some((field, nested)) = table.fields().iter().find(|(_, value)| value.is_object()) {
            return Err(table.refuse(field, nested, "absent: all layers share one rotary embedding"));
        }
        let number = |field: &str| -> Result<f64> {
            let value: f64 = table.required(field)?;
            if value.is_finite() && value > 0.0 {
                Ok(value)
            } else {
                Err(table.refuse(field, &json!(value), "a number above 0"))
            }
        };
        let factor = || -> Result<f64> {
            match number("factor")? {
                factor if factor >= 1.0 => Ok(factor),
                factor => Err(table.refuse("factor", &json!(factor), "a number of at least 1")),
            }
        };
        let positive = |table: &ConfigFile, field: &str, default: f64| -> Result<f64> {
            match table.optional::<f64>(field)?.unwrap_or(default) {
                value if value.is_finite() && value > 0.0 => Ok(value),
                value => Err(table.refuse(field, &json!(value), "a number above 0")),
            }
        };
        let original = || -> Result<f64> {
            const FIELD: &str = "original_max_position_embeddings";
            if let (Some(nested), Some(outer)) =
                (table.optional::<f64>(FIELD)?, config.optional::<f64>(FIELD)?)
                && nested != outer
            {
                let second = format!("{FIELD} of {}", table.place());
                return Err(conflict(config, FIELD, &json!(outer), &second, &json!(nested)));
            }
            positive(table, FIELD, positive(config, FIELD, max_position_embeddings as f64)?)
        };
        Ok(match kind.as_str() {
            "default" => Self::Default,
            "linear" => Self::Linear { factor: factor()? },
            "dynamic" => Self::Dynamic { factor: factor()? },
            "llama3" => {
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                if high <= low {
                    let expected = format!("a number above low_freq_factor, {low}");
                    return Err(table.refuse("high_freq_factor", &json!(high), &expected));
                }
                let (factor, original) = (factor()?, original()?);
                Self::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original }
            }
            "yarn" => {
                let factor = factor()?;
                let mscale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
                let scales = (table.optional::<f64>("mscale")?, table.optional::<f64>("mscale_all_dim")?);
                let inferred = match scales {
                    (Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => mscale(scale) / mscale(all),
                    _ => mscale(1.0),
                };
                Self::Yarn {
                    factor,
                    attention_factor: positive(table, "attention_factor", inferred)?,
                    beta_fast: positive(table, "beta_fast", 32.0)?,
                    beta_slow: positive(table, "beta_slow", 1.0)?,
                    original: original()?,
                    truncate: table.optional("truncate")?.unwrap_or(true),
                }
            }
            _ => {
                let expected = "default, linear, dynamic, llama3 or yarn (nothing else is implemented)";
                return Err(table.refuse("rope_type", &json!(kind), expected));
            }
        })
    }

    /// What cosines and sines are multiplied by.
    fn attention_factor(&self) -> f64 {
        match self {
            Self::Yarn { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }
}

/// The angles of a model, ready to rotate queries and keys.
#[derive(Clone, Debug)]
pub struct Rope {
    config: RopeConfig,
}

/// Cosines and sines of some positions, `[sequence, head_dim]` in the compute type.
#[derive(Debug)]
pub struct Rotations {
    /// Cosines.
    pub cos: SharedTensor,
    /// Sines.
    pub sin: SharedTensor,
}

impl Rope {
    /// Rotary embeddings as `config` says.
    #[must_use]
    pub fn new(config: RopeConfig) -> Self {
        Self { config }
    }

    /// Cosines and sines of the positions `start..start + count`.
    pub fn rotations(&self, start: i64, count: i64, kind: Kind, device: Device) -> Result<Rotations> {
        let frequencies = self.inverse_frequencies(start + count, device)?.f_unsqueeze(0)?; // [1, d/2]
        let positions =
            Tensor::f_arange_start(start, start + count, (Kind::Float, device))?.f_unsqueeze(1)?; // [t, 1]
        let angles = positions.f_mul(&frequencies)?; // [t, d/2]
        let angles = Tensor::f_cat(&[&angles, &angles], -1)?; // [t, d]
        let factor = self.config.scaling.attention_factor();
        let scaled = |table: Tensor| -> Result<SharedTensor> {
            Ok(table.f_mul_scalar(factor)?.f_to_kind(kind)?.into())
        };
        Ok(Rotations { cos: scaled(angles.f_cos()?)?, sin: scaled(angles.f_sin()?)? })
    }

    /// `1 / wavelength` of each pair of dimensions, `[head_dim / 2]` in 32 bits.
    fn inverse_frequencies(&self, sequence: i64, device: Device) -> Result<Tensor> {
        let RopeConfig { theta, head_dim, max_position_embeddings, .. } = self.config;
        let exponents = Tensor::f_arange_start_step(0, head_dim, 2, (Kind::Float, device))?
            .f_div_scalar(head_dim as f64)?;
        let wavelengths = |base: f64| Tensor::f_pow_scalar(base, &exponents);
        let inverse = |base: f64| wavelengths(base)?.f_reciprocal();
        Ok(match &self.config.scaling {
            Scaling::Default => inverse(theta)?,
            Scaling::Linear { factor } => inverse(theta)?.f_div_scalar(*factor)?,
            Scaling::Dynamic { factor } => {
                let made_for = max_position_embeddings as f64;
                let stretch = factor * (sequence as f64).max(made_for) / made_for - (factor - 1.0);
                let dimensions = head_dim as f64;
                inverse(theta * stretch.powf(dimensions / (dimensions - 2.0)))?
            }
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                llama3(&inverse(theta)?, *factor, *low_freq_factor, *high_freq_factor, *original)?
            }
            Scaling::Yarn { factor, beta_fast, beta_slow, original, truncate, .. } => {
                let kept = one_minus(&yarn_ramp(
                    head_dim, theta, *beta_fast, *beta_slow, *original, *truncate, device,
                )?)?;
                let wavelengths = wavelengths(theta)?;
                let interpolated = wavelengths.f_mul_scalar(*factor)?.f_reciprocal()?;
                let extrapolated = wavelengths.f_reciprocal()?;
                interpolated.f_mul(&one_minus(&kept)?)?.f_add(&extrapolated.f_mul(&kept)?)?
            }
        })
    }
}

fn llama3(inverse: &Tensor, factor: f64, low: f64, high: f64, original: f64) -> Result<Tensor> {
    let wavelengths = inverse.f_reciprocal()?.f_mul_scalar(2.0 * PI)?;
    let divided = inverse.f_div_scalar(factor)?;
    let smooth =
        wavelengths.f_reciprocal()?.f_mul_scalar(original)?.f_sub_scalar(low)?.f_div_scalar(high - low)?;
    let between = one_minus(&smooth)?.f_mul(&divided)?.f_add(&smooth.f_mul(inverse)?)?;
    let is_long = wavelengths.f_gt(original / low)?;
    let is_short = wavelengths.f_lt(original / high)?;
    Ok(divided.f_where_self(&is_long, &inverse.f_where_self(&is_short, &between)?)?)
}

fn one_minus(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_neg()?.f_add_scalar(1.0)?)
}

/// 0 where a dimension is kept, 1 where it is interpolated, `[head_dim / 2]`.
fn yarn_ramp(
    head_dim: i64,
    theta: f64,
    beta_fast: f64,
    beta_slow: f64,
    original: f64,
    truncate: bool,
    device: Device,
) -> Result<Tensor> {
    let dimension =
        |rotations: f64| head_dim as f64 * (original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min((head_dim - 1) as f64));
    if low == high {
        high += 0.001; // transformers' guard against a division by zero
    }
    let places = Tensor::f_arange(head_dim / 2, (Kind::Float, device))?;
    Ok(places.f_sub_scalar(low)?.f_div_scalar(high - low)?.f_clamp(0.0, 1.0)?)
}

impl Rotations {
    /// Rotates `x` of `[b, heads, t, head_dim]`, each operation rounded to its type.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let half = x.size()[3] / 2;
        let first = x.f_narrow(3, 0, half)?;
        let second = x.f_narrow(3, half, half)?;
        let turned = Tensor::f_cat(&[&second.f_neg()?, &first], -1)?; // [b, heads, t, head_dim]
        Ok(x.f_mul(&self.cos)?.f_add(&turned.f_mul(&self.sin)?)?)
    }
}

//! Model folders with 4-bit weights, as bitsandbytes and transformers write them.
//!
//! - [`QuantizationConfig`] is what `config.json` says of it.
//! - [`Decoded`] shows such a folder's tensors as the dense weights that they stand for, and hands out their bytes to a
//!   storage that keeps them.
//! - [`quantize`] writes one from any weights.

mod config;
mod source;
mod write;

pub use config::QuantizationConfig;
pub use source::Decoded;
pub use write::{Deviation, Quantized, RoleCount, quantize};
pub(crate) use write::{is_quantized, quantize_weight};

//! The parts that decoder models share, each rounded as transformers rounds it.

mod attention;
mod mlp;
mod norm;
mod rotary;

pub use attention::{Attention, AttentionConfig, AttentionContext};
pub use mlp::{GatedMlp, swiglu};
pub use norm::RmsNorm;
pub use rotary::{Rope, RopeConfig, Rotations, Scaling};

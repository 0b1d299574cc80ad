//! Blocks and contracts of decoder language models on libtorch.
//!
//! One decision carries this crate: a model is *handed* a [`ProjectionBuilder`] and asks it for every weight it
//! needs. It never learns what it got: a plain matrix, a quantized one, one with LoRA on it, one whose weights train.
//! A [`Storage`] makes matrices (dense here, 4-bit elsewhere), a builder makes projections out of matrices, so storage
//! formats and adapters add up instead of multiplying, and a new one changes no model.
//!
//! - [`seam`]: that contract, and [`Frozen`], [`Trainable`] and [`Dense`] that fulfil it without any adapter.
//! - [`weights`]: a cursor over named tensors; [`checkpoint`]: the Hugging Face folder behind it.
//! - [`CausalLm`]: what training, scoring and generation need of a model.
//! - [`blocks`]: normalization, rotary positions, attention and the gated MLP, rounded as transformers rounds them.
//! - [`loss`], [`generate`]: functions over any [`CausalLm`].
//! - [`plan`]: what a block keeps for its backward pass, as pure data.
//!
//! What works on tensors gives [`Error::Tensor`] or [`Error::Torch`] where libtorch refuses shapes, types or devices; the
//! documentation of a function lists what else it gives.

pub mod blocks;
pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod generate;
pub mod loss;
pub mod plan;
pub mod recompute;
pub mod seam;
pub mod weights;

mod error;
mod lm;
mod parameters;

pub use error::{Error, Result};
pub use lm::{CausalLm, Hidden, KvCache, Tokens};
pub use parameters::{Decay, Gradient, Parameters, Trained};
pub use seam::{
    Dense, Dims, Frozen, Grouped, GroupedMatrix, GroupedSite, Joint, Matrix, Mode, Parameter, Part, Pass,
    Projection, ProjectionBuilder, Role, RowGroups, Site, Storage, Trainable,
};
pub use weights::{Encoded, WeightSource, WeightSpec, Weights};

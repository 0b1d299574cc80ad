//! Contracts and plain data that the other crates of Ferrotune share.
//!
//! A trait lives in the lowest crate that both its implementors and its callers must reach. The traits here have
//! implementors with libtorch and callers without it (or the other way round), so they speak of text, ids and
//! numbers, never of tensors: datasets and metrics build and test in seconds, on any machine.
//!
//! - [`Tokenize`]: text to ids with character offsets, and back.
//! - [`Sample`]: one tokenized training record, with the positions whose prediction counts.
//! - [`LanguageModel`]: what evaluation asks of a model: log-likelihoods and generated text.
//! - [`PromptTemplate`]: a conversation to the prompt of a chat model.
//! - [`Embedder`]: sentences to vectors; [`TokenEmbedder`]: each of their tokens to one.
//! - [`digest`]: the content hash under which caches and reports name their inputs.
//! - [`extended`]: numbers that may be infinite, as every file here writes them.

mod chat;
mod embed;
mod language_model;
mod sample;
mod tokenize;

pub mod digest;
pub mod extended;

pub use chat::{Message, PromptTemplate, Role};
pub use embed::{Embedder, TokenEmbedder, TokenVectors};
pub use language_model::{Continuation, Generation, GenerationLimits, LanguageModel, Likelihood, StopReason};
pub use sample::Sample;
pub use tokenize::{Encoding, SpecialTokens, Tokenize};

/// An error of unknown type, for ports that strangers implement.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

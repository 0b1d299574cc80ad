//! BERT sentence encoders of the MiniLM family, as sentence-transformers runs them.
//!
//! [`SentenceEncoder`] implements [`ferrotune_core::Embedder`]: token states of the last layer, averaged over the
//! tokens, divided by their Euclidean norm. [`TokenEncoder`] implements [`ferrotune_core::TokenEmbedder`]: the states of
//! a chosen layer as they are, for BERTScore.

mod config;
mod encoder;
mod error;
mod model;
mod texts;
mod tokens;

pub use config::Config;
pub use encoder::SentenceEncoder;
pub use error::{Error, Result};
pub use model::Bert;
pub use tokens::TokenEncoder;

//! LLaMA 2, and Mistral 7B, which is the same block with a sliding window.
//!
//! [`Config`] reads `config.json`; [`Config::weights`] says what a checkpoint of it holds; [`Llama2::load`] builds the
//! model, asking a [`ferrotune_nn::ProjectionBuilder`] for every weight.

mod config;
mod model;

pub use config::{Config, Family};
pub use model::Llama2;

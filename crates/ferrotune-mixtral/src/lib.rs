//! Mixtral: a decoder whose MLP is a sparse mixture of experts.
//!
//! [`Config`] reads `config.json`; [`Config::weights`] says what a checkpoint of it holds, in both layouts that exist;
//! [`Mixtral::load`] builds the model, asking a [`ferrotune_nn::ProjectionBuilder`] for every weight.

mod balance;
mod config;
mod experts;
mod model;

pub use balance::AuxiliaryLoss;
pub use config::Config;
pub use model::Mixtral;

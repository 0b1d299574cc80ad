//! Mixtral: a decoder whose MLP is a sparse mixture of experts.
//!
//! [`Config`] reads `config.json`; [`Config::weights`] says what a checkpoint of it holds, in both layouts that exist;
//! [`Mixtral::load`] builds the model, asking a [`ferrotune_nn::ProjectionBuilder`] for every weight.
//!
//! ```
//! use ferrotune_mixtral::{AuxiliaryLoss, Config, Mixtral};
//! use ferrotune_nn::{CausalLm, Dense, Frozen, Pass, Tokens, config::ConfigFile, weights::Initialized};
//! use tch::{Device, Kind, Tensor};
//!
//! let fields = serde_json::json!({
//!     "model_type": "mixtral", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
//!     "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
//!     "num_local_experts": 4, "num_experts_per_tok": 2,
//! });
//! let file = ConfigFile::from_fields("the example", fields.as_object().cloned().unwrap_or_default());
//! let config = Config::read(&file)?;
//! // Fresh weights; those of a folder come from `ferrotune_nn::checkpoint::Checkpoint::open`.
//! let weights = Initialized::new(&config.weights(), config.initializer_range);
//! let (balance, mut builder) = (AuxiliaryLoss::default(), Frozen::new(Dense));
//! let model = Mixtral::load(config, balance, &weights, Device::Cpu, Kind::Float, &mut builder)?;
//! let ids = Tensor::from_slice(&[1_i64, 5, 7]).unsqueeze(0); // [batch, sequence]
//! let hidden = model.hidden(&Tokens::full(&ids), None, &Pass::eval())?;
//! assert_eq!(hidden.states.size(), [1, 3, 16]); // [batch, sequence, hidden]
//! assert!(hidden.auxiliary_loss.is_some());
//! # Ok::<(), ferrotune_nn::Error>(())
//! ```

mod balance;
mod config;
mod experts;
mod model;

pub use balance::AuxiliaryLoss;
pub use config::Config;
pub use model::Mixtral;

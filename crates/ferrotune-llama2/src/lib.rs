//! LLaMA 2, and Mistral 7B, which is the same block with a sliding window.
//!
//! [`Config`] reads `config.json`; [`Config::weights`] says what a checkpoint of it holds; [`Llama2::load`] builds the
//! model, asking a [`ferrotune_nn::ProjectionBuilder`] for every weight.
//!
//! ```
//! use ferrotune_llama2::{Config, Llama2};
//! use ferrotune_nn::{CausalLm, Dense, Frozen, Pass, Tokens, config::ConfigFile, weights::Initialized};
//! use tch::{Device, Kind, Tensor};
//!
//! let fields = serde_json::json!({
//!     "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
//!     "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
//! });
//! let file = ConfigFile::from_fields("the example", fields.as_object().cloned().unwrap_or_default());
//! let config = Config::read(&file)?;
//! // Fresh weights; those of a folder come from `ferrotune_nn::checkpoint::Checkpoint::open`.
//! let weights = Initialized::new(&config.weights(), config.initializer_range);
//! let model = Llama2::load(config, &weights, Device::Cpu, Kind::Float, &mut Frozen::new(Dense))?;
//! let ids = Tensor::from_slice(&[1_i64, 5, 7]).unsqueeze(0); // [batch, sequence]
//! let hidden = model.hidden(&Tokens::full(&ids), None, &Pass::eval())?;
//! let logits = model.logits(&hidden.states, &Pass::eval())?;
//! assert_eq!(logits.size(), [1, 3, 32]); // [batch, sequence, vocabulary]
//! # Ok::<(), ferrotune_nn::Error>(())
//! ```

mod config;
mod model;

pub use config::{Config, Family};
pub use model::Llama2;

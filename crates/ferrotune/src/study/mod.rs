//! Several models fine-tuned on the same instructions with the same settings, compared before and after.
//!
//! A [`Study`] is read from TOML [`prepare`](Study::prepare)d and [`run`](Prepared::run): each model is measured as it is, fine-tuned once for each
//! seed, measured again, and everything goes into [`StudyResults`], from which [`report`](crate::report) writes what
//! people read.

mod bench;
mod comparisons;
mod config;
mod done;
mod environment;
mod estimate;
mod gather;
mod identity;
mod opened;
mod results;
mod run;
mod settings;

pub use config::{AdapterConfig, ModelConfig, ModelTemplate, RouterAuxLoss, Study, is_pattern};
pub use estimate::StudyEstimate;
pub use results::*;
pub use run::{Interaction, Prepared, Silent};

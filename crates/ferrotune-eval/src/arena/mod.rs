//! Ratings from battles between models: online Elo and Bradley-Terry, as FastChat computes them.
//!
//! They compare the players of one battle file. The public Arena's numbers need its human votes and cannot be measured
//! for a model that did not take part.

mod bradley_terry;
mod elo;

pub use bradley_terry::{BradleyTerry, bradley_terry};
pub use elo::{EloConfig, online_elo};
use serde::{Deserialize, Serialize};

/// Who won.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Winner {
    /// The first model.
    #[serde(rename = "model_a")]
    A,
    /// The second model.
    #[serde(rename = "model_b")]
    B,
    /// Neither.
    #[serde(rename = "tie")]
    Tie,
    /// Neither, since both were bad; counts as a tie.
    #[serde(rename = "tie (bothbad)")]
    BothBad,
}

impl Winner {
    /// The first model's score: 1, 0.5 or 0.
    #[must_use]
    pub fn score(self) -> f64 {
        match self {
            Self::A => 1.0,
            Self::B => 0.0,
            Self::Tie | Self::BothBad => 0.5,
        }
    }
}

/// One battle; other fields of FastChat's records are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Battle {
    /// The first model.
    pub model_a: String,
    /// The second model.
    pub model_b: String,
    /// Who won.
    pub winner: Winner,
}

impl Battle {
    /// A battle between two models.
    pub fn new(model_a: impl Into<String>, model_b: impl Into<String>, winner: Winner) -> Self {
        Self { model_a: model_a.into(), model_b: model_b.into(), winner }
    }
}

/// Rating points per factor of ten in the odds.
pub(crate) const SCALE: f64 = 400.0;

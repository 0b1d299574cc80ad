use std::collections::BTreeMap;

use super::{Battle, SCALE};

/// Settings of online Elo; the default is FastChat's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EloConfig {
    /// The most points that one battle moves.
    pub k: f64,
    /// Where everyone starts.
    pub start: f64,
}

impl Default for EloConfig {
    fn default() -> Self {
        Self { k: 4.0, start: 1000.0 }
    }
}

/// Ratings after the battles in their order, on which they depend.
///
/// *Source*: `compute_elo` of FastChat's `rating_systems.py`.
///
/// ```
/// use ferrotune_eval::arena::{Battle, EloConfig, Winner, online_elo};
/// let ratings = online_elo(&[Battle::new("x", "y", Winner::A)], EloConfig::default());
/// assert_eq!((ratings["x"], ratings["y"]), (1002.0, 998.0));
/// ```
#[must_use]
pub fn online_elo(battles: &[Battle], config: EloConfig) -> BTreeMap<String, f64> {
    let mut ratings: BTreeMap<String, f64> = BTreeMap::new();
    for battle in battles {
        let rating = |model: &String| ratings.get(model).copied().unwrap_or(config.start);
        let (a, b) = (rating(&battle.model_a), rating(&battle.model_b));
        let expected = 1.0 / (1.0 + 10.0_f64.powf((b - a) / SCALE));
        let score = battle.winner.score();
        ratings.insert(battle.model_a.clone(), a + config.k * (score - expected));
        let expected = 1.0 / (1.0 + 10.0_f64.powf((a - b) / SCALE));
        ratings.insert(battle.model_b.clone(), b + config.k * (1.0 - score - expected));
    }
    ratings
}

//! What a storage quantized and what it left dense, by role.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use ferrotune_nn::Role;

/// Counts of what a [`Nf4`](super::Nf4) storage was asked for. Clones share them, so that one can be kept while a builder
/// has the storage.
#[derive(Clone, Debug, Default)]
pub struct Census {
    tallies: Arc<Mutex<Vec<Tally>>>,
}

/// The matrices of one role that are kept in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// What they are for.
    pub role: Role,
    /// Whether they are in four bits; dense if not.
    pub quantized: bool,
    /// How many; every part of every expert counts.
    pub matrices: u64,
    /// Their weights.
    pub weights: u64,
    /// The bytes that hold them, scales included.
    pub bytes: u64,
}

impl Census {
    /// What was counted so far, in the order in which the model asked first.
    #[must_use]
    pub fn tallies(&self) -> Vec<Tally> {
        self.lock().clone()
    }

    /// Weights in four bits, of all roles.
    #[must_use]
    pub fn quantized_weights(&self) -> u64 {
        self.lock().iter().filter(|tally| tally.quantized).map(|tally| tally.weights).sum()
    }

    pub(super) fn count(&self, role: Role, quantized: bool, weights: u64, bytes: u64) {
        let mut tallies = self.lock();
        match tallies.iter_mut().find(|tally| (tally.role, tally.quantized) == (role, quantized)) {
            Some(tally) => {
                tally.matrices += 1;
                tally.weights += weights;
                tally.bytes += bytes;
            }
            None => tallies.push(Tally { role, quantized, matrices: 1, weights, bytes }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Tally>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Embedding => "embedding",
            Role::Norm => "norm",
            Role::Attention => "attention",
            Role::Mlp => "MLP",
            Role::Expert => "expert",
            Role::Router => "router",
            Role::Head => "head",
        };
        let Self { matrices, weights, bytes, .. } = self;
        let how = if self.quantized { "in 4 bits" } else { "dense" };
        write!(f, "{role}: {matrices} matrices {how}, {weights} weights in {bytes} bytes")
    }
}

//! Which documents are shown as examples.

use crate::{TaskDataProblem, benchmark::PythonRandom};

/// The seed of lm-evaluation-harness' few-shot generator.
const SEED: u64 = 1234;

/// A rule for choosing examples, with the state that its draws leave behind.
#[derive(Clone, Debug)]
pub enum Sampler {
    /// The first of the pool, lm-evaluation-harness' `first_n`.
    FirstN,
    /// Its default: `random.Random(1234)`, one draw after the other, so documents must be drawn for in order.
    Random(Box<PythonRandom>),
}

impl Sampler {
    /// lm-evaluation-harness' default.
    #[must_use]
    pub fn random() -> Self {
        Self::Random(Box::new(PythonRandom::new(SEED)))
    }

    /// The places of `shots` examples in a pool of `pool`, never that of the document itself where `own` tells it.
    /// `None` if the pool is too small.
    pub fn draw(&mut self, pool: usize, shots: usize, own: Option<usize>) -> Option<Vec<usize>> {
        if shots == 0 {
            return Some(Vec::new());
        }
        let extra = usize::from(own.is_some());
        let drawn = match self {
            Self::FirstN => (0..pool).take(shots + extra).collect(),
            Self::Random(random) => random.sample(pool, shots + extra)?,
        };
        let others: Vec<usize> = drawn.into_iter().filter(|&place| Some(place) != own).take(shots).collect();
        (others.len() == shots).then_some(others)
    }
}

/// For each of `documents`, one after the other, the places of `shots` examples in a pool of `pool`.
pub(super) fn drawn(
    mut sampler: Sampler,
    documents: usize,
    pool: usize,
    shots: usize,
    hint: &str,
) -> Result<Vec<Vec<usize>>, TaskDataProblem> {
    let too_few = || TaskDataProblem::TooFewExamples { wanted: shots, found: pool, hint: hint.to_owned() };
    (0..documents).map(|_| sampler.draw(pool, shots, None).ok_or_else(too_few)).collect()
}

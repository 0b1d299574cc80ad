//! The next id of each row: penalties, filters, and the greedy or the random choice.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use tch::{Device, Kind, Tensor};

use super::Sampling;
use crate::{Error, Result};

/// One stream of random numbers a row.
///
/// A generator of its own for every row, rather than libtorch's for all of them: that one is shared by the whole process,
/// so another thread's dropout, or another row in the batch, would change what is drawn.
pub(super) struct Draws(Vec<ChaCha8Rng>);

impl Draws {
    pub(super) fn new(seed: u64, streams: impl Iterator<Item = u64>) -> Self {
        let stream = |stream| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(stream);
            random
        };
        Self(streams.map(stream).collect())
    }

    /// A number of [0, 1) for each row, a multiple of 2^-52: at that distance from 1, its product with any positive sum
    /// stays below that sum after rounding.
    fn uniform(&mut self) -> Vec<f64> {
        self.0.iter_mut().map(|random| (random.next_u64() >> 12) as f64 * f64::EPSILON).collect()
    }
}

/// The next id of each row of `logits`, [rows, vocabulary].
///
/// # Errors
/// [`Error::Logits`] for a row whose largest logit is not finite.
pub(super) fn choose(
    logits: &Tensor,
    seen: &[Vec<i64>],
    sampling: &Sampling,
    draws: &mut Draws,
) -> Result<Vec<i64>> {
    let mut logits = logits.shallow_clone();
    if sampling.repetition_penalty != 1.0 {
        logits = penalized(&logits, seen, sampling.repetition_penalty)?;
    }
    let (largest, first) = logits.f_max_dim(-1, true)?; // [rows, 1] both
    let found = Vec::<f32>::try_from(largest.f_reshape([-1])?.f_to_device(Device::Cpu)?)?;
    if let Some((row, &found)) = found.iter().enumerate().find(|(_, largest)| !largest.is_finite()) {
        return Err(Error::Logits { row, found });
    }
    let chosen = if sampling.temperature == 0.0 {
        first.f_squeeze_dim(1)?
    } else {
        // In double precision, and below the largest: no temperature makes it overflow.
        let logits = logits.f_sub(&largest)?.f_to_kind(Kind::Double)?.f_div_scalar(sampling.temperature)?;
        drawn(&nucleus(&top(&logits, sampling.top_k)?, sampling.top_p)?, &draws.uniform())?
    };
    Ok(Vec::<i64>::try_from(chosen.f_to_device(Device::Cpu)?)?)
}

/// The first id of each row whose probability, added to those before it, exceeds the row's share of all of them.
///
/// A GPU's parallel sums need not grow from id to id in their last bits. So an id of probability 0 is no candidate, and
/// the share is one of the largest sum, which exceeds it: there always is a candidate.
fn drawn(logits: &Tensor, shares: &[f64]) -> Result<Tensor> {
    let probabilities = logits.f_softmax(-1, Kind::Double)?; // [rows, vocabulary]
    let mut sums = probabilities.f_cumsum(-1, Kind::Double)?;
    let sums = sums.f_masked_fill_(&probabilities.f_eq(0.0)?, 0.0)?;
    let shares = Tensor::from_slice(shares).f_unsqueeze(1)?.f_to_device(logits.device())?;
    let reached = sums.f_amax(-1, true)?.f_mul(&shares)?; // [rows, 1]
    // Of equal values libtorch's maximum names the first.
    Ok(sums.f_gt_tensor(&reached)?.f_max_dim(-1, false)?.1)
}

fn penalized(logits: &Tensor, seen: &[Vec<i64>], penalty: f64) -> Result<Tensor> {
    let logits = logits.f_detach_copy()?;
    for (row, ids) in (0..).zip(seen) {
        let row = logits.f_select(0, row)?;
        let ids = Tensor::from_slice(ids).f_to_device(logits.device())?;
        let scores = row.f_index_select(0, &ids)?;
        let lowered =
            scores.f_mul_scalar(penalty)?.f_where_self(&scores.f_lt(0.0)?, &scores.f_div_scalar(penalty)?)?;
        let _ = row.shallow_clone().f_scatter_(0, &ids, &lowered)?;
    }
    Ok(logits)
}

/// Keeps the `count` largest logits of each row.
fn top(logits: &Tensor, count: i64) -> Result<Tensor> {
    let vocabulary = logits.size()[1];
    if count == 0 || count >= vocabulary {
        return Ok(logits.shallow_clone());
    }
    let smallest_kept = logits.f_topk(count, -1, true, true)?.0.f_narrow(1, count - 1, 1)?; // [rows, 1]
    Ok(logits.f_masked_fill(&logits.f_lt_tensor(&smallest_kept)?, f64::NEG_INFINITY)?)
}

/// Keeps the most probable ids whose probabilities add up to at least `mass`; always at least one.
fn nucleus(logits: &Tensor, mass: f64) -> Result<Tensor> {
    if mass >= 1.0 {
        return Ok(logits.shallow_clone());
    }
    let (sorted, order) = logits.f_sort(-1, true)?;
    let probabilities = sorted.f_softmax(-1, Kind::Double)?;
    let before = probabilities.f_cumsum(-1, Kind::Double)?.f_sub(&probabilities)?; // mass of more probable ids
    let dropped = before.f_ge(mass)?.f_to_kind(Kind::Int64)?;
    let dropped = dropped.f_zeros_like()?.f_scatter(-1, &order, &dropped)?.f_to_kind(Kind::Bool)?;
    Ok(logits.f_masked_fill(&dropped, f64::NEG_INFINITY)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not there")]

    use tch::Tensor;

    use super::{Draws, choose};
    use crate::{Error, generate::Sampling};

    const ROWS: usize = 20_000;

    /// How often each id was drawn in [`ROWS`] rows of the same logits.
    fn counts(logits: &[f32], sampling: &Sampling) -> Vec<f64> {
        let rows = Tensor::from_slice(logits).repeat([ROWS as i64, 1]);
        let mut draws = Draws::new(sampling.seed, 0..ROWS as u64);
        let mut counts = vec![0.0; logits.len()];
        for id in choose(&rows, &vec![Vec::new(); ROWS], sampling, &mut draws).unwrap() {
            counts[id as usize] += 1.0;
        }
        counts
    }

    #[test]
    fn ids_are_drawn_as_often_as_their_probabilities_say() {
        let logits = [1.0_f32, f32::NEG_INFINITY, -2.0, 3.0, 2.5, 0.0, 2.9, -40.0];
        let free = Sampling { temperature: 1.0, seed: 11, ..Sampling::default() };
        for (sampling, kept) in [
            (free.clone(), vec![0, 2, 3, 4, 5, 6, 7]),
            (Sampling { temperature: 2.5, ..free.clone() }, vec![0, 2, 3, 4, 5, 6, 7]),
            (Sampling { top_k: 3, ..free.clone() }, vec![3, 6, 4]),
            // 0.370, 0.335 and 0.224 are the largest; the first two add up to 0.705.
            (Sampling { top_p: 0.72, ..free.clone() }, vec![3, 6, 4]),
            (Sampling { top_p: 0.69, ..free.clone() }, vec![3, 6]),
            (Sampling { top_p: 1e-9, ..free.clone() }, vec![3]),
            (Sampling { temperature: 1e-300, ..free }, vec![3]),
        ] {
            let weight = |id: usize| ((f64::from(logits[id]) - 3.0) / sampling.temperature).exp();
            let total: f64 = kept.iter().map(|&id| weight(id)).sum();
            for (id, &found) in counts(&logits, &sampling).iter().enumerate() {
                let p = if kept.contains(&id) { weight(id) / total } else { 0.0 };
                // Five standard deviations of a binomial count, and one for what hardly ever happens.
                let bound = if p == 0.0 { 0.0 } else { 5.0 * (ROWS as f64 * p * (1.0 - p)).sqrt() + 1.0 };
                let expected = ROWS as f64 * p;
                assert!(
                    (found - expected).abs() <= bound,
                    "{sampling:?}, id {id}: {found}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn other_seeds_and_other_streams_draw_otherwise() {
        let first = |seed, stream| Draws::new(seed, std::iter::once(stream)).uniform();
        assert_eq!(first(3, 5), first(3, 5));
        assert_ne!(first(3, 5), first(4, 5));
        assert_ne!(first(3, 5), first(3, 6));
    }

    #[test]
    fn logits_that_are_not_finite_are_refused_by_row() {
        for temperature in [0.0, 1.0] {
            for bad in [f32::NAN, f32::INFINITY] {
                let logits = Tensor::from_slice2(&[[0.0, 1.0_f32], [bad, 1.0]]);
                let sampling = Sampling { temperature, ..Sampling::default() };
                let found = choose(&logits, &[vec![], vec![]], &sampling, &mut Draws::new(0, 0..2));
                assert!(matches!(found, Err(Error::Logits { row: 1, .. })), "{found:?}");
            }
        }
    }
}

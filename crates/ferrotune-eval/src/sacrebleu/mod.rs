//! What sacrebleu 2.6.0 adds to its metrics: a bootstrap interval and two paired tests, draw for draw.
//!
//! They exist so that published figures can be reproduced. For new figures the crate's own
//! [`statistics`](crate::statistics) are the better choice: double precision, any metric, results that do not depend on
//! another package's generator.

mod numpy_random;

use ndarray::Array2;
pub use numpy_random::NumpyRandom;

use crate::{Error, Pair, Result};

/// The version of sacrebleu whose numbers these are.
pub const SACREBLEU_VERSION: &str = "2.6.0";

/// The seed sacrebleu uses unless its environment variable says otherwise.
pub const DEFAULT_SEED: u64 = 12345;

/// The precision in which a score is computed from its statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Double precision: scores.
    Double,
    /// Every operation rounded to single precision: sacrebleu's bootstrap keeps its statistics in `float32`, and numpy
    /// then computes the precisions in it too.
    Single,
}

impl Rounding {
    pub(crate) fn apply(self, x: f64) -> f64 {
        match self {
            Self::Double => x,
            // Rounding a double result of one operation on floats is the float result: 53 bits are more than twice 24.
            Self::Single => f64::from(x as f32),
        }
    }
}

/// A corpus metric with statistics that are summed over segments; implementors provide both methods.
pub trait SegmentStatistics {
    /// One row of counts per pair, `[samples, statistics]`.
    fn rows(&self, pairs: &[Pair]) -> Array2<f64>;

    /// The score that a row, or a sum of rows, stands for.
    fn score_row(&self, row: &[f64], rounding: Rounding) -> f64;
}

/// sacrebleu's interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Confidence {
    /// Mean of the resampled scores.
    pub mean: f64,
    /// Half the distance between the 2.5 % and the 97.5 % rank.
    pub half_width: f64,
}

/// A system against a baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedResult {
    /// The baseline's score.
    pub baseline: f64,
    /// The system's score.
    pub system: f64,
    /// Probability of a difference at least this large under the null hypothesis, as sacrebleu counts it.
    pub p_value: f64,
    /// The system's interval; only the bootstrap gives one.
    pub confidence: Option<Confidence>,
}

/// Interval of a corpus score from `resamples` bootstrap draws of segments.
///
/// # Errors
/// [`Error::Setting`] without pairs or resamples.
pub fn bootstrap(
    metric: &impl SegmentStatistics,
    pairs: &[Pair],
    resamples: usize,
    seed: u64,
) -> Result<Confidence> {
    let rows = metric.rows(pairs);
    let scores = resampled(metric, &[&rows], resamples, seed)?.remove(0);
    Ok(confidence(scores))
}

/// Paired bootstrap test of a system against a baseline on the same segments (sacrebleu's `paired-bs`).
///
/// # Errors
/// [`Error::LengthMismatch`] if the two have different segments; [`Error::Setting`] without pairs or resamples.
pub fn paired_bootstrap(
    metric: &impl SegmentStatistics,
    baseline: &[Pair],
    system: &[Pair],
    resamples: usize,
    seed: u64,
) -> Result<PairedResult> {
    let (rows, mut result) = paired(metric, baseline, system)?;
    let mut scores = resampled(metric, &[&rows[0], &rows[1]], resamples, seed)?;
    let of_system = scores.pop().unwrap_or_default();
    let of_baseline = scores.pop().unwrap_or_default();
    let differences: Vec<f64> = of_system.iter().zip(&of_baseline).map(|(s, b)| (s - b).abs()).collect();
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    let centred = differences.iter().map(|difference| difference - mean);
    result.p_value = p_value(centred, (result.baseline - result.system).abs());
    result.confidence = Some(confidence(of_system));
    Ok(result)
}

/// Paired approximate randomization test of a system against a baseline on the same segments (sacrebleu's
/// `paired-ar`).
///
/// # Errors
/// [`Error::LengthMismatch`] if the two have different segments; [`Error::Setting`] without pairs or trials.
pub fn paired_randomization(
    metric: &impl SegmentStatistics,
    baseline: &[Pair],
    system: &[Pair],
    trials: usize,
    seed: u64,
) -> Result<PairedResult> {
    let (rows, mut result) = paired(metric, baseline, system)?;
    check_counts(rows[0].nrows(), trials)?;
    let mut random = NumpyRandom::new(seed);
    let swaps = random.booleans(trials * rows[0].nrows());
    let differences = swaps.chunks_exact(rows[0].nrows()).map(|swaps| {
        let mut sums = [vec![0.0; rows[0].ncols()], vec![0.0; rows[0].ncols()]];
        for (i, &keep) in swaps.iter().enumerate() {
            for (side, sum) in sums.iter_mut().enumerate() {
                // A drawn one takes the baseline's row into the first pseudo-system, a zero the system's.
                let row = rows[usize::from(keep != (side == 0))].row(i);
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        }
        let [a, b] = sums.map(|sum| metric.score_row(&sum, Rounding::Double));
        (a - b).abs()
    });
    result.p_value = p_value(differences, (result.baseline - result.system).abs());
    Ok(result)
}

fn paired(
    metric: &impl SegmentStatistics,
    baseline: &[Pair],
    system: &[Pair],
) -> Result<([Array2<f64>; 2], PairedResult)> {
    if baseline.len() != system.len() {
        return Err(Error::LengthMismatch {
            what: "segments of the baseline and of the system",
            left: baseline.len(),
            right: system.len(),
        });
    }
    let rows = [metric.rows(baseline), metric.rows(system)];
    let score =
        |rows: &Array2<f64>| metric.score_row(&rows.sum_axis(ndarray::Axis(0)).to_vec(), Rounding::Double);
    let result =
        PairedResult { baseline: score(&rows[0]), system: score(&rows[1]), p_value: 1.0, confidence: None };
    Ok((rows, result))
}

/// Scores of every draw, for each of several row sets that are resampled together.
fn resampled(
    metric: &impl SegmentStatistics,
    sets: &[&Array2<f64>],
    resamples: usize,
    seed: u64,
) -> Result<Vec<Vec<f64>>> {
    let segments = sets.first().map_or(0, |rows| rows.nrows());
    check_counts(segments, resamples)?;
    let mut random = NumpyRandom::new(seed);
    let mut scores = vec![Vec::with_capacity(resamples); sets.len()];
    for _ in 0..resamples {
        let indices = random.integers(segments as u32, segments);
        for (rows, scores) in sets.iter().zip(&mut scores) {
            let mut sums = vec![0.0_f32; rows.ncols()];
            for &index in &indices {
                sums.iter_mut().zip(rows.row(index as usize)).for_each(|(sum, &x)| *sum += x as f32);
            }
            let sums: Vec<f64> = sums.into_iter().map(f64::from).collect();
            scores.push(metric.score_row(&sums, Rounding::Single));
        }
    }
    Ok(scores)
}

fn check_counts(segments: usize, draws: usize) -> Result<()> {
    for (option, count) in [("segments", segments), ("resamples", draws)] {
        if count == 0 || u32::try_from(count).is_err() {
            return Err(Error::Setting { option, found: count.to_string(), expected: "1 to 2^32 - 1" });
        }
    }
    Ok(())
}

fn confidence(mut scores: Vec<f64>) -> Confidence {
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    scores.sort_unstable_by(f64::total_cmp);
    let cut = scores.len() / 40;
    Confidence { mean, half_width: 0.5 * (scores[scores.len() - cut - 1] - scores[cut]) }
}

fn p_value(statistics: impl Iterator<Item = f64>, difference: f64) -> f64 {
    let (mut above, mut total) = (0_u32, 0_u32);
    for statistic in statistics {
        above += u32::from(statistic > difference);
        total += 1;
    }
    (f64::from(above) + 1.0) / (f64::from(total) + 1.0)
}

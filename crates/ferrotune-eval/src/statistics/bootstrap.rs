use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Tally};

/// The percentile bootstrap: samples are drawn with replacement, as many as there are, and the metric is computed from
/// each draw.
///
/// What is resampled are the [`units`](Tally::units) of a [`Tally`], that is questions, not tokens or repeats of a question.
/// From each [stratum](Tally::stratified) of n units n - 1 are drawn, so that the mean of a stratum has the variance s²/n over
/// the draws, which n draws would make smaller by 1/n. *Source*: McCarthy and Snowden 1985.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// How many draws: enough that one lies beyond each end of the interval, which is 40 for 95 %.
    pub resamples: usize,
    /// Seeds the draws.
    pub seed: u64,
    /// The share of draws inside the interval, between 0 and 1.
    pub confidence: f64,
}

impl Default for Bootstrap {
    /// 1000 draws, seed 0, 95 %.
    fn default() -> Self {
        Self { resamples: 1000, seed: 0, confidence: 0.95 }
    }
}

/// An interval for a metric's value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Standard deviation of the value over the draws (n - 1 in the denominator).
    pub stderr: f64,
    /// How it was made, in words for the record.
    pub method: String,
}

/// Values that are equal up to rounding count as equal.
const ROUNDING: f64 = 1e-12;

/// Whether two ends of an interval are one value.
pub(super) fn is_one_value(low: f64, high: f64) -> bool {
    high - low <= ROUNDING * high.abs().max(low.abs()).max(1.0)
}

impl Interval {
    /// Whether all draws gave the same value, up to rounding. A sample without variety has an interval without width, however
    /// small it is, so that such an interval says nothing.
    #[must_use]
    pub fn has_no_width(&self) -> bool {
        is_one_value(self.low, self.high)
    }
}

impl Bootstrap {
    /// The interval of a metric's value; `None` for fewer than two samples, in all or in a stratum, or if a draw gives no finite
    /// value.
    ///
    /// # Errors
    /// [`Error::Setting`] for too few resamples or a confidence outside 0 to 1.
    ///
    /// ```
    /// use ferrotune_eval::{Tally, statistics::Bootstrap};
    /// let tally = Tally::mean_of(&[1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0]);
    /// let interval = Bootstrap::default().interval(&tally)?.unwrap();
    /// assert!(interval.low < 0.6 && 0.6 < interval.high);
    /// # Ok::<(), ferrotune_eval::Error>(())
    /// ```
    pub fn interval(&self, tally: &Tally) -> Result<Option<Interval>> {
        self.check()?;
        let method = self.describe(tally);
        let tally = tally.units();
        if tally.len() < 2 {
            return Ok(None);
        }
        let Some(mut values) = self.draws_of(&tally, |indices| tally.value_of(indices)) else {
            return Ok(None);
        };
        if values.iter().any(|value| !value.is_finite()) {
            return Ok(None);
        }
        let stderr = standard_deviation(&values);
        values.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - self.confidence) / 2.0;
        Ok(Some(Interval {
            low: percentile(&values, tail),
            high: percentile(&values, 1.0 - tail),
            stderr,
            method,
        }))
    }

    /// What `of` gives for every draw of `n` out of `n` indices, in order of the draws.
    pub(crate) fn draws<T: Send>(&self, n: usize, of: impl Fn(&[usize]) -> T + Sync) -> Vec<T> {
        let draw = |random: &mut ChaCha8Rng, indices: &mut Vec<usize>| {
            indices.extend((0..n).map(|_| random.random_range(0..n)));
        };
        self.draws_by(draw, of)
    }

    /// What `of` gives for every draw of a tally's units, stratum by stratum; `None` if a stratum has a single one.
    pub(super) fn draws_of<T: Send>(
        &self,
        units: &Tally,
        of: impl Fn(&[usize]) -> T + Sync,
    ) -> Option<Vec<T>> {
        let Some(strata) = units.strata() else { return Some(self.draws(units.len(), of)) };
        if strata.iter().any(|members| members.len() < 2) {
            return None;
        }
        let draw = |random: &mut ChaCha8Rng, indices: &mut Vec<usize>| {
            for members in &strata {
                let drawn = (1..members.len()).map(|_| members[random.random_range(0..members.len())]);
                indices.extend(drawn);
            }
        };
        Some(self.draws_by(draw, of))
    }

    fn draws_by<T: Send>(
        &self,
        draw_into: impl Fn(&mut ChaCha8Rng, &mut Vec<usize>) + Sync,
        of: impl Fn(&[usize]) -> T + Sync,
    ) -> Vec<T> {
        (0..self.resamples)
            .into_par_iter()
            .map_init(Vec::new, |indices, draw| {
                let mut random = ChaCha8Rng::seed_from_u64(self.seed);
                random.set_stream(draw as u64);
                indices.clear();
                draw_into(&mut random, indices);
                of(indices)
            })
            .collect()
    }

    /// Checks the settings, which is worth it before what is to be resampled has cost anything.
    ///
    /// # Errors
    /// [`Error::Setting`] for too few resamples or a confidence outside 0 to 1.
    pub fn check(&self) -> Result<()> {
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return Err(Error::Setting {
                option: "confidence",
                found: self.confidence.to_string(),
                expected: "a number between 0 and 1",
            });
        }
        // With fewer, the ends are the extremes of what was drawn, whatever the confidence.
        let beyond = self.resamples as f64 * (1.0 - self.confidence) / 2.0;
        if beyond < 1.0 - ROUNDING {
            return Err(Error::Setting {
                option: "resamples",
                found: self.resamples.to_string(),
                expected: "so many that a draw lies beyond each end of the interval, at least 40 for 95 %",
            });
        }
        Ok(())
    }

    pub(crate) fn describe(&self, tally: &Tally) -> String {
        let Self { resamples, seed, .. } = self;
        let units = if tally.is_clustered() { "clusters of samples" } else { "samples" };
        let strata = match tally.units().strata() {
            Some(strata) => format!(" within each of {} strata (n - 1 of n)", strata.len()),
            None => String::new(),
        };
        format!("percentile bootstrap over {units}{strata}, {resamples} resamples, chacha8 seed {seed}")
    }
}

/// The value below which a share of sorted values lies, interpolated linearly between neighbours as numpy does by
/// default. `sorted` must be ascending and not empty (an empty slice gives NaN); `share` is clamped to 0..=1.
#[must_use]
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let low = at.floor() as usize;
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

pub(super) fn standard_deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    if values.len() < 2 { 0.0 } else { (squares / (n - 1.0)).sqrt() }
}

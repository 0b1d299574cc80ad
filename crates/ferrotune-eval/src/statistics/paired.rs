use std::collections::HashSet;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bootstrap::{Bootstrap, is_one_value, percentile};
use crate::{Error, Measurement, Result, Tally};

/// Up to this many samples all assignments are enumerated, 2^12 at most.
const EXACT_SAMPLES: usize = 12;

/// Differences that are equal up to rounding count as equal.
const ROUNDING: f64 = 1e-12;

/// Two models compared on the same samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The metric.
    pub metric: String,
    /// The first model's value over the common samples.
    pub first: f64,
    /// The second model's value over the common samples.
    pub second: f64,
    /// `second - first`.
    pub difference: f64,
    /// 95 % interval of the difference by a paired bootstrap; absent for fewer than two samples, in all or in a stratum, and
    /// where every draw gives the same difference, which says nothing about other samples.
    pub ci95: Option<[f64; 2]>,
    /// Two-sided p-value of the permutation test: how often exchanging the models' results on random samples makes a
    /// difference at least as large.
    pub p_value: f64,
    /// Samples that both models have a score on.
    pub n: usize,
    /// Samples that only one of them, or neither, has a score on.
    pub n_left_out: usize,
    /// How interval and p-value were made.
    pub method: String,
}

/// Compares two measurements of one metric on the samples that both scored, matched by id.
///
/// The interval resamples samples, with the bootstrap's settings; the p-value comes from as many random exchanges, or
/// from all of them for up to 12 samples. Samples that [answer the same question](Tally::clustered) are drawn and exchanged
/// together.
///
/// # Errors
/// [`Error::Setting`] for measurements of different metrics or variants, for no common sample, for values that are
/// not finite, or for a bootstrap out of range.
///
/// ```
/// use ferrotune_eval::{Metric, Pair, exact_match::RawExactMatch, statistics::{Bootstrap, compare}};
/// let measure = |answers: [&str; 4]| {
///     let pairs: Vec<Pair> = (0..).zip(answers).map(|(i, a)| Pair::new(i.to_string(), a, "yes")).collect();
///     RawExactMatch::default().measure(&pairs).map(|mut m| m.remove(0))
/// };
/// let comparison =
///     compare(&measure(["no", "no", "no", "yes"])?, &measure(["yes", "yes", "no", "yes"])?, &Bootstrap::default())?;
/// assert_eq!(comparison.difference, 0.5);
/// assert_eq!(comparison.p_value, 0.5); // of the 4 ways to exchange two differences, 2 are as large
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
pub fn compare(first: &Measurement, second: &Measurement, bootstrap: &Bootstrap) -> Result<Comparison> {
    bootstrap.check()?;
    if (&first.metric, &first.variant) != (&second.metric, &second.variant) {
        return Err(Error::Setting {
            option: "measurements compared",
            found: format!(
                "`{}` ({}) and `{}` ({})",
                first.metric, first.variant, second.metric, second.variant
            ),
            expected: "the same metric in the same variant",
        });
    }
    let (a, b) = common(first, second)?;
    let (n, paired) = (a.len(), bootstrap.describe(&a));
    let (a, b) = (a.units(), b.units());
    let difference = b.value() - a.value();
    if !difference.is_finite() {
        return Err(Error::Setting {
            option: "values compared",
            found: format!("{} and {}", a.value(), b.value()),
            expected: "finite numbers",
        });
    }
    let ids =
        |measurement: &Measurement| measurement.samples.iter().map(|sample| sample.id.clone()).collect();
    let (of_first, of_second): (HashSet<String>, HashSet<String>) = (ids(first), ids(second));
    let total = of_first.union(&of_second).count();
    let bootstrap = Bootstrap { confidence: 0.95, ..*bootstrap };
    let (p_value, exchanges) = permutation(&a, &b, difference, &bootstrap);
    Ok(Comparison {
        metric: first.metric.clone(),
        first: a.value(),
        second: b.value(),
        difference,
        ci95: difference_interval(&a, &b, &bootstrap),
        p_value,
        n,
        n_left_out: total - n,
        method: format!("paired {paired}; permutation test, {exchanges}"),
    })
}

/// The tallies restricted to the samples that both scored, in the order of the first.
fn common(first: &Measurement, second: &Measurement) -> Result<(Tally, Tally)> {
    let scored = |measurement: &Measurement| -> std::collections::HashMap<String, usize> {
        let ids =
            measurement.samples.iter().filter(|sample| sample.score.is_ok()).map(|sample| sample.id.clone());
        ids.zip(0..).collect()
    };
    let (of_first, of_second) = (scored(first), scored(second));
    let mut rows: Vec<(usize, usize)> =
        of_first.iter().filter_map(|(id, &row)| Some((row, *of_second.get(id)?))).collect();
    rows.sort_unstable();
    match (first.tally(), second.tally()) {
        (Some(a), Some(b)) if !rows.is_empty() => {
            let (in_first, in_second): (Vec<usize>, Vec<usize>) = rows.into_iter().unzip();
            Ok((a.select(&in_first), b.select(&in_second)))
        }
        _ => Err(Error::Setting {
            option: "samples compared",
            found: "none that both models have a score on".to_owned(),
            expected: "at least one",
        }),
    }
}

fn difference_interval(a: &Tally, b: &Tally, bootstrap: &Bootstrap) -> Option<[f64; 2]> {
    if a.len() < 2 {
        return None;
    }
    let mut differences = bootstrap.draws_of(a, |indices| b.value_of(indices) - a.value_of(indices))?;
    if differences.iter().any(|difference| !difference.is_finite()) {
        return None;
    }
    differences.sort_unstable_by(f64::total_cmp);
    let (low, high) = (percentile(&differences, 0.025), percentile(&differences, 0.975));
    (!is_one_value(low, high)).then_some([low, high])
}

/// The p-value, and in words over which exchanges.
fn permutation(a: &Tally, b: &Tally, difference: f64, bootstrap: &Bootstrap) -> (f64, String) {
    let limit = difference.abs() - ROUNDING * difference.abs().max(1.0);
    let as_large = |exchanged: &dyn Fn(usize) -> bool| {
        let mut sums = [vec![0.0; a.rows().ncols()], vec![0.0; a.rows().ncols()]];
        for i in 0..a.len() {
            let [x, y] = &mut sums;
            let (x, y) = if exchanged(i) { (y, x) } else { (x, y) };
            x.iter_mut().zip(a.rows().row(i)).for_each(|(sum, value)| *sum += value);
            y.iter_mut().zip(b.rows().row(i)).for_each(|(sum, value)| *sum += value);
        }
        // Both tallies are of one metric in one variant, so either finishes both sums.
        (a.finish(&sums[1]) - a.finish(&sums[0])).abs() >= limit
    };
    // Samples on which the models do not differ cannot change anything, which makes more cases small enough to
    // enumerate.
    let differing: Vec<usize> = (0..a.len()).filter(|&i| a.rows().row(i) != b.rows().row(i)).collect();
    if differing.len() <= EXACT_SAMPLES {
        let place: std::collections::HashMap<usize, usize> = differing.iter().copied().zip(0..).collect();
        let assignments = 1_u32 << differing.len();
        let count = (0..assignments)
            .filter(|bits| as_large(&|i| place.get(&i).is_some_and(|&place| bits >> place & 1 == 1)))
            .count();
        return (count as f64 / f64::from(assignments), "all exchanges enumerated".to_owned());
    }
    let count = (0..bootstrap.resamples)
        .into_par_iter()
        .filter(|&trial| {
            let mut random = ChaCha8Rng::seed_from_u64(bootstrap.seed);
            // The upper half of the streams, so that no trial repeats a draw of the bootstrap.
            random.set_stream(trial as u64 | 1 << 63);
            let words: Vec<u64> = (0..a.len().div_ceil(64)).map(|_| random.next_u64()).collect();
            as_large(&|i| words[i / 64] >> (i % 64) & 1 == 1)
        })
        .count();
    let p_value = (count as f64 + 1.0) / (bootstrap.resamples as f64 + 1.0);
    (p_value, format!("{} random exchanges, chacha8 seed {}", bootstrap.resamples, bootstrap.seed))
}

/// Holm's correction: p-values that stay below a level only if the whole family of tests keeps that level.
///
/// Returned in the order given, each at least its input and at most 1.
///
/// # Errors
/// [`Error::Setting`] for a p-value outside 0 to 1.
///
/// ```
/// use ferrotune_eval::statistics::holm;
/// assert_eq!(holm(&[0.01, 0.04, 0.03])?, [0.03, 0.06, 0.06]);
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
pub fn holm(p_values: &[f64]) -> Result<Vec<f64>> {
    if let Some(wrong) = p_values.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return Err(Error::Setting { option: "p-value", found: wrong.to_string(), expected: "0 to 1" });
    }
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest: f64 = 0.0;
    for (rank, at) in order.into_iter().enumerate() {
        largest = largest.max(p_values[at] * (p_values.len() - rank) as f64).min(1.0);
        adjusted[at] = largest;
    }
    Ok(adjusted)
}

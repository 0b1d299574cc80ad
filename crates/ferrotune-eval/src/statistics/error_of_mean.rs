use super::bootstrap::standard_deviation;
use crate::{Error, Result};

/// Standard error of a mean: s / √n with n - 1 in the variance; `None` for fewer than two values.
///
/// ```
/// let answers = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0];
/// let stderr = ferrotune_eval::statistics::mean_stderr(&answers).unwrap();
/// assert!((stderr - 0.16329931618554522).abs() < 1e-15);
/// ```
#[must_use]
pub fn mean_stderr(values: &[f64]) -> Option<f64> {
    (values.len() > 1).then(|| standard_deviation(values) / (values.len() as f64).sqrt())
}

/// Standard error of a size-weighted mean of groups, from each group's standard error and size.
///
/// `None` unless the sizes exceed the number of groups. *Source*: `pooled_sample_stderr` of lm-evaluation-harness.
#[must_use]
pub fn pooled_stderr(groups: &[(f64, usize)]) -> Option<f64> {
    let total: usize = groups.iter().map(|(_, n)| n).sum();
    let freedom = total.checked_sub(groups.len()).filter(|&freedom| freedom > 0)?;
    let variance: f64 =
        groups.iter().map(|&(stderr, n)| (n as f64 - 1.0) * stderr * stderr * n as f64).sum::<f64>();
    Some((variance / freedom as f64 / total as f64).sqrt())
}

/// Size-weighted mean of groups, from each group's mean and size; `None` without samples.
#[must_use]
pub fn group_mean(groups: &[(f64, usize)]) -> Option<f64> {
    let total: usize = groups.iter().map(|(_, n)| n).sum();
    (total > 0).then(|| groups.iter().map(|&(mean, n)| mean * n as f64).sum::<f64>() / total as f64)
}

/// Standard error of the mean of all samples where samples come in clusters that are independent of each other, from each
/// cluster's sum and size: √(G/(G-1) Σ (S - n m)²) / N for G clusters with sums S and sizes n, N samples, and their mean m.
///
/// Written m = ΣS / Σn, the mean is a ratio of two sums over independent clusters. To first order its error is the mean of
/// (S - n m) over clusters, divided by the mean size, and the variance of a mean over G independent terms is estimated with
/// G - 1. It is s/√n for clusters of one sample, and the standard error of G values for clusters whose samples are all alike.
/// `None` for fewer than two clusters. *Source*: Liang and Zeger 1986, for a model of a constant.
#[must_use]
pub fn clustered_stderr(clusters: &[(f64, f64)]) -> Option<f64> {
    let count = clusters.len() as f64;
    (clusters.len() > 1).then(|| (spread(clusters) * count / (count - 1.0)).sqrt())
}

/// Σ (S - n m)² / N².
fn spread(clusters: &[(f64, f64)]) -> f64 {
    let total: f64 = clusters.iter().map(|(_, size)| size).sum();
    let mean = clusters.iter().map(|(sum, _)| sum).sum::<f64>() / total;
    clusters.iter().map(|(sum, size)| (sum - size * mean).powi(2)).sum::<f64>() / (total * total)
}

/// Wilson's interval for a proportion of samples that come in clusters, from each cluster's successes and size.
///
/// The number of trials is the effective one: as many independent samples as would give the proportion p the variance
/// that the clusters show, n = p (1 - p) N² / Σ (S - k p)². It is N for clusters of one sample, the number of clusters
/// for clusters whose samples are all alike, and at most N. Where all samples succeed or none does, clusters show no variance,
/// and n is their number. *Source*: Franco et al. 2019, for intervals of proportions in clustered surveys.
///
/// # Errors
/// [`Error::Setting`] if there are no samples, or more successes than samples.
pub fn clustered_wilson_interval(clusters: &[(f64, f64)], z: f64) -> Result<(f64, f64)> {
    let successes: f64 = clusters.iter().map(|(sum, _)| sum).sum();
    let samples: f64 = clusters.iter().map(|(_, size)| size).sum();
    check_share(successes, samples)?;
    let share = successes / samples;
    let effective = if successes == 0.0 || successes == samples {
        clusters.len() as f64
    } else {
        (share * (1.0 - share) / spread(clusters)).min(samples)
    };
    Ok(wilson(share, effective, z))
}

/// Wilson's score interval for a proportion. `z` is the normal quantile, 1.959963984540054 for 95 %.
///
/// # Errors
/// [`Error::Setting`] if there are no trials, or more successes than trials.
pub fn wilson_interval(successes: u64, trials: u64, z: f64) -> Result<(f64, f64)> {
    check_share(successes as f64, trials as f64)?;
    Ok(wilson(successes as f64 / trials as f64, trials as f64, z))
}

fn check_share(successes: f64, trials: f64) -> Result<()> {
    if trials > 0.0 && successes <= trials {
        return Ok(());
    }
    Err(Error::Setting {
        option: "successes of trials",
        found: format!("{successes} of {trials}"),
        expected: "at least one trial and no more successes than trials",
    })
}

fn wilson(share: f64, n: f64, z: f64) -> (f64, f64) {
    let scale = 1.0 + z * z / n;
    let centre = (share + z * z / (2.0 * n)) / scale;
    let half = z / scale * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    let low = if share == 0.0 { 0.0 } else { centre - half };
    let high = if share == 1.0 { 1.0 } else { centre + half };
    (low, high)
}

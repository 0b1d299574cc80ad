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

/// Wilson's score interval for a proportion. `z` is the normal quantile, 1.959963984540054 for 95 %.
///
/// # Errors
/// [`Error::Setting`] if there are no trials, or more successes than trials.
pub fn wilson_interval(successes: u64, trials: u64, z: f64) -> Result<(f64, f64)> {
    if trials == 0 || successes > trials {
        return Err(Error::Setting {
            option: "successes of trials",
            found: format!("{successes} of {trials}"),
            expected: "at least one trial and no more successes than trials",
        });
    }
    let n = trials as f64;
    let share = successes as f64 / n;
    let scale = 1.0 + z * z / n;
    let centre = (share + z * z / (2.0 * n)) / scale;
    let half = z / scale * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    let low = if successes == 0 { 0.0 } else { centre - half };
    let high = if successes == trials { 1.0 } else { centre + half };
    Ok((low, high))
}

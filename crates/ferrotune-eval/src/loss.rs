//! How token losses become the one number that is called training or validation loss.
//!
//! The definitions differ by more than rounding. This crate's principal number is token-weighted; the two that Hugging
//! Face's Trainer reports are here under their names, so that published figures can be compared.

/// A sum of negative log-likelihoods and the number of tokens it is over. Adding parts in any grouping gives the same
/// mean up to rounding, so it does not depend on batches, accumulation or devices.
///
/// ```
/// use ferrotune_eval::loss::TokenLoss;
/// let batches = [TokenLoss { sum: 8.0, tokens: 4 }, TokenLoss { sum: 1.0, tokens: 1 }];
/// assert_eq!(TokenLoss::total(batches).mean(), Some(1.8));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenLoss {
    /// Sum of natural-log losses over the supervised tokens.
    pub sum: f64,
    /// How many supervised tokens.
    pub tokens: u64,
}

impl TokenLoss {
    /// All parts together.
    pub fn total(parts: impl IntoIterator<Item = Self>) -> Self {
        parts
            .into_iter()
            .fold(Self::default(), |a, b| Self { sum: a.sum + b.sum, tokens: a.tokens + b.tokens })
    }

    /// Loss per token, the principal number; `None` without tokens.
    #[must_use]
    pub fn mean(self) -> Option<f64> {
        (self.tokens > 0).then(|| self.sum / self.tokens as f64)
    }

    /// exp of the loss per token; infinite where that overflows, `None` without tokens.
    #[must_use]
    pub fn perplexity(self) -> Option<f64> {
        self.mean().map(f64::exp)
    }
}

/// The training loss of an accumulated step as Trainer computed it before it knew the step's number of tokens: the mean
/// of the micro-batches' means, whatever their sizes. `None` without micro-batches.
#[must_use]
pub fn mean_of_micro_batch_means(means: &[f64]) -> Option<f64> {
    (!means.is_empty()).then(|| means.iter().sum::<f64>() / means.len() as f64)
}

/// Trainer's `eval_loss`: each batch's mean loss counted once per example of the batch. It is not token-weighted and
/// depends on the batch size. `None` without examples.
///
/// Each item is a batch's mean loss and its number of examples.
#[must_use]
pub fn hf_eval_loss(batches: &[(f64, u64)]) -> Option<f64> {
    let examples: u64 = batches.iter().map(|(_, examples)| examples).sum();
    // Repeats each mean as the reference does, so that the rounding is the reference's too.
    let sum: f64 = batches.iter().map(|&(mean, examples)| (0..examples).map(|_| mean).sum::<f64>()).sum();
    (examples > 0).then(|| sum / examples as f64)
}

/// Trainer's logged `loss`: the mean of the step losses since the last log, rounded to four decimals. `None` without
/// steps.
#[must_use]
pub fn hf_logged_loss(step_losses: &[f64]) -> Option<f64> {
    // Through the decimal form, which rounds the exact value; scaling by 10^4 first would round twice.
    mean_of_micro_batch_means(step_losses).map(|mean| format!("{mean:.4}").parse().unwrap_or(mean))
}

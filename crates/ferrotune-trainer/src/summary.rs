//! The result of a run.

use serde::{Deserialize, Serialize};

use crate::TrainerState;

/// What a run came to; the keys that the examples print.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrainingSummary {
    /// Mean over all steps of the mean negative log-likelihood per supervised token.
    pub train_loss: f64,
    /// Mean over all supervised tokens of the run, whatever step they stood in.
    pub train_token_loss: f64,
    /// The same over the validation samples after the last step.
    pub eval_loss: Option<f64>,
    /// `exp(eval_loss)`; infinite where that overflows.
    #[serde(default, with = "ferrotune_core::extended::option")]
    pub eval_perplexity: Option<f64>,
    /// The lowest validation loss.
    pub best_eval_loss: Option<f64>,
    /// The step after which it was measured.
    pub best_eval_step: Option<u64>,
    /// The step after which validation loss rises, see [`overfitting_step`].
    pub overfitting_step: Option<u64>,
    /// Optimizer steps.
    pub steps: u64,
    /// Epochs.
    pub epochs: f64,
    /// Wall-clock seconds with evaluations and checkpoints, all parts of a resumed run together.
    pub train_runtime_seconds: f64,
    /// The part of them spent in optimizer steps, which the two rates below divide by.
    pub step_seconds: f64,
    /// Input tokens, padding excluded, per second.
    pub tokens_per_second: f64,
    /// Supervised tokens per second.
    pub supervised_tokens_per_second: f64,
    /// Input tokens, padding excluded.
    pub tokens: u64,
    /// Supervised tokens.
    pub supervised_tokens: u64,
    /// Trainable scalars.
    pub trainable_parameters: u64,
    /// The most memory the process has had in RAM, where the system says.
    pub peak_rss_bytes: Option<u64>,
    /// The most memory that tensors have had on the device; nothing on a CPU.
    pub peak_device_bytes: Option<u64>,
}

/// Rises of the validation loss up to this part of its minimum are not called overfitting: loss curves are read to three
/// digits, and a smaller rise is not told apart from the wavering of single steps.
const RISE: f64 = 1e-3;

/// The step after which validation loss rises, if it does.
///
/// That is the step of the lowest validation loss (the last such step, if several are equal), provided that the last
/// validation loss of the run is higher than it by more than a thousandth of it. A loss that falls to the end, or wavers
/// within that margin, gives nothing.
///
/// ```
/// use ferrotune_trainer::overfitting_step;
///
/// assert_eq!(overfitting_step([(10, 2.0), (20, 1.5), (30, 1.7), (40, 1.9)]), Some(20));
/// assert_eq!(overfitting_step([(10, 2.0), (20, 1.5), (30, 1.4)]), None);
/// ```
#[must_use]
pub fn overfitting_step(evaluations: impl IntoIterator<Item = (u64, f64)>) -> Option<u64> {
    let evaluations: Vec<_> = evaluations.into_iter().collect();
    let &(_, last) = evaluations.last()?;
    // `min_by` returns the first of equals, hence the reversal.
    let &(step, lowest) = evaluations.iter().rev().min_by(|a, b| a.1.total_cmp(&b.1))?;
    (last > lowest + RISE * lowest.abs()).then_some(step)
}

impl TrainerState {
    /// [`overfitting_step`] of this history.
    #[must_use]
    pub fn overfitting_step(&self) -> Option<u64> {
        overfitting_step(self.evaluations())
    }
}

//! The settings of a run.

use ferrotune_nn::seam::Recompute;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Scheduler};

/// What a run is asked to do; plain data, checked once by [`Trainer::new`](crate::Trainer::new).
///
/// Names follow transformers' `TrainingArguments` and the flags of the examples. The defaults are those of the study
/// that Ferrotune reproduces (two epochs, batches of 4, learning rate 2.5e-5, warm-up ratio 0.03), and transformers'
/// where the study says nothing. Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// How often every sample is seen; may be a fraction. Above 0.
    pub epochs: f64,
    /// If given, the number of optimizer steps, whatever `epochs` says. At least 1.
    pub max_steps: Option<u64>,
    /// Samples per micro-batch. The batch plan decides what is read; this sizes it, and validation's batches.
    pub batch_size: usize,
    /// Micro-batches per optimizer step. The last step of an epoch takes what is left.
    pub gradient_accumulation: usize,
    /// The learning rate after warm-up. At least 0.
    pub learning_rate: f64,
    /// Which part of all steps warms up, in `[0, 1]`; the number of steps is rounded up.
    pub warmup_ratio: f64,
    /// If given, the number of warm-up steps, whatever `warmup_ratio` says.
    pub warmup_steps: Option<u64>,
    /// How the learning rate goes on after warm-up.
    pub scheduler: Scheduler,
    /// AdamW's decoupled decay, for the tensors that decay at all. At least 0.
    pub weight_decay: f64,
    /// AdamW's decay rate of the first moment, in `[0, 1)`.
    pub adam_beta1: f64,
    /// AdamW's decay rate of the second moment, in `[0, 1)`.
    pub adam_beta2: f64,
    /// What AdamW adds to the root of the second moment. At least 0.
    pub adam_epsilon: f64,
    /// Gradients of a larger global norm are scaled down to it; 0 never clips.
    pub max_grad_norm: f64,
    /// Steps between evaluations; if absent, one after each epoch. There is always one at the end.
    pub eval_steps: Option<u64>,
    /// Steps between checkpoints; if absent, one after each epoch. There is always one at the end.
    pub save_steps: Option<u64>,
    /// How many checkpoints are kept; if absent, all. At least 1.
    pub save_total_limit: Option<u64>,
    /// Steps between rows of the loss history. At least 1.
    pub logging_steps: u64,
    /// Seeds what is random in training: dropout here, the order of the samples in the batch plan.
    pub seed: u64,
    /// Whether blocks keep only their input and run again in the backward pass.
    pub gradient_checkpointing: bool,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            epochs: 2.0,
            max_steps: None,
            batch_size: 4,
            gradient_accumulation: 1,
            learning_rate: 2.5e-5,
            warmup_ratio: 0.03,
            warmup_steps: None,
            scheduler: Scheduler::Linear,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            eval_steps: None,
            save_steps: None,
            save_total_limit: None,
            logging_steps: 10,
            seed: 42,
            gradient_checkpointing: false,
        }
    }
}

impl TrainingConfig {
    /// What the blocks keep for the backward pass.
    #[must_use]
    pub fn recompute(&self) -> Recompute {
        if self.gradient_checkpointing { Recompute::Blocks } else { Recompute::Nothing }
    }

    /// Checks every setting by itself.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first one out of range.
    pub fn validate(&self) -> Result<()> {
        let at_least_one = "at least 1";
        let not_negative = "a finite number, 0 or more";
        let rate = "at least 0 and less than 1";
        let finite = |value: f64| value.is_finite() && value >= 0.0;
        let check = |fits: bool, setting, found: String, expected| {
            if fits { Ok(()) } else { Err(Error::Setting { setting, found, expected }) }
        };
        let number = |value: f64, setting| check(finite(value), setting, value.to_string(), not_negative);
        let beta = |value: f64, setting| check((0.0..1.0).contains(&value), setting, value.to_string(), rate);
        let count = |value: u64, setting| check(value > 0, setting, value.to_string(), at_least_one);
        let optional = |value: Option<u64>, setting| value.map_or(Ok(()), |value| count(value, setting));

        check(
            self.epochs.is_finite() && self.epochs > 0.0,
            "epochs",
            self.epochs.to_string(),
            "a finite number above 0",
        )?;
        optional(self.max_steps, "max_steps")?;
        count(self.batch_size as u64, "batch_size")?;
        count(self.gradient_accumulation as u64, "gradient_accumulation")?;
        number(self.learning_rate, "learning_rate")?;
        let ratio = self.warmup_ratio;
        check((0.0..=1.0).contains(&ratio), "warmup_ratio", ratio.to_string(), "between 0 and 1")?;
        number(self.weight_decay, "weight_decay")?;
        beta(self.adam_beta1, "adam_beta1")?;
        beta(self.adam_beta2, "adam_beta2")?;
        number(self.adam_epsilon, "adam_epsilon")?;
        number(self.max_grad_norm, "max_grad_norm")?;
        optional(self.eval_steps, "eval_steps")?;
        optional(self.save_steps, "save_steps")?;
        optional(self.save_total_limit, "save_total_limit")?;
        count(self.logging_steps, "logging_steps")
    }

    /// Optimizer steps of the whole run, for `batches` micro-batches per epoch: `max_steps`, or the epochs' steps
    /// rounded up.
    #[must_use]
    pub fn total_steps(&self, batches: usize) -> u64 {
        let per_epoch = batches.div_ceil(self.gradient_accumulation);
        self.max_steps.unwrap_or_else(|| (self.epochs * per_epoch as f64).ceil() as u64)
    }

    /// Warm-up steps of a run of `total` steps: `warmup_steps`, or the ratio of `total` rounded up.
    #[must_use]
    pub fn warmup(&self, total: u64) -> u64 {
        self.warmup_steps.unwrap_or_else(|| (total as f64 * self.warmup_ratio).ceil() as u64)
    }
}

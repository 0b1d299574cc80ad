//! What a run tells those who listen.

use std::path::Path;

use ferrotune_core::BoxError;

use crate::{EndRow, Evaluation, EvaluationRow, TrainingRow, TrainingSummary};

/// What happened. References are valid during the call only.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A run begins, or goes on: nothing after `step` has happened yet. Logs that know of later steps were written by a
    /// process that was interrupted, and cut themselves back.
    Started {
        /// Optimizer steps already done; 0 for a new run.
        step: u64,
        /// What is going to happen.
        plan: &'a RunPlan,
    },
    /// The first steps have been timed.
    Estimated(&'a Estimate),
    /// An optimizer step was taken.
    Stepped(&'a StepReport),
    /// A row was added to the loss history.
    Logged(&'a TrainingRow),
    /// A validation batch was done.
    Evaluating {
        /// Batches done.
        done: usize,
        /// Batches in all.
        total: usize,
    },
    /// An evaluation is done.
    Evaluated {
        /// The row of the loss history.
        row: &'a EvaluationRow,
        /// All of its figures.
        evaluation: &'a Evaluation,
    },
    /// A checkpoint is about to be written: logs put on disk what they hold.
    CheckpointBegun {
        /// Optimizer steps done.
        step: u64,
    },
    /// A checkpoint is complete.
    CheckpointWritten {
        /// Optimizer steps done.
        step: u64,
        /// Its folder.
        path: &'a Path,
        /// Its size.
        bytes: u64,
        /// How long it took.
        seconds: f64,
    },
    /// The run is over.
    Finished {
        /// The last row of the loss history.
        row: &'a EndRow,
        /// The result.
        summary: &'a TrainingSummary,
    },
}

/// Listens to a run; implementors provide the one method. An error stops the run.
pub trait Listener {
    /// Called once for each event, in order, from the thread that trains.
    ///
    /// # Errors
    /// Any; the run ends with [`Error::Port`](crate::Error::Port).
    fn on(&mut self, event: &Event<'_>) -> Result<(), BoxError>;
}

/// What a run is going to do, known before its first step.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RunPlan {
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Optimizer steps of an epoch.
    pub steps_per_epoch: u64,
    /// Warm-up steps.
    pub warmup_steps: u64,
    /// Training samples.
    pub samples: usize,
    /// Validation samples.
    pub validation_samples: usize,
    /// Trainable scalars.
    pub trainable_parameters: u64,
    /// The optimizer's groups of tensors.
    pub groups: Vec<ParameterGroup>,
    /// Size of the tensors in a checkpoint (trainable tensors and moments; what the export adds is not known), in bytes.
    pub checkpoint_bytes: u64,
    /// The most that checkpoints will occupy, while one more than are kept is being written; 0 without an output folder.
    pub disk_bytes: u64,
    /// Memory for trainable tensors, their gradients and moments, in bytes.
    pub state_bytes: u64,
}

/// Tensors that the optimizer treats alike.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ParameterGroup {
    /// `decay` or `no decay`.
    pub name: &'static str,
    /// Its decoupled decay.
    pub weight_decay: f64,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of scalars.
    pub elements: u64,
}

/// How long the rest will take, judged by the first steps.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// Mean of the timed steps.
    pub seconds_per_step: f64,
    /// Time for the remaining optimizer steps; evaluations and checkpoints come on top.
    pub remaining_seconds: f64,
    /// The most memory the process has had in RAM.
    pub peak_rss_bytes: Option<u64>,
    /// The most memory that tensors have had on the device; nothing on a CPU.
    pub peak_device_bytes: Option<u64>,
}

/// One optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// Optimizer steps done, this one included.
    pub step: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Mean negative log-likelihood per supervised token of the whole step.
    pub loss: f64,
    /// The model's auxiliary loss, if it has one.
    pub auxiliary_loss: Option<f64>,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// The learning rate the step was taken with.
    pub learning_rate: f64,
    /// Input tokens, padding excluded.
    pub tokens: u64,
    /// Supervised tokens.
    pub supervised_tokens: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

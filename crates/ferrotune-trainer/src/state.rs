//! `trainer_state.json`, as transformers' `TrainerState` reads and writes it.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, python_json};

/// A run's counters and its loss history, with the fields of transformers' `TrainerState` (version 5).
///
/// Fields stand in the alphabetical order in which transformers writes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// The step of the lowest validation loss so far.
    pub best_global_step: Option<u64>,
    /// The lowest validation loss so far.
    pub best_metric: Option<f64>,
    /// Never set here; transformers sets it when it is told to keep the best checkpoint.
    pub best_model_checkpoint: Option<String>,
    /// Epochs done, with the fraction of the present one.
    pub epoch: f64,
    /// Steps between evaluations; transformers' default of 500 where evaluations follow epochs.
    pub eval_steps: u64,
    /// Optimizer steps done.
    pub global_step: u64,
    /// Always false: for transformers' hyperparameter search.
    pub is_hyper_param_search: bool,
    /// Whether this process is the first of its machine.
    pub is_local_process_zero: bool,
    /// Whether this process is the first of all.
    pub is_world_process_zero: bool,
    /// Training and evaluation rows in the order in which they came about.
    pub log_history: Vec<LogRow>,
    /// Steps between training rows.
    pub logging_steps: u64,
    /// Optimizer steps of the whole run.
    pub max_steps: u64,
    /// Input tokens read so far, padding excluded.
    pub num_input_tokens_seen: u64,
    /// Epochs of the whole run, rounded up.
    pub num_train_epochs: u64,
    /// Steps between checkpoints; transformers' default of 500 where checkpoints follow epochs.
    pub save_steps: u64,
    /// State of transformers' callbacks; nothing here.
    pub stateful_callbacks: BTreeMap<String, serde_json::Value>,
    /// Floating-point operations; not measured, 0.
    pub total_flos: f64,
    /// Samples per micro-batch.
    pub train_batch_size: Option<u64>,
    /// For transformers' hyperparameter search.
    pub trial_name: Option<String>,
    /// For transformers' hyperparameter search.
    pub trial_params: Option<serde_json::Value>,
}

/// What transformers writes where a strategy does not count steps.
const DEFAULT_STEPS: u64 = 500;

impl Default for TrainerState {
    fn default() -> Self {
        Self {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: 0.0,
            eval_steps: DEFAULT_STEPS,
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: DEFAULT_STEPS,
            max_steps: 0,
            num_input_tokens_seen: 0,
            num_train_epochs: 0,
            save_steps: DEFAULT_STEPS,
            stateful_callbacks: BTreeMap::new(),
            total_flos: 0.0,
            train_batch_size: None,
            trial_name: None,
            trial_params: None,
        }
    }
}

/// A row of the loss history. Which kind it is shows in its keys, as in transformers' files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogRow {
    /// `loss`, `grad_norm`, `learning_rate`.
    Training(TrainingRow),
    /// `eval_loss` and its company.
    Evaluation(EvaluationRow),
    /// `train_runtime`, `train_loss`: the last row.
    End(EndRow),
}

/// The steps since the row before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingRow {
    /// Mean of the model's auxiliary loss over these steps, if it has one; not part of `loss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auxiliary_loss: Option<f64>,
    /// Epochs done.
    pub epoch: f64,
    /// Global norm of the last step's gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean over these steps of the mean negative log-likelihood per supervised token (natural logarithm).
    pub loss: f64,
    /// Optimizer steps done.
    pub step: u64,
    /// Mean negative log-likelihood over all supervised tokens of these steps. Where steps differ much in size, as they
    /// do when samples are grouped by length, only this one can be compared with a validation loss: `loss` gives a step
    /// of 28 tokens the weight of one of 1700. Transformers has no such field, and ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_loss: Option<f64>,
}

/// An evaluation during or after training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRow {
    /// Epochs done.
    pub epoch: f64,
    /// Mean negative log-likelihood per supervised token of the validation samples.
    pub eval_loss: f64,
    /// Seconds.
    pub eval_runtime: f64,
    /// Samples per second.
    pub eval_samples_per_second: f64,
    /// Batches per second.
    pub eval_steps_per_second: f64,
    /// Optimizer steps done.
    pub step: u64,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndRow {
    /// Epochs done.
    pub epoch: f64,
    /// Optimizer steps done.
    pub step: u64,
    /// Floating-point operations; not measured, 0.
    pub total_flos: f64,
    /// Mean of all steps' losses.
    pub train_loss: f64,
    /// Seconds, all parts of a resumed run together.
    pub train_runtime: f64,
    /// Samples per second.
    pub train_samples_per_second: f64,
    /// Optimizer steps per second.
    pub train_steps_per_second: f64,
}

impl TrainerState {
    /// The text of `trainer_state.json`: two spaces of indentation, sorted keys, numbers spelt as Python spells them.
    ///
    /// # Errors
    /// [`Error::Json`] never in practice: every field is plain data.
    pub fn to_json(&self) -> Result<String> {
        python_json::to_string(self)
            .map_err(|source| Error::Json { path: "trainer_state.json".into(), source })
    }

    /// Reads a `trainer_state.json`.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Json`].
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        serde_json::from_str(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
    }

    /// Validation losses with their steps, in order.
    pub fn evaluations(&self) -> impl DoubleEndedIterator<Item = (u64, f64)> + '_ {
        self.log_history.iter().filter_map(|row| match row {
            LogRow::Evaluation(row) => Some((row.step, row.eval_loss)),
            _ => None,
        })
    }
}

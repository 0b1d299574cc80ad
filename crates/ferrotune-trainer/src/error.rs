use std::{io, path::PathBuf};

use ferrotune_core::BoxError;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch refused an operation.
    #[error(transparent)]
    Tensor(#[from] tch::TchError),
    /// The layer over libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] ferrotune_torch::Error),
    /// The model refused an operation, or a file of tensors is damaged.
    #[error(transparent)]
    Model(#[from] ferrotune_nn::Error),
    /// A setting is out of range.
    #[error("setting `{setting}` is {found}, expected {expected}")]
    Setting {
        /// The setting, spelt as in [`TrainingConfig`](crate::TrainingConfig).
        setting: &'static str,
        /// Its value.
        found: String,
        /// The accepted range.
        expected: &'static str,
    },
    /// The model has no trainable tensor.
    #[error(
        "nothing trains: the model has no trainable tensor; put an adapter on it or make its weights trainable"
    )]
    NothingTrains,
    /// The samples supervise no token at all.
    #[error(
        "none of the {samples} {set} samples supervises a token, so there is no loss; check the template and max_seq_length"
    )]
    NothingSupervised {
        /// Which set: `training` or `validation`.
        set: &'static str,
        /// How many samples it has.
        samples: usize,
    },
    /// A sample cannot be used with this model.
    #[error("{set} record {record} {problem}, expected {expected}")]
    Sample {
        /// Which set.
        set: &'static str,
        /// The record's name.
        record: String,
        /// What is wrong with it.
        problem: String,
        /// What the model accepts.
        expected: String,
    },
    /// A batch plan failed.
    #[error("the {set} batches of epoch {epoch} cannot be planned: {source}")]
    Plan {
        /// Which set.
        set: &'static str,
        /// The epoch, counted from 0.
        epoch: u64,
        /// Why.
        source: BoxError,
    },
    /// A batch plan does not fit the samples or the run.
    #[error("the {set} batches of epoch {epoch} {problem}, expected {expected}")]
    PlanShape {
        /// Which set.
        set: &'static str,
        /// The epoch, counted from 0.
        epoch: u64,
        /// What is wrong with them.
        problem: String,
        /// What was expected.
        expected: String,
    },
    /// A trainable tensor that every step must reach got no gradient.
    #[error(
        "trainable tensor `{tensor}` got no gradient in step {step}: the graph from it to the loss is cut, so it would never train"
    )]
    UndefinedGradient {
        /// The tensor.
        tensor: String,
        /// The step, counted from 1.
        step: u64,
    },
    /// The loss of a batch is not a finite number. No weight was changed by the step.
    #[error(
        "the loss of step {step} is {found} in the batch of records {records}; lower learning_rate, or look at these records"
    )]
    NonFiniteLoss {
        /// The step, counted from 1.
        step: u64,
        /// The loss.
        found: f64,
        /// The names of the batch's records, joined by commas.
        records: String,
    },
    /// A gradient is not finite although the loss is. No weight was changed by the step.
    #[error("the gradient of `{tensor}` is not finite in step {step}, which read the records {records}")]
    NonFiniteGradient {
        /// The first tensor with such a gradient.
        tensor: String,
        /// The step, counted from 1.
        step: u64,
        /// The names of the records of the whole step, joined by commas.
        records: String,
    },
    /// A listener or a port of the caller failed.
    #[error("{port} failed in step {step}: {source}")]
    Port {
        /// Which port: `a listener`, `the export`.
        port: &'static str,
        /// The step.
        step: u64,
        /// Why.
        source: BoxError,
    },
    /// A file or folder of the run could not be read or written.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried: `write`, `read`, `rename`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A JSON file of the run is damaged.
    #[error("`{path}` is damaged: {source}; delete its folder to resume from an earlier checkpoint")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The output folder holds a run already.
    #[error(
        "`{folder}` holds a run already (`{found}`); resume it, force a new run over it, or choose another folder"
    )]
    OutputExists {
        /// The folder.
        folder: PathBuf,
        /// One thing in it.
        found: String,
    },
    /// A checkpoint belongs to another run than the one that should resume from it.
    #[error(
        "`{checkpoint}` cannot be resumed: {what} was {found} and is now {expected}; restore it, or start a new run"
    )]
    OtherRun {
        /// The checkpoint's folder.
        checkpoint: PathBuf,
        /// What differs: a setting, a tensor, the samples.
        what: String,
        /// What the checkpoint was made with.
        found: String,
        /// What the present run has.
        expected: String,
    },
    /// A checkpoint was written in a format that this version does not read.
    #[error(
        "`{checkpoint}` has format {found}, expected {expected}; resume it with the version that wrote it"
    )]
    CheckpointFormat {
        /// The checkpoint's folder.
        checkpoint: PathBuf,
        /// Its format.
        found: u32,
        /// The format of this version.
        expected: u32,
    },
    /// A log of the run is damaged before its end, so it cannot be cut back to a checkpoint.
    #[error("`{path}` is damaged at {place}, expected {expected}; move it away to go on with a new one")]
    DamagedLog {
        /// The file.
        path: PathBuf,
        /// Where: a line or a byte.
        place: String,
        /// What should stand there.
        expected: &'static str,
    },
}

impl Error {
    /// For `map_err`: an input or output error with what was tried where.
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

use std::{borrow::Cow, path::PathBuf};

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while models, data and measurements are put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model could not be read, built or run.
    #[error(transparent)]
    Model(#[from] ferrotune_nn::Error),
    /// libtorch refused an operation.
    #[error(transparent)]
    Tensor(#[from] tch::TchError),
    /// The layer over libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] ferrotune_torch::Error),
    /// A data set could not be read or prepared.
    #[error(transparent)]
    Data(#[from] ferrotune_data::Error),
    /// An adapter could not be read, built or written.
    #[error(transparent)]
    Adapter(#[from] ferrotune_adapters::Error),
    /// An adapter says that it was made for another base.
    #[error(
        "{adapter} was made for another base than `{base}`: {difference} (it was trained on `{trained_on}`); name that model, or \
         use the adapter all the same with --allow-other-base (in code: `AdapterWeights::without_base`)"
    )]
    OtherBase {
        /// The adapter's file.
        adapter: String,
        /// The folder of the base that it was to be put on.
        base: PathBuf,
        /// What differs, as a clause.
        difference: &'static str,
        /// What the adapter calls its base.
        trained_on: String,
    },
    /// Training stopped.
    #[error(transparent)]
    Trainer(#[from] ferrotune_trainer::Error),
    /// A metric could not be computed.
    #[error(transparent)]
    Metric(#[from] ferrotune_eval::Error),
    /// The sentence encoder could not be read or run.
    #[error(transparent)]
    Encoder(#[from] ferrotune_bert::Error),
    /// A sample could not be scored where failures are errors; what was scored before it is kept.
    #[error("{source}; what was scored is in `{path}`")]
    Unfinished {
        /// The per-sample file.
        path: PathBuf,
        /// What failed.
        source: Box<Error>,
    },
    /// A folder holds a study that cannot go on.
    #[error("`{folder}` cannot be resumed: {reason}; begin anew with --force, or choose another folder")]
    NotResumable {
        /// The output folder.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// What a study would replace in its output folder is not its own.
    #[error("`{path}` {reason}, and the study would replace it; choose another output folder")]
    OutputTaken {
        /// The file or folder.
        path: PathBuf,
        /// Whose it is.
        reason: &'static str,
    },
    /// A setting has a value that makes no sense.
    #[error("setting `{setting}` is {found}, expected {expected}")]
    Setting {
        /// Its name, as in files and flags.
        setting: Cow<'static, str>,
        /// Its value.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A study's file is not what it should be.
    #[error("`{path}` is not a study")]
    StudyFile {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A grown base model does not know what it was told.
    #[error(
        "the base model {model} completes a share of {found:.2} of the facts it was grown on, expected {expected}; \
         fine-tuning it would show nothing, so grow it longer or from another seed"
    )]
    Recall {
        /// The model.
        model: String,
        /// Share of facts completed.
        found: f64,
        /// The least share.
        expected: f64,
    },
    /// A report could not be written.
    #[error(transparent)]
    Report(#[from] crate::report::ReportError),
    /// A tokenizer has more ids than its model.
    #[error(
        "`{folder}` has a tokenizer with {tokenizer} ids and a model with {model}; they do not belong together"
    )]
    VocabularyMismatch {
        /// The model folder.
        folder: PathBuf,
        /// Ids of the tokenizer.
        tokenizer: usize,
        /// Ids of the model.
        model: i64,
    },
    /// A file could not be read or written.
    #[error("cannot access `{path}`")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no model where one was named.
    #[error(
        "`{folder}` {problem}; expected a Hugging Face model folder with `config.json`, safetensors and `tokenizer.json`"
    )]
    NoModel {
        /// What was named.
        folder: PathBuf,
        /// What is wrong with it, as a clause with its verb.
        problem: &'static str,
    },
    /// No family of models goes by this name.
    #[error(
        "field `model_type` of `{folder}/config.json` is `{found}`, expected one of: llama, mistral, mixtral"
    )]
    UnknownFamily {
        /// The model folder.
        folder: PathBuf,
        /// The name found.
        found: String,
    },
    /// Generated ids could not be turned into text.
    #[error("the generated ids cannot be turned into text; does the tokenizer belong to the model?")]
    Decode {
        /// Why.
        source: ferrotune_core::BoxError,
    },
    /// A dense checkpoint cannot be grown into a mixture of experts.
    #[error("cannot grow a mixture of experts from `{folder}`: {reason}")]
    Upcycle {
        /// The dense checkpoint.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// A text gives more tokens than the model has positions for.
    #[error("{what} has {found} tokens and the model {limit} positions; shorten it")]
    TextTooLong {
        /// Which text.
        what: String,
        /// Its tokens.
        found: usize,
        /// The limit.
        limit: i64,
    },
    /// A run would need more memory than it may take.
    #[error(
        "the run needs about {needed} bytes and may take {limit} ({parts}); quantize the base, lower the batch size, the \
         sequence length or the rank, or compute activations again (gradient checkpointing)"
    )]
    MemoryLimit {
        /// Bytes of the plan.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
        /// The plan, part by part, largest first.
        parts: String,
    },
}

use std::{io, path::PathBuf};

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while building or running a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch refused an operation.
    #[error(transparent)]
    Tensor(#[from] tch::TchError),
    /// The layer over libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] ferrotune_torch::Error),
    /// A file could not be read or written.
    #[error("cannot access `{path}`")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A JSON file does not parse, or not into what it should be.
    #[error("`{path}` is not the JSON that was expected")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A safetensors file is damaged.
    #[error("`{path}` is not a complete safetensors file: {reason}; fetch it again")]
    DamagedWeights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder has no weights that can be read.
    #[error("`{folder}` has no `model.safetensors` and no `model.safetensors.index.json`{remedy}")]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// What to do, if the folder says.
        remedy: String,
    },
    /// An index and the shards it names contradict each other.
    #[error("`{path}` does not fit the files beside it: tensor `{name}` {problem}; fetch the folder again")]
    ShardIndex {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong, as a clause with its verb.
        problem: String,
    },
    /// A checkpoint holds one weight under two names, with two values.
    #[error(
        "{place} holds one weight as `{first}` and as `{second}`, and they differ; remove the one that is not meant"
    )]
    TwoValues {
        /// The checkpoint.
        place: String,
        /// The name in the layout of released files.
        first: String,
        /// Where the other layout keeps it.
        second: String,
    },
    /// A tensor that the model needs is not in the checkpoint.
    #[error("tensor `{name}` is missing from {place}")]
    MissingTensor {
        /// The tensor.
        name: String,
        /// The checkpoint.
        place: String,
    },
    /// A tensor has the wrong shape.
    #[error("tensor `{name}` in {place} has shape {found:?}, expected {expected:?}")]
    WrongShape {
        /// The tensor.
        name: String,
        /// The checkpoint.
        place: String,
        /// Its shape.
        found: Vec<i64>,
        /// The shape that the configuration asks for.
        expected: Vec<i64>,
    },
    /// A tensor is stored in a type that this crate does not read.
    #[error("tensor `{name}` in {place} is stored as {found}, expected F32, F16 or BF16")]
    WrongType {
        /// The tensor.
        name: String,
        /// The checkpoint.
        place: String,
        /// Its type.
        found: String,
    },
    /// A weight is not a number, or infinite: everything that is computed with it would be.
    #[error(
        "tensor `{name}` in {place} has {found} at index {index}, expected finite numbers; the checkpoint is damaged or its \
         training diverged"
    )]
    NotFinite {
        /// The tensor.
        name: String,
        /// The checkpoint.
        place: String,
        /// The first such entry, counted row by row.
        index: i64,
        /// What stands there.
        found: f64,
    },
    /// The model's output is no ground to choose a next id by.
    #[error(
        "row {row}: the largest logit is {found}, expected a finite number; the weights are damaged, or too large for this \
         precision (try f32)"
    )]
    Logits {
        /// The row of the batch.
        row: usize,
        /// Its largest logit.
        found: f32,
    },
    /// A tensor in another encoding cannot be turned into numbers.
    #[error("tensor `{name}` in {place} cannot be decoded")]
    Undecodable {
        /// The tensor.
        name: String,
        /// The checkpoint.
        place: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A checkpoint has tensors that its configuration gives no meaning to.
    #[error(
        "{place} has {count} tensors that its config.json gives no place to, among them `{first}`; the configuration \
         and the weights do not belong together, or the model has parts that are not implemented"
    )]
    UnexpectedTensors {
        /// The checkpoint.
        place: String,
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// A configuration field has a value that is not implemented or makes no sense.
    #[error("field `{field}` of {place} is {found}, expected {expected}")]
    Config {
        /// The field, with dots for nesting.
        field: String,
        /// The file.
        place: String,
        /// Its value.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// Two spellings of one setting disagree.
    #[error(
        "{place} gives both `{first}` and `{second}` and they disagree ({first_value} against {second_value}); remove one"
    )]
    ConfigConflict {
        /// The file.
        place: String,
        /// One field.
        first: String,
        /// Its value.
        first_value: String,
        /// The other field.
        second: String,
        /// Its value.
        second_value: String,
    },
    /// A sequence is longer than the model has positions for.
    #[error(
        "a sequence of {found} tokens does not fit the model's {limit} positions; shorten it or lower max_seq_length"
    )]
    TooLong {
        /// Tokens asked for.
        found: i64,
        /// The limit.
        limit: i64,
    },
    /// A token id lies outside the vocabulary.
    #[error(
        "token id {found} is outside the model's vocabulary of {limit}; the tokenizer belongs to another model"
    )]
    UnknownToken {
        /// The id.
        found: i64,
        /// Vocabulary size.
        limit: i64,
    },
    /// An argument that the caller chose is out of range.
    #[error("{argument} is {found}, expected {expected}")]
    Argument {
        /// The argument's name.
        argument: &'static str,
        /// Its value.
        found: String,
        /// The accepted range.
        expected: &'static str,
    },
    /// A builder outside this crate refused a site.
    #[error("cannot build `{path}`")]
    Site {
        /// Module path of the site.
        path: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

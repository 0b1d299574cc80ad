use std::path::PathBuf;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a sentence encoder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder's configuration or weights cannot be used.
    #[error(transparent)]
    Model(#[from] ferrotune_nn::Error),
    /// libtorch refused an operation.
    #[error(transparent)]
    Tensor(#[from] tch::TchError),
    /// The folder's tokenizer cannot be used.
    #[error("`{path}` is not a tokenizer that can be read")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        source: tokenizers::Error,
    },
    /// A text could not be tokenized.
    #[error("text {index} of a batch cannot be tokenized")]
    Tokenize {
        /// Which text.
        index: usize,
        /// Why.
        source: tokenizers::Error,
    },
}

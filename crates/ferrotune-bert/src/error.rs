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
    /// There is no such layer.
    #[error("layer {found} was asked for, and the encoder has 1 to {layers}")]
    Layer {
        /// The layer.
        found: i64,
        /// How many there are.
        layers: i64,
    },
    /// The folder's tokenizer does not put a mark at the begin and the end of a text.
    #[error(
        "the tokenizer of `{folder}` does not turn an empty text into a begin mark and an end mark, which BERTScore \
         leaves out by their ids; is it a BERT tokenizer?"
    )]
    Marks {
        /// The folder.
        folder: PathBuf,
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

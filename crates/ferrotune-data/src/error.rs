use std::{io, path::PathBuf};

use ferrotune_core::BoxError;

use crate::{Format, Rejection};

/// What can go wrong between a data file and a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or decompressed.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system or the decompressor says.
        source: io::Error,
    },

    /// The name of a data file does not say how to read it.
    #[error("cannot tell the kind of `{}` from its name; expected .json, .jsonl, .csv, .tsv or .parquet, optionally \
             followed by .gz or .zst", path.display())]
    UnknownExtension {
        /// The file.
        path: PathBuf,
    },

    /// The bytes of a file contradict its name.
    #[error("`{}` is named as {expected} but {found}; {remedy}", path.display())]
    NotWhatItsNameSays {
        /// The file.
        path: PathBuf,
        /// What the name promises.
        expected: &'static str,
        /// What the bytes are, as a clause with its verb.
        found: String,
        /// What to do.
        remedy: &'static str,
    },

    /// The structure of a file is broken, so that no later record can be trusted.
    #[error("`{}` is damaged at {place}: {problem}; repair the file or fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line and column, or the row.
        place: String,
        /// What the parser found.
        problem: String,
    },

    /// No record of the file has the columns of a known format.
    #[error("no known record format in `{}`: its columns are {found}; expected instruction and output (alpaca), \
             prompt and response (instruct-v3) or messages", path.display())]
    UnknownColumns {
        /// The file.
        path: PathBuf,
        /// The columns of its first record.
        found: String,
    },

    /// The file has the columns of several formats.
    #[error("`{}` has the columns of several formats ({}); name the one to read with --format", path.display(),
            formats.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    AmbiguousColumns {
        /// The file.
        path: PathBuf,
        /// The formats that fit.
        formats: Vec<Format>,
    },

    /// A column has a type that cannot hold text.
    #[error("column `{column}` of `{}` holds {found}, expected text", path.display())]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type.
        found: String,
    },

    /// The file was asked to be read in a format whose columns it lacks.
    #[error("`{}` lacks column `{column}` of format {format}; its columns are {found}", path.display())]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The format asked for.
        format: Format,
        /// The first missing column.
        column: &'static str,
        /// The columns that are there.
        found: String,
    },

    /// A bad record under [`Strictness::Strict`](crate::Strictness::Strict).
    #[error("bad record in `{}`, {rejection}; mend it, or read without --strict to drop and count such records",
            path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// Where and why.
        rejection: Box<Rejection>,
    },

    /// Every record of a file was bad.
    #[error("no usable record in `{}`: {dropped} of {dropped} were dropped, the first at {first}", path.display())]
    NothingKept {
        /// The file.
        path: PathBuf,
        /// How many records were read.
        dropped: u64,
        /// The first of them.
        first: Box<Rejection>,
    },

    /// A file holds no record at all.
    #[error("no record in `{}`: the file is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },

    /// A model folder without a tokenizer that can be read.
    #[error("no `tokenizer.json` in `{}`{}", folder.display(), if *sentencepiece_only {
        ": it holds only `tokenizer.model`; take tokenizer.json from the model's repository, or convert once with \
         Python: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    } else {
        "; expected the file of that name from the model's repository"
    })]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
        /// Whether a SentencePiece model lies there.
        sentencepiece_only: bool,
    },

    /// A tokenizer file or a JSON file beside it cannot be understood.
    #[error("cannot use `{}`: {problem}", path.display())]
    TokenizerFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// A chat template is no Jinja, or refuses a conversation.
    #[error("the chat template of `{}` fails: {problem}", path.display())]
    ChatTemplate {
        /// The file it stands in.
        path: PathBuf,
        /// What the template or its compiler says.
        problem: String,
    },

    /// Two files of a model folder disagree about a special token.
    #[error("the {role} token of `{}` is {first} but {second}; make the files agree", folder.display())]
    SpecialTokenConflict {
        /// The folder.
        folder: PathBuf,
        /// `bos` or `eos`.
        role: &'static str,
        /// One value, with the key and the file that give it.
        first: String,
        /// The value that contradicts, with its key and file.
        second: String,
    },

    /// The tokenizer has no BOS or EOS and the template needs it.
    #[error(
        "the tokenizer has no {role} token, which the template needs; set {role}_token in tokenizer_config.json"
    )]
    MissingSpecialToken {
        /// `bos` or `eos`.
        role: &'static str,
    },

    /// The tokenizer refused a text.
    #[error("cannot tokenize the record of {origin}: {source}")]
    Tokenize {
        /// Which record.
        origin: String,
        /// What the tokenizer says.
        source: BoxError,
    },

    /// A limit or a size that cannot be meant.
    #[error("{setting} is {found}, expected {expected}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        expected: String,
    },

    /// More records were asked for than there are.
    #[error(
        "the split asks for {wanted} records (train {train}, validation {validation}, test {test}) but only \
             {available} remain after filtering; ask for fewer or give fractions"
    )]
    SplitTooLarge {
        /// The sum.
        wanted: usize,
        /// Records of the training part.
        train: usize,
        /// Records of the validation part.
        validation: usize,
        /// Records of the test part.
        test: usize,
        /// How many there are.
        available: usize,
    },
}

//! What is wrong with a file of data: the parts of [`Error`](crate::Error) that name a place in it.

/// What is wrong with the files of a benchmark.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskDataProblem {
    /// There is no such file, or none of the names that the task looks for.
    #[error("there is no file here that the task can read; expected {expected}")]
    NoFile {
        /// What was looked for.
        expected: String,
    },
    /// The name does not say how to read the file.
    #[error(
        "the name does not say how to read it; expected .json, .jsonl, .csv, .tsv or .parquet, all but the last \
         optionally followed by .gz or .zst"
    )]
    UnknownExtension,
    /// The file is not of the kind that its name says, or it is damaged.
    #[error("{place}: {detail}")]
    Damaged {
        /// The line or row.
        place: String,
        /// What the reader found.
        detail: String,
    },
    /// A column is missing.
    #[error("column `{column}` is missing; expected {expected}, found {found}")]
    MissingColumn {
        /// The column.
        column: String,
        /// The columns that are needed.
        expected: String,
        /// The columns that are there.
        found: String,
    },
    /// A file without a header has rows of another width.
    #[error("{place} has {found} columns, expected {expected}")]
    ColumnCount {
        /// The line or row.
        place: String,
        /// Its columns.
        found: usize,
        /// What they should be.
        expected: String,
    },
    /// A cell holds what it cannot hold.
    #[error("{place}, column `{column}` is {found}, expected {expected}")]
    Cell {
        /// The line or row.
        place: String,
        /// The column.
        column: String,
        /// What it holds.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// The published data has another number of rows.
    #[error(
        "{part} has {found} rows, the published data has {expected}; to score a part of it or other data on purpose, \
         allow any number of rows"
    )]
    RowCount {
        /// Which part.
        part: String,
        /// Rows found.
        found: usize,
        /// Rows of the published data.
        expected: String,
    },
    /// An id was used before.
    #[error("{place} has the id `{id}` of {first}; results are keyed by id")]
    DuplicateId {
        /// The id.
        id: String,
        /// Where it was first used.
        first: String,
        /// Where it is used again.
        place: String,
    },
    /// Parts of the benchmark are missing.
    #[error(
        "{what} {} missing; to score the ones that are there on purpose, name them or allow any number of rows",
        if missing.len() == 1 { format!("`{}` is", missing[0]) } else { format!("{} are", missing.join(", ")) }
    )]
    MissingParts {
        /// What kind of parts, such as "of the 57 subjects".
        what: String,
        /// Their names.
        missing: Vec<String>,
    },
    /// There are too few examples to choose from.
    #[error("{wanted} examples are asked for and {found} are there{hint}")]
    TooFewExamples {
        /// How many were asked for.
        wanted: usize,
        /// How many there are.
        found: usize,
        /// Where they are looked for, beginning with a semicolon; or nothing.
        hint: String,
    },
    /// Nothing is left to ask about.
    #[error("it holds no documents")]
    Empty,
}

/// What is wrong with one line of a data file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineProblem {
    /// The line is not UTF-8.
    #[error("not UTF-8: byte {byte} begins no character")]
    NotUtf8 {
        /// Which byte of the line, counted from 1.
        byte: usize,
    },
    /// An object has a field twice.
    #[error("field `{field}` occurs twice in one object; keep one")]
    RepeatedField {
        /// The field.
        field: String,
    },
    /// The line is not JSON.
    #[error("not JSON: {detail}")]
    NotJson {
        /// What the parser said.
        detail: String,
    },
    /// The line is JSON, but no line of a per-sample file.
    #[error(
        "not a sample: {detail}; expected `id`, `metric`, `reference`, `prediction` and `score` or `failure`"
    )]
    NotASample {
        /// What the parser said.
        detail: String,
    },
    /// The line is no entry of a cache.
    #[error(
        "not an entry of a cache: {detail}; expected `key` and `value`. Move the file away to begin anew"
    )]
    NotACacheEntry {
        /// What the parser said.
        detail: String,
    },
    /// The line is JSON, but no recorded reply.
    #[error("not a recorded reply: {detail}; expected `sample`, `purpose` and `text`")]
    NotAReply {
        /// What the parser said.
        detail: String,
    },
    /// A field is absent.
    #[error("field `{field}` is missing")]
    MissingField {
        /// The field.
        field: &'static str,
    },
    /// A field has a value of the wrong type.
    #[error("field `{field}` is {found}, expected {expected}")]
    WrongType {
        /// The field.
        field: String,
        /// What was found.
        found: &'static str,
        /// What is allowed.
        expected: &'static str,
    },
    /// The id was used before.
    #[error("id `{id}` was used before, on line {first_line}")]
    DuplicateId {
        /// The id.
        id: String,
        /// Where it was first used, counted from 1.
        first_line: usize,
    },
    /// `references` is an empty list.
    #[error("field `references` is an empty list, expected at least one reference")]
    NoReferences,
    /// A reference holds nothing but whitespace.
    #[error("reference {index} is empty; an empty prediction is scored, an empty reference has no meaning")]
    EmptyReference {
        /// Which one, counted from 0.
        index: usize,
    },
    /// The record has both `reference` and `references`.
    #[error("fields `reference` and `references` are both present, expected one of them")]
    BothReferenceFields,
    /// A line of a table of paraphrases is not two phrases.
    #[error("{columns} phrases between tabs, expected a phrase, a tab and its paraphrase")]
    NotAParaphrase {
        /// How many there are.
        columns: usize,
    },
    /// A line of a table of paraphrases has the same phrase twice.
    #[error("`{phrase}` is given as its own paraphrase")]
    ParaphraseOfItself {
        /// The phrase, in lower case.
        phrase: String,
    },
    /// A benchmark's reply is not one text.
    #[error(
        "sample `{id}` holds {field}, which metrics over texts do not see: it is a benchmark's; score it again by the \
         benchmark's rules, with `--task`, in code with `rescore_task`"
    )]
    NotOneText {
        /// The sample.
        id: String,
        /// What it holds instead of, or beside, a text.
        field: &'static str,
    },
    /// Two lines of one sample disagree about its texts.
    #[error("sample `{id}` has another {field} than on line {first_line}")]
    Disagreement {
        /// The sample.
        id: String,
        /// The text that differs.
        field: &'static str,
        /// Where the other text stands, counted from 1.
        first_line: usize,
    },
}

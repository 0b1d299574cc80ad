use std::{io, path::PathBuf};

use ferrotune_core::BoxError;

/// Everything that can go wrong in this crate.
///
/// A sample that cannot be scored is not an error but a counted [`Failure`](crate::Failure).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened or read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{path}`: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file to be written is there already.
    #[error("`{path}` exists already; choose another name or allow it to be replaced")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A line of a data file is not what it should be.
    #[error("`{path}` line {line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// A data file holds nothing.
    #[error("`{path}` holds no records, expected at least one JSON object per line")]
    NoRecords {
        /// The file.
        path: PathBuf,
    },
    /// A metric was asked for by a name that nothing is registered under.
    #[error("unknown metric `{name}`, expected one of: {}", known.join(", "))]
    UnknownMetric {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A list of metrics names none.
    #[error("no metric was named, expected some of: {}", known.join(", "))]
    NoMetric {
        /// The names that exist.
        known: Vec<String>,
    },
    /// Two metrics were registered under one name.
    #[error("metric `{name}` is registered already")]
    DuplicateMetric {
        /// The name.
        name: String,
    },
    /// References given as streams do not fit the predictions.
    #[error(
        "reference stream {stream} has {found} segments, expected {expected}, one for each prediction{}",
        if *transposed { "; the references look transposed: pass one stream per reference, each as long as the predictions" } else { "" }
    )]
    ReferenceShape {
        /// Which stream, counted from 0.
        stream: usize,
        /// Its length.
        found: usize,
        /// The number of predictions.
        expected: usize,
        /// Whether the streams have the shape of a list of references per segment.
        transposed: bool,
    },
    /// A segment has no reference at all.
    #[error("segment {segment} has no reference, expected at least one")]
    NoReference {
        /// Which segment, counted from 0.
        segment: usize,
    },
    /// Two lists that belong together have different lengths.
    #[error("{what}: {left} against {right} entries, expected as many on both sides")]
    LengthMismatch {
        /// What was compared or joined.
        what: &'static str,
        /// Entries on the left.
        left: usize,
        /// Entries on the right.
        right: usize,
    },
    /// A setting of a metric or a statistic is outside its range.
    #[error("`{option}` is {found}, expected {expected}")]
    Setting {
        /// The setting's name.
        option: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A pattern to be removed before comparing is not a regular expression of the `regex` crate.
    #[error(
        "cannot compile the pattern `{pattern}`: {source}; look-around and back-references are not supported"
    )]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What the compiler said.
        source: regex::Error,
    },
    /// The language model failed.
    #[error("the language model failed: {source}")]
    Model {
        /// What it said.
        source: BoxError,
    },
    /// The sentence encoder failed.
    #[error("the sentence encoder `{encoder}` failed: {source}")]
    Encoder {
        /// Its name.
        encoder: String,
        /// What it said.
        source: BoxError,
    },
    /// The sentence encoder answered with vectors of the wrong number or length.
    #[error("the sentence encoder `{encoder}` returned {found}, expected {expected}")]
    EncoderShape {
        /// Its name.
        encoder: String,
        /// What came.
        found: String,
        /// What was due.
        expected: String,
    },
    /// A sample failed and failures are not allowed.
    #[error(
        "metric `{metric}` failed on sample `{id}`: {failure}; with the policy `skip` it is counted instead"
    )]
    SampleFailed {
        /// The metric.
        metric: String,
        /// The sample.
        id: String,
        /// Why.
        failure: crate::Failure,
    },
    /// A dictionary folder lacks a file or holds a malformed one.
    #[error(
        "`{path}` is not WordNet data: {problem}; on Debian `apt-get install wordnet-base` puts it into /usr/share/wordnet"
    )]
    WordNet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A composite index lacks a component.
    #[error("the index `{index}` lacks `{component}`; a missing part is never re-weighted silently")]
    MissingComponent {
        /// The index.
        index: String,
        /// The missing part.
        component: String,
    },
    /// Ratings cannot be identified from the battles.
    #[error("ratings are not identifiable: {reason}")]
    Unidentifiable {
        /// Why: a disconnected comparison graph, an undefeated player.
        reason: String,
    },
}

/// What is wrong with one line of a data file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineProblem {
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

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

//! What every reader produces, whatever the file looked like.

use std::{fmt, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

/// One instruction record: a request and its response, or several turns of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it was read.
    pub origin: Origin,
    /// A system message of its own; it takes the place of the template's preamble.
    pub system: Option<String>,
    /// The turns in order, at least one.
    pub turns: Vec<Turn>,
    /// Which collection it came from, where the file says so (instruct-v3's `source`).
    pub source: Option<String>,
    /// Whether the template puts its preamble before the first request.
    pub preamble: Preamble,
}

impl Record {
    /// A record of one turn that was made in memory; `row` names it in reports.
    #[must_use]
    pub fn new(request: impl Into<String>, response: impl Into<String>, row: u64) -> Self {
        Self {
            origin: Origin { file: Arc::from(Path::new("memory")), place: Place::Row(row) },
            system: None,
            turns: vec![Turn { request: request.into(), response: response.into() }],
            source: None,
            preamble: Preamble::Added,
        }
    }
}

/// What the user says and what the model is to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The user's words, without any frame.
    pub request: String,
    /// The answer to learn.
    pub response: String,
}

/// Whether a rendered record begins with the template's preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preamble {
    /// The usual case.
    Added,
    /// The request brings a frame that could not be stripped; a second preamble would wrap it twice.
    Omitted,
}

/// The file and the place in it that a record came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The path as the user gave it.
    pub file: Arc<Path>,
    /// Where in the file.
    pub place: Place,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.place)
    }
}

/// A place in a data file; all kinds count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The line on which the record begins, in text files (after decompression).
    Line(u64),
    /// The row, in Parquet files.
    Row(u64),
    /// The element of a JSON array, of which a line can hold any number.
    Element {
        /// Which element.
        record: u64,
        /// The line on which it begins.
        line: u64,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Row(row) => write!(f, "row {row}"),
            Self::Element { record, line } => write!(f, "record {record} in line {line}"),
        }
    }
}

//! Why a record was left out, and the count of everything that happened to a file.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Format, Place};

/// How many rejections a [`FileReport`] lists one by one; the counts by reason are always complete.
pub const LISTED_REJECTIONS: usize = 1000;

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The bytes are not UTF-8.
    InvalidUtf8,
    /// The line or array element is not JSON.
    MalformedJson {
        /// What the parser says.
        problem: String,
    },
    /// The element is JSON but not an object.
    NotAnObject {
        /// What it is.
        found: String,
    },
    /// A row of a delimited file has another number of fields than the header.
    RaggedRow {
        /// Fields of the header.
        expected: u64,
        /// Fields of the row.
        found: u64,
    },
    /// A field is absent or null.
    MissingField {
        /// Its name.
        field: String,
    },
    /// A field holds something else than it must.
    WrongType {
        /// Its name, with the index of the message where there is one.
        field: String,
        /// What it must hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A field that must say something holds white space or nothing.
    EmptyField {
        /// Its name.
        field: String,
    },
    /// The messages of a conversation do not alternate from user to assistant.
    Conversation {
        /// What is out of order.
        problem: String,
    },
}

impl Reason {
    /// The name under which records with this kind of fault are counted, equal to the serialized `kind`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid_utf8",
            Self::MalformedJson { .. } => "malformed_json",
            Self::NotAnObject { .. } => "not_an_object",
            Self::RaggedRow { .. } => "ragged_row",
            Self::MissingField { .. } => "missing_field",
            Self::WrongType { .. } => "wrong_type",
            Self::EmptyField { .. } => "empty_field",
            Self::Conversation { .. } => "conversation",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidUtf8 => write!(f, "the text is not valid UTF-8"),
            Self::MalformedJson { problem } => write!(f, "malformed JSON, {problem}"),
            Self::NotAnObject { found } => write!(f, "expected a JSON object, found {found}"),
            Self::RaggedRow { expected, found } => {
                write!(f, "the row has {found} fields, expected {expected} as in the header")
            }
            Self::MissingField { field } => write!(f, "field `{field}` is missing"),
            Self::WrongType { field, expected, found } => {
                write!(f, "field `{field}` is {found}, expected {expected}")
            }
            Self::EmptyField { field } => write!(f, "field `{field}` is empty"),
            Self::Conversation { problem } => write!(f, "the conversation is out of order, {problem}"),
        }
    }
}

/// A record that was left out: where it stands and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Its place in the file.
    pub place: Place,
    /// What is wrong with it.
    pub reason: Reason,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

/// What was found in one data file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// The path as the user gave it.
    pub path: PathBuf,
    /// SHA-256 of the bytes on disk, lower-case hexadecimal.
    pub sha256: String,
    /// The record format, as found or as asked for.
    pub format: Format,
    /// Records in the file: `kept + dropped`. Blank lines are no records.
    pub read: u64,
    /// Records that became a [`Record`](crate::Record).
    pub kept: u64,
    /// Records that were left out.
    pub dropped: u64,
    /// `dropped` by [`Reason::kind`].
    pub dropped_by_reason: BTreeMap<String, u64>,
    /// Kept instruct-v3 prompts whose frame could not be stripped, which go in without the preamble.
    pub unstripped_prompts: u64,
    /// The first [`LISTED_REJECTIONS`] records that were left out, in file order.
    pub rejections: Vec<Rejection>,
}

impl FileReport {
    pub(super) fn new(path: PathBuf, sha256: String, format: Format) -> Self {
        Self {
            path,
            sha256,
            format,
            read: 0,
            kept: 0,
            dropped: 0,
            dropped_by_reason: BTreeMap::new(),
            unstripped_prompts: 0,
            rejections: Vec::new(),
        }
    }

    pub(super) fn reject(&mut self, rejection: Rejection) {
        self.read += 1;
        self.dropped += 1;
        *self.dropped_by_reason.entry(rejection.reason.kind().to_owned()).or_default() += 1;
        if self.rejections.len() < LISTED_REJECTIONS {
            self.rejections.push(rejection);
        }
    }
}

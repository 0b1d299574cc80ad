//! From columns to records: which format a file has, and what each format makes of a row.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{json::describe, rejection::Reason};
use crate::{Error, Preamble, Turn, frame};

/// The columns of a record and what they mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Told from the columns of each file by itself, so that files of several formats can be mixed.
    #[default]
    Auto,
    /// `instruction`, `input` (may be absent or empty), `output`.
    Alpaca,
    /// `prompt` (already in an Alpaca-like frame), `response`, `source` (may be absent).
    InstructV3,
    /// `messages`: an array of `{role, content}` with the roles `system` (first, optional), `user`,
    /// `assistant`.
    Messages,
}

impl Format {
    const ALL: [Self; 3] = [Self::Alpaca, Self::InstructV3, Self::Messages];

    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Auto => &[],
            Self::Alpaca => &["instruction", "output"],
            Self::InstructV3 => &["prompt", "response"],
            Self::Messages => &["messages"],
        }
    }

    /// Every column that the format reads.
    pub(super) fn reads(self, column: &str) -> bool {
        let optional: &[&str] = match self {
            Self::Alpaca => &["input", "source"],
            Self::InstructV3 | Self::Messages | Self::Auto => &["source"],
        };
        self.required().contains(&column) || optional.contains(&column)
    }

    /// The one format whose required columns are all there; `None` if there is none.
    pub(super) fn of_columns(path: &Path, columns: &[String]) -> Result<Option<Self>, Error> {
        let has = |name: &&str| columns.iter().any(|column| column == name);
        let fits: Vec<Self> =
            Self::ALL.into_iter().filter(|format| format.required().iter().all(has)).collect();
        match *fits.as_slice() {
            [] => Ok(None),
            [format] => Ok(Some(format)),
            _ => Err(Error::AmbiguousColumns { path: path.to_owned(), formats: fits }),
        }
    }

    /// This format, or for [`Format::Auto`] the one that fits, for a file whose columns are fixed (a header,
    /// a schema).
    pub(super) fn resolve(self, path: &Path, columns: &[String]) -> Result<Self, Error> {
        if self == Self::Auto {
            return Self::of_columns(path, columns)?
                .ok_or_else(|| Error::UnknownColumns { path: path.to_owned(), found: list(columns) });
        }
        match self.required().iter().find(|name| !columns.iter().any(|column| column == *name)) {
            None => Ok(self),
            Some(column) => Err(Error::MissingColumn {
                path: path.to_owned(),
                format: self,
                column,
                found: list(columns),
            }),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Alpaca => "alpaca",
            Self::InstructV3 => "instruct-v3",
            Self::Messages => "messages",
        })
    }
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        [Self::Auto].into_iter().chain(Self::ALL).find(|format| format.to_string() == name).ok_or_else(|| {
            Error::Setting {
                setting: "format",
                found: format!("`{name}`"),
                expected: "auto, alpaca, instruct-v3 or messages".to_owned(),
            }
        })
    }
}

/// Column names for a message.
pub(super) fn list(columns: &[String]) -> String {
    if columns.is_empty() { "none".to_owned() } else { columns.join(", ") }
}

/// The parts of a [`Record`](crate::Record) that stand in its row.
#[derive(Debug, PartialEq)]
pub(super) struct Content {
    pub(super) system: Option<String>,
    pub(super) turns: Vec<Turn>,
    pub(super) source: Option<String>,
    pub(super) preamble: Preamble,
}

pub(super) fn content(format: Format, fields: &Map<String, Value>) -> Result<Content, Reason> {
    match format {
        Format::Alpaca => alpaca(fields),
        Format::Messages => messages(fields),
        Format::InstructV3 | Format::Auto => instruct_v3(fields),
    }
}

/// Request = instruction, then a newline and the input if there is one.
fn alpaca(fields: &Map<String, Value>) -> Result<Content, Reason> {
    let instruction = filled(fields, "instruction")?;
    let request = match optional(fields, "input")? {
        Some(input) if !input.trim().is_empty() => format!("{instruction}\n{input}"),
        _ => instruction.to_owned(),
    };
    let response = filled(fields, "output")?.to_owned();
    Ok(Content {
        system: None,
        turns: vec![Turn { request, response }],
        source: optional(fields, "source")?.map(str::to_owned),
        preamble: Preamble::Added,
    })
}

fn instruct_v3(fields: &Map<String, Value>) -> Result<Content, Reason> {
    let prompt = filled(fields, "prompt")?;
    let (request, preamble) = match frame::strip(prompt) {
        Some(request) => (request, Preamble::Added),
        None => (prompt.to_owned(), Preamble::Omitted),
    };
    let response = filled(fields, "response")?.to_owned();
    Ok(Content {
        system: None,
        turns: vec![Turn { request, response }],
        source: optional(fields, "source")?.map(str::to_owned),
        preamble,
    })
}

fn messages(fields: &Map<String, Value>) -> Result<Content, Reason> {
    let value = fields.get("messages").filter(|value| !value.is_null());
    let parsed;
    // Delimited files can hold a conversation only as JSON text in one cell.
    let list = match value {
        None => return Err(Reason::MissingField { field: "messages".to_owned() }),
        Some(Value::Array(list)) => list,
        Some(Value::String(text)) => {
            parsed = serde_json::from_str::<Vec<Value>>(text).map_err(|problem| Reason::MalformedJson {
                problem: format!("in field `messages`: {problem}"),
            })?;
            &parsed
        }
        Some(other) => return Err(wrong_type("messages", "an array of messages", other)),
    };
    let mut conversation = Content {
        system: None,
        turns: Vec::new(),
        source: optional(fields, "source")?.map(str::to_owned),
        preamble: Preamble::Added,
    };
    let mut asked: Option<String> = None;
    for (index, message) in list.iter().enumerate() {
        let Value::Object(message) = message else {
            return Err(wrong_type(&format!("messages[{index}]"), "an object", message));
        };
        let named = |reason| in_message(index, reason);
        let role = filled(message, "role").map_err(named)?;
        let text = filled(message, "content").map_err(named)?.to_owned();
        match (role, asked.take()) {
            ("system", None) if index == 0 => conversation.system = Some(text),
            ("user", None) => asked = Some(text),
            ("assistant", Some(request)) => conversation.turns.push(Turn { request, response: text }),
            ("system" | "user" | "assistant", before) => {
                let expected = if before.is_some() { "assistant" } else { "user" };
                return Err(Reason::Conversation {
                    problem: format!("messages[{index}] has role {role}, expected {expected}"),
                });
            }
            (other, _) => {
                return Err(Reason::Conversation {
                    problem: format!(
                        "messages[{index}] has the unknown role `{other}`, expected system, user or assistant"
                    ),
                });
            }
        }
    }
    if asked.is_some() || conversation.turns.is_empty() {
        let problem =
            if list.is_empty() { "it has no messages" } else { "it does not end with an assistant message" };
        return Err(Reason::Conversation { problem: problem.to_owned() });
    }
    Ok(conversation)
}

fn in_message(index: usize, reason: Reason) -> Reason {
    let place = |field: String| format!("messages[{index}].{field}");
    match reason {
        Reason::MissingField { field } => Reason::MissingField { field: place(field) },
        Reason::EmptyField { field } => Reason::EmptyField { field: place(field) },
        Reason::WrongType { field, expected, found } => {
            Reason::WrongType { field: place(field), expected, found }
        }
        other => other,
    }
}

fn filled<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, Reason> {
    match optional(fields, name)? {
        None => Err(Reason::MissingField { field: name.to_owned() }),
        Some(text) if text.trim().is_empty() => Err(Reason::EmptyField { field: name.to_owned() }),
        Some(text) => Ok(text),
    }
}

fn optional<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Reason> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(name, "a string", other)),
    }
}

fn wrong_type(field: &str, expected: &str, found: &Value) -> Reason {
    Reason::WrongType {
        field: field.to_owned(),
        expected: expected.to_owned(),
        found: describe(found).to_owned(),
    }
}

//! JSON arrays and JSON Lines, record by record with the place of each.

use std::{io::BufRead, path::Path};

use serde_json::{Map, Value, value::RawValue};

use super::{Row, rejection::Reason};
use crate::{Error, Place};

/// The elements of one JSON array.
///
/// Bytes that are not UTF-8 are replaced one by one before parsing, so that only the elements that hold them
/// are rejected; a structural fault leaves no boundary to trust and is an error.
pub(super) fn array(path: &Path, mut bytes: Vec<u8>, mut take: impl FnMut(Row)) -> Result<(), Error> {
    let invalid = replace_invalid_utf8(&mut bytes);
    let damaged = |problem: &serde_json::Error| Error::Damaged {
        path: path.to_owned(),
        place: format!("line {}, column {}", problem.line(), problem.column()),
        problem: without_place(problem),
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|source| Error::Read { path: path.to_owned(), source: std::io::Error::other(source) })?;
    let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(|problem| damaged(&problem))?;
    let (mut line, mut counted) = (1, 0);
    for (record, element) in (1..).zip(elements) {
        let raw = element.get();
        let start = raw.as_ptr().addr() - text.as_ptr().addr();
        line += count_newlines(&bytes[counted..start]);
        counted = start;
        let first = invalid.partition_point(|&at| at < start);
        let fields = if invalid.get(first).is_some_and(|&at| at < start + raw.len()) {
            Err(Reason::InvalidUtf8)
        } else {
            object(raw.as_bytes())
        };
        take(Row { place: Place::Element { record, line }, fields });
    }
    Ok(())
}

/// One object a line; blank lines are passed over.
pub(super) fn lines(
    path: &Path,
    mut bytes: Box<dyn BufRead>,
    mut take: impl FnMut(Row),
) -> Result<(), Error> {
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        let read = bytes
            .read_until(b'\n', &mut buffer)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        if read == 0 {
            break;
        }
        let record = buffer.trim_ascii();
        if record.is_empty() {
            continue;
        }
        let fields = match std::str::from_utf8(record) {
            Ok(text) => object(text.as_bytes()),
            Err(_) => Err(Reason::InvalidUtf8),
        };
        take(Row { place: Place::Line(line), fields });
    }
    Ok(())
}

/// What a JSON value is, in words for messages.
pub(super) fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn object(text: &[u8]) -> Result<Map<String, Value>, Reason> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(Reason::NotAnObject { found: describe(&other).to_owned() }),
        Err(problem) => Err(Reason::MalformedJson {
            problem: format!("{} at column {}", without_place(&problem), problem.column()),
        }),
    }
}

/// The parser's message without its own line and column, which count inside one record.
fn without_place(problem: &serde_json::Error) -> String {
    let text = problem.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// Overwrites every byte that breaks UTF-8 with `?` and returns the positions in ascending order.
fn replace_invalid_utf8(bytes: &mut [u8]) -> Vec<usize> {
    let mut positions = Vec::new();
    let mut start = 0;
    while let Err(problem) = std::str::from_utf8(&bytes[start..]) {
        let first = start + problem.valid_up_to();
        let end = problem.error_len().map_or(bytes.len(), |length| first + length);
        for (at, byte) in bytes.iter_mut().enumerate().take(end).skip(first) {
            *byte = b'?';
            positions.push(at);
        }
        start = end;
    }
    positions
}

fn count_newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

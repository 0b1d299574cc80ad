//! CSV and TSV with a header row, quoted as RFC 4180 says.

use std::{collections::HashSet, path::Path};

use csv::{ByteRecord, ErrorKind, Position, ReaderBuilder};
use serde_json::{Map, Value};

use super::{Row, rejection::Reason};
use crate::{Error, Place};

/// The rows below the header; the columns are those of the header.
pub(super) fn rows(
    path: &Path,
    bytes: &[u8],
    delimiter: u8,
    mut take: impl FnMut(Row),
) -> Result<Vec<String>, Error> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let header = header(path, &mut reader)?;
    let mut record = ByteRecord::new();
    // The reader passes over blank lines but takes the position before it does.
    let line_of = |position: Option<&Position>| {
        let Some(position) = position else { return 0 };
        let rest =
            usize::try_from(position.byte()).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
        let blank =
            rest.iter().take_while(|byte| b"\r\n".contains(byte)).filter(|&&byte| byte == b'\n').count();
        position.line() + blank as u64
    };
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(header),
            Ok(true) => {
                let line = line_of(record.position());
                take(Row { place: Place::Line(line), fields: fields(&header, &record) });
            }
            Err(problem) => {
                let line = line_of(problem.position());
                match problem.into_kind() {
                    ErrorKind::UnequalLengths { expected_len, len, .. } => take(Row {
                        place: Place::Line(line),
                        fields: Err(Reason::RaggedRow { expected: expected_len, found: len }),
                    }),
                    ErrorKind::Io(source) => return Err(Error::Read { path: path.to_owned(), source }),
                    other => {
                        return Err(Error::Damaged {
                            path: path.to_owned(),
                            place: format!("line {line}"),
                            problem: format!("{other:?}"),
                        });
                    }
                }
            }
        }
    }
}

fn header(path: &Path, reader: &mut csv::Reader<&[u8]>) -> Result<Vec<String>, Error> {
    let damaged = |problem: String| Error::Damaged {
        path: path.to_owned(),
        place: "the header, line 1".to_owned(),
        problem,
    };
    let names = reader.byte_headers().map_err(|problem| match problem.into_kind() {
        ErrorKind::Io(source) => Error::Read { path: path.to_owned(), source },
        other => damaged(format!("{other:?}")),
    })?;
    let mut seen = HashSet::new();
    names
        .iter()
        .map(|name| {
            let name = std::str::from_utf8(name)
                .map_err(|_| damaged("a column name is not valid UTF-8".to_owned()))?
                .trim()
                .to_owned();
            if !seen.insert(name.clone()) {
                return Err(damaged(format!("column `{name}` appears twice")));
            }
            Ok(name)
        })
        .collect()
}

fn fields(header: &[String], record: &ByteRecord) -> Result<Map<String, Value>, Reason> {
    header
        .iter()
        .zip(record)
        .map(|(name, cell)| match std::str::from_utf8(cell) {
            Ok(text) => Ok((name.clone(), Value::String(text.to_owned()))),
            Err(_) => Err(Reason::InvalidUtf8),
        })
        .collect()
}

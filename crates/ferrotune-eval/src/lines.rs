//! Files of JSON lines: written whole; read once, hashed as they are, decompressed by their names, each line a text of its own.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
};

use ferrotune_core::digest;
use serde::{
    Serialize,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::{Error, LineProblem, Result};

/// A file of lines.
pub(crate) struct LineFile {
    path: PathBuf,
    /// Digest of the file's bytes, before they were decompressed.
    pub(crate) sha256: String,
    bytes: Vec<u8>,
}

impl LineFile {
    /// Reads a file; one whose name ends in `.gz` or `.zst` is decompressed.
    ///
    /// # Errors
    /// [`Error::Read`], also for compressed data that is damaged or cut off.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let stored = fs::read(path).map_err(failed)?;
        let sha256 = digest::of_bytes(&stored);
        let bytes = decompressed(path, stored).map_err(failed)?;
        Ok(Self { path: path.to_owned(), sha256, bytes })
    }

    /// The lines that are not blank, with their numbers counted from 1; without a byte order mark and a carriage return.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, Result<&str, LineProblem>)> {
        let bytes = self.bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&self.bytes);
        bytes.split(|&byte| byte == b'\n').zip(1..).filter_map(|(line, number)| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match str::from_utf8(line) {
                Ok(text) if text.trim().is_empty() => None,
                Ok(text) => Some((number, Ok(text))),
                Err(error) => Some((number, Err(LineProblem::NotUtf8 { byte: error.valid_up_to() + 1 }))),
            }
        })
    }

    /// The error of a line.
    pub(crate) fn problem(&self, line: usize, problem: LineProblem) -> Error {
        Error::Line { path: self.path.clone(), line, problem }
    }
}

fn decompressed(path: &Path, stored: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => flate2::bufread::MultiGzDecoder::new(stored.as_slice()).read_to_end(&mut bytes)?,
        Some("zst") => {
            zstd::stream::read::Decoder::with_buffer(stored.as_slice())?.read_to_end(&mut bytes)?
        }
        _ => return Ok(stored),
    };
    Ok(bytes)
}

/// Calls `with` for every line that is not blank.
///
/// # Errors
/// Those of `with`; [`Error::Line`] for a line that is not UTF-8.
pub(crate) fn for_each_line(path: &Path, mut with: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let file = LineFile::open(path)?;
    file.lines()
        .try_for_each(|(number, text)| with(number, text.map_err(|problem| file.problem(number, problem))?))
}

/// The value of a line of JSON.
///
/// # Errors
/// [`LineProblem::NotJson`]; [`LineProblem::RepeatedField`] for an object with a field twice, of which others would keep
/// one without a word.
pub(crate) fn parse_json(text: &str) -> Result<Value, LineProblem> {
    let mut repeated = None;
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = Unique { repeated: &mut repeated }.deserialize(&mut parser).and_then(|value| {
        parser.end()?;
        Ok(value)
    });
    match (value, repeated) {
        (Err(error), _) => Err(LineProblem::NotJson { detail: error.to_string() }),
        (Ok(_), Some(field)) => Err(LineProblem::RepeatedField { field }),
        (Ok(value), None) => Ok(value),
    }
}

/// Reads any value, and notes the first field that an object in it has twice.
struct Unique<'r> {
    repeated: &'r mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(Unique { repeated: self.repeated })? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(Unique { repeated: self.repeated })?;
            if object.contains_key(&name) {
                self.repeated.get_or_insert(name);
            } else {
                object.insert(name, value);
            }
        }
        Ok(object.into())
    }
}

/// Writes values as JSON Lines in place of what was there. The file appears under its name only when it is complete.
pub(crate) fn write_lines(path: &Path, lines: &[impl Serialize]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(partial)?);
        for line in lines {
            serde_json::to_writer(&mut file, line)?;
            file.write_all(b"\n")?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(partial, path)
    };
    write().map_err(|source| {
        // The write has failed already; that an unfinished file cannot be removed either adds nothing.
        let _ = fs::remove_file(partial);
        Error::Write { path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_as_serde_json_reads_it_unless_a_field_is_there_twice() {
        for text in [
            "null",
            "[true, -1, 2, 3.5, 1e300, 18446744073709551615, \"\\u00e9\\n\"]",
            r#"{"b": {"a": []}, "a": {"a": {}}, "": null}"#,
            " {} ",
        ] {
            assert_eq!(parse_json(text), Ok(serde_json::from_str(text).unwrap()), "{text}");
        }
        for text in ["", "{", "{} {}", "nan", "[1,]", "{\"a\": 1, \"a\": }"] {
            let detail = serde_json::from_str::<Value>(text).unwrap_err().to_string();
            assert_eq!(parse_json(text), Err(LineProblem::NotJson { detail }), "{text}");
        }
        for (text, field) in [
            (r#"{"id": 1, "id": 1}"#, "id"),
            (r#"{"a": [{"x": 1, "y": 2, "x": 3}], "b": {}}"#, "x"),
            (r#"{"a": 1, "\u0061": 2}"#, "a"),
        ] {
            assert_eq!(
                parse_json(text),
                Err(LineProblem::RepeatedField { field: field.to_owned() }),
                "{text}"
            );
        }
    }
}

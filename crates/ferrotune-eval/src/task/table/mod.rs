//! The files that benchmarks come in, read as rows of named cells: JSON, JSON Lines, CSV, TSV and Parquet, the text
//! formats optionally compressed by gzip or zstd.
//!
//! A benchmark decides which columns it needs and what they hold; a file that differs is an error that names the file,
//! the place and the column, never a default.

mod parquet;

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead as _, Read},
    path::{Path, PathBuf},
};

use ferrotune_core::digest;
use serde_json::{Map, Value};

use crate::{Error, Result, TaskDataProblem};

/// The rows of one file.
#[derive(Clone, Debug)]
pub struct Table {
    /// The file.
    pub path: PathBuf,
    /// Digest of its bytes, compressed as they are.
    pub sha256: String,
    /// The names of its columns; of the first record where each record names its own.
    pub columns: Vec<String>,
    /// Its rows, in order.
    pub rows: Vec<Row>,
    task: String,
}

/// One row: what a benchmark reads a document from.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where it stands, for messages: a line or a row, counted from 1.
    pub place: String,
    cells: Map<String, Value>,
}

/// Where the columns' names come from in CSV and TSV; other formats bring them along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header<'a> {
    /// From the first row.
    FirstRow,
    /// From here: there is no header row.
    Given(&'a [&'a str]),
}

/// Reads a file of the task `task`, whose name stands in messages.
///
/// TSV is split at tabs and line ends, without quoting, as benchmarks write it.
///
/// # Errors
/// [`Error::Read`]; [`Error::TaskData`] for a file that is not what its name says, or without rows.
pub fn read_table(task: &str, path: &Path, header: Header<'_>) -> Result<Table> {
    let reader = Reader { task, path };
    let (kind, compression) =
        kind_of(path).ok_or_else(|| reader.problem(TaskDataProblem::UnknownExtension))?;
    // Read once, so that the digest is of what the rows come from.
    let raw = fs::read(path).map_err(|source| reader.unreadable(source))?;
    let sha256 = digest::of_bytes(&raw);
    let (columns, rows) = if kind == Kind::Parquet {
        parquet::rows(&reader, raw)?
    } else {
        let bytes = reader.text(raw, compression)?;
        match kind {
            Kind::Json => json(&reader, &bytes)?,
            Kind::JsonLines => json_lines(&reader, &bytes)?,
            Kind::Csv => delimited(&reader, &bytes, csv::ReaderBuilder::new().flexible(true), header)?,
            _ => {
                let mut builder = csv::ReaderBuilder::new();
                delimited(&reader, &bytes, builder.flexible(true).delimiter(b'\t').quoting(false), header)?
            }
        }
    };
    if rows.is_empty() {
        return Err(reader.problem(TaskDataProblem::Empty));
    }
    Ok(Table { path: path.to_owned(), sha256, columns, rows, task: task.to_owned() })
}

/// The first of these files that exists, each without its extension, below `folder`.
#[must_use]
pub fn find_file(folder: &Path, stems: &[&str]) -> Option<PathBuf> {
    let plain = ["jsonl", "json", "csv", "tsv", "parquet"].map(str::to_owned);
    let packed = ["jsonl", "json", "csv", "tsv"].iter().flat_map(|e| [format!("{e}.gz"), format!("{e}.zst")]);
    let extensions: Vec<String> = plain.into_iter().chain(packed).collect();
    stems
        .iter()
        .flat_map(|stem| extensions.iter().map(move |extension| folder.join(format!("{stem}.{extension}"))))
        .find(|path| path.is_file())
}

impl Table {
    /// Checks that the columns are there.
    ///
    /// # Errors
    /// [`Error::TaskData`] with the first that is not.
    pub fn require(&self, columns: &[&str]) -> Result<()> {
        match columns.iter().find(|column| !self.columns.iter().any(|found| found == *column)) {
            None => Ok(()),
            Some(missing) => Err(self.problem(TaskDataProblem::MissingColumn {
                column: (*missing).to_owned(),
                expected: columns.join(", "),
                found: self.columns.join(", "),
            })),
        }
    }

    /// The error of this file with this problem.
    #[must_use]
    pub fn problem(&self, problem: TaskDataProblem) -> Error {
        Error::TaskData { task: self.task.clone(), path: self.path.clone(), problem: Box::new(problem) }
    }

    /// A cell that holds text.
    ///
    /// # Errors
    /// [`Error::TaskData`] if it is absent, empty or holds something else.
    pub fn text<'r>(&self, row: &'r Row, column: &str) -> Result<&'r str> {
        match row.cells.get(column) {
            Some(Value::String(text)) => Ok(text),
            other => Err(self.cell(row, column, other, "text")),
        }
    }

    /// A cell that holds text, or nothing.
    ///
    /// # Errors
    /// [`Error::TaskData`] if it holds something else.
    pub fn optional_text<'r>(&self, row: &'r Row, column: &str) -> Result<Option<&'r str>> {
        match row.cells.get(column) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            other => Err(self.cell(row, column, other, "text or nothing")),
        }
    }

    /// A cell that holds a number that counts, written as a number or as text.
    ///
    /// # Errors
    /// [`Error::TaskData`] if it holds something else.
    pub fn count(&self, row: &Row, column: &str) -> Result<usize> {
        let cell = row.cells.get(column);
        let number = match cell {
            Some(Value::Number(number)) => number.as_u64().and_then(|n| usize::try_from(n).ok()),
            Some(Value::String(text)) => text.trim().parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| self.cell(row, column, cell, "a whole number, 0 or above"))
    }

    /// A cell that holds a list of texts.
    ///
    /// # Errors
    /// [`Error::TaskData`] if it holds something else.
    pub fn texts(&self, row: &Row, column: &str) -> Result<Vec<String>> {
        let cell = row.cells.get(column);
        let texts = cell.and_then(Value::as_array).and_then(|list| {
            list.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| self.cell(row, column, cell, "a list of texts"))
    }

    /// The error of a cell that holds what it cannot hold.
    #[must_use]
    pub fn cell(&self, row: &Row, column: &str, found: Option<&Value>, expected: &str) -> Error {
        let found = match found {
            None => "absent".to_owned(),
            Some(Value::Null) => "empty".to_owned(),
            Some(other) => {
                let mut text = other.to_string();
                if let Some((end, _)) = text.char_indices().nth(60) {
                    text.truncate(end);
                    text.push('…');
                }
                text
            }
        };
        self.problem(TaskDataProblem::Cell {
            place: row.place.clone(),
            column: column.to_owned(),
            found,
            expected: expected.to_owned(),
        })
    }

    /// Checks that no id comes twice; `id` gives each row's.
    ///
    /// # Errors
    /// [`Error::TaskData`] with the first that does; what `id` gives.
    pub fn unique<'r>(&'r self, mut id: impl FnMut(&'r Row) -> Result<&'r str>) -> Result<()> {
        let mut first_use: HashMap<&str, &Row> = HashMap::new();
        for row in &self.rows {
            let id = id(row)?;
            if let Some(first) = first_use.insert(id, row) {
                return Err(self.problem(TaskDataProblem::DuplicateId {
                    id: id.to_owned(),
                    first: first.place.clone(),
                    place: row.place.clone(),
                }));
            }
        }
        Ok(())
    }
}

/// A file being read.
struct Reader<'a> {
    task: &'a str,
    path: &'a Path,
}

impl Reader<'_> {
    fn problem(&self, problem: TaskDataProblem) -> Error {
        Error::TaskData { task: self.task.to_owned(), path: self.path.to_owned(), problem: Box::new(problem) }
    }

    fn damaged(&self, place: impl Into<String>, detail: impl ToString) -> Error {
        self.problem(TaskDataProblem::Damaged { place: place.into(), detail: detail.to_string() })
    }

    fn unreadable(&self, source: io::Error) -> Error {
        Error::Read { path: self.path.to_owned(), source }
    }

    /// The unpacked bytes of a text file, without a byte order mark.
    fn text(&self, raw: Vec<u8>, compression: Compression) -> Result<Vec<u8>> {
        let mut unpacked = Vec::new();
        let packed = raw.as_slice();
        let mut bytes = match compression {
            Compression::None => raw,
            Compression::Gzip => {
                let read = flate2::bufread::MultiGzDecoder::new(packed).read_to_end(&mut unpacked);
                read.map(|_| unpacked).map_err(|source| self.unreadable(source))?
            }
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(packed);
                let read = decoder.and_then(|mut decoder| decoder.read_to_end(&mut unpacked));
                read.map(|_| unpacked).map_err(|source| self.unreadable(source))?
            }
        };
        if bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        if bytes.contains(&0) {
            return Err(self.damaged("the file", "it holds binary data or UTF-16 text, expected UTF-8 text"));
        }
        Ok(bytes)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    JsonLines,
    Csv,
    Tsv,
    Parquet,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

fn kind_of(path: &Path) -> Option<(Kind, Compression)> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let (stem, compression) = if let Some(stem) = name.strip_suffix(".gz") {
        (stem, Compression::Gzip)
    } else if let Some(stem) = name.strip_suffix(".zst") {
        (stem, Compression::Zstd)
    } else {
        (name.as_str(), Compression::None)
    };
    let kind = match stem.rsplit_once('.')?.1 {
        "json" => Kind::Json,
        "jsonl" | "ndjson" => Kind::JsonLines,
        "csv" => Kind::Csv,
        "tsv" => Kind::Tsv,
        "parquet" if compression == Compression::None => Kind::Parquet,
        _ => return None,
    };
    Some((kind, compression))
}

type Rows = (Vec<String>, Vec<Row>);

/// The columns of the first of some records.
fn with_columns(rows: Vec<Row>) -> Rows {
    let columns = rows.first().map(|row| row.cells.keys().cloned().collect()).unwrap_or_default();
    (columns, rows)
}

/// A list of objects, or one object, which is a file of a single record.
fn json(reader: &Reader<'_>, bytes: &[u8]) -> Result<Rows> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| reader.damaged("the file", error))?;
    let records = match value {
        Value::Array(records) => records,
        one => vec![one],
    };
    let rows = records.into_iter().enumerate().map(|(index, record)| {
        let place = format!("record {}", index + 1);
        match record {
            Value::Object(cells) => Ok(Row { place, cells }),
            _ => Err(reader.damaged(place, "it is no JSON object")),
        }
    });
    Ok(with_columns(rows.collect::<Result<_>>()?))
}

fn json_lines(reader: &Reader<'_>, bytes: &[u8]) -> Result<Rows> {
    let mut rows = Vec::new();
    for (index, line) in bytes.lines().enumerate() {
        let place = format!("line {}", index + 1);
        let line = line.map_err(|error| reader.damaged(&place, error))?;
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(&line).map_err(|error| reader.damaged(&place, error))? {
            Value::Object(cells) => rows.push(Row { place, cells }),
            _ => return Err(reader.damaged(place, "it is no JSON object")),
        }
    }
    Ok(with_columns(rows))
}

/// The lines that records of CSV begin on. [`csv::Position::line`] counts one too few behind `\r\n`, since its record ends
/// at `\r`.
struct LineCount<'b> {
    bytes: &'b [u8],
    /// Bytes before this one are counted.
    at: usize,
    line: usize,
}

impl<'b> LineCount<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0, line: 1 }
    }

    /// The place of a record at this position, behind those asked for before.
    fn place(&mut self, position: Option<&csv::Position>) -> String {
        let Some(start) = position.and_then(|position| usize::try_from(position.byte()).ok()) else {
            return "the file".to_owned();
        };
        // Line ends before a record, its predecessor's or those of empty lines, are no part of it.
        let rest = self.bytes.get(start..).unwrap_or_default();
        let start = start + rest.iter().take_while(|&byte| b"\r\n".contains(byte)).count();
        let passed = self.bytes.get(self.at..start).unwrap_or_default();
        self.line += passed.iter().filter(|&&byte| byte == b'\n').count();
        self.at = self.at.max(start);
        format!("line {}", self.line)
    }
}

/// Rows of text. All must be as wide as the header, so that a shifted column cannot pass for an answer.
fn delimited(
    reader: &Reader<'_>,
    bytes: &[u8],
    builder: &mut csv::ReaderBuilder,
    header: Header<'_>,
) -> Result<Rows> {
    let mut records = builder.has_headers(false).from_reader(bytes).into_records();
    let mut lines = LineCount::new(bytes);
    let damaged = |lines: &mut LineCount<'_>, error: csv::Error| {
        let place = lines.place(error.position());
        match error.kind() {
            // The error itself would name another line.
            csv::ErrorKind::Utf8 { err, .. } => reader.damaged(place, err),
            _ => reader.damaged(place, error),
        }
    };
    let columns: Vec<String> = match header {
        Header::Given(names) => names.iter().map(|&name| name.to_owned()).collect(),
        Header::FirstRow => match records.next().transpose().map_err(|error| damaged(&mut lines, error))? {
            Some(names) => names.iter().map(str::to_owned).collect(),
            None => Vec::new(),
        },
    };
    let mut rows = Vec::new();
    for record in records {
        let record = record.map_err(|error| damaged(&mut lines, error))?;
        let place = lines.place(record.position());
        if record.len() != columns.len() {
            let expected = format!("{} ({})", columns.len(), columns.join(", "));
            return Err(reader.problem(TaskDataProblem::ColumnCount {
                place,
                found: record.len(),
                expected,
            }));
        }
        let cells = columns.iter().zip(&record).map(|(name, text)| (name.clone(), Value::from(text)));
        rows.push(Row { place, cells: cells.collect() });
    }
    Ok((columns, rows))
}

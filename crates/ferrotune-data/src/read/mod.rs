//! Data files to records: container by extension, format by columns, every bad record counted with its place.

mod columns;
mod container;
mod delimited;
mod json;
mod parquet;
mod rejection;

use std::{path::Path, sync::Arc};

use ferrotune_core::digest;
use serde_json::{Map, Value};

pub use columns::Format;
pub use rejection::{FileReport, LISTED_REJECTIONS, Reason, Rejection};

use crate::{Error, Origin, Place, Preamble, Record};
use container::{Compression, Container};

/// What happens to a bad record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    /// It is dropped, counted and listed.
    #[default]
    Lenient,
    /// The first one is [`Error::BadRecord`].
    Strict,
}

/// The records of one file, in file order, with the count of what was left out.
///
/// The extension names the container (`.json` for one array, `.jsonl` or `.ndjson`, `.csv`, `.tsv`,
/// `.parquet`, each optionally followed by `.gz` or `.zst`); the columns name the format unless `format`
/// does.
///
/// # Errors
/// The file cannot be read, contradicts its name, is structurally damaged, has no known columns, holds no
/// usable record, or (strict) holds a bad one.
pub fn read_file(
    path: &Path,
    format: Format,
    strictness: Strictness,
) -> Result<(Vec<Record>, FileReport), Error> {
    let rows = Rows::read(path, format)?;
    let format = rows.format(path, format)?;
    let sha256 = digest::of_file(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let mut report = FileReport::new(path.to_owned(), sha256, format);
    let file: Arc<Path> = Arc::from(path);
    let mut records = Vec::with_capacity(rows.list.len());
    for Row { place, fields } in rows.list {
        match fields.and_then(|fields| columns::content(format, &fields)) {
            Ok(content) => {
                report.read += 1;
                report.kept += 1;
                report.unstripped_prompts += u64::from(content.preamble == Preamble::Omitted);
                records.push(Record {
                    origin: Origin { file: Arc::clone(&file), place },
                    system: content.system,
                    turns: content.turns,
                    source: content.source,
                    preamble: content.preamble,
                });
            }
            Err(reason) => {
                let rejection = Rejection { place, reason };
                if strictness == Strictness::Strict {
                    return Err(Error::BadRecord { path: path.to_owned(), rejection: Box::new(rejection) });
                }
                tracing::debug!(file = %path.display(), %rejection, "record dropped");
                report.reject(rejection);
            }
        }
    }
    match report.rejections.first() {
        Some(first) if records.is_empty() => Err(Error::NothingKept {
            path: path.to_owned(),
            dropped: report.dropped,
            first: Box::new(first.clone()),
        }),
        _ => Ok((records, report)),
    }
}

/// The records of several files one after the other, with a report for each.
///
/// # Errors
/// As [`read_file`], for the first file that has one.
pub fn read_files<P: AsRef<Path>>(
    paths: &[P],
    format: Format,
    strictness: Strictness,
) -> Result<(Vec<Record>, Vec<FileReport>), Error> {
    let mut records = Vec::new();
    let mut reports = Vec::with_capacity(paths.len());
    for path in paths {
        let (more, report) = read_file(path.as_ref(), format, strictness)?;
        records.extend(more);
        reports.push(report);
    }
    Ok((records, reports))
}

/// A row of any container before a format gives it meaning.
struct Row {
    place: Place,
    fields: Result<Map<String, Value>, Reason>,
}

/// All rows, with the columns where the container fixes them for the whole file.
struct Rows {
    list: Vec<Row>,
    columns: Option<Vec<String>>,
}

impl Rows {
    fn read(path: &Path, asked: Format) -> Result<Self, Error> {
        let (container, compression) = container::of_path(path)?;
        let bytes = container::open(path, container, compression)?;
        let mut list = Vec::new();
        let take = |row| list.push(row);
        let columns = match container {
            Container::Json => json::array(path, container::to_end(path, bytes)?, take).map(|()| None),
            Container::JsonLines => json::lines(path, bytes, take).map(|()| None),
            Container::Csv => delimited::rows(path, &container::to_end(path, bytes)?, b',', take).map(Some),
            Container::Tsv => delimited::rows(path, &container::to_end(path, bytes)?, b'\t', take).map(Some),
            Container::Parquet => {
                let source = match compression {
                    Compression::None => parquet::Source::File(
                        std::fs::File::open(path)
                            .map_err(|source| Error::Read { path: path.to_owned(), source })?,
                    ),
                    Compression::Gzip | Compression::Zstd => {
                        parquet::Source::Bytes(container::to_end(path, bytes)?.into())
                    }
                };
                parquet::rows(path, source, asked, take).map(Some)
            }
        }?;
        if list.is_empty() {
            return Err(Error::Empty { path: path.to_owned() });
        }
        Ok(Self { list, columns })
    }

    /// The format asked for, or the one that the columns show.
    ///
    /// JSON has no header: there the first row that fits some format decides, so that a first row with a
    /// missing field is reported as that and not as an unknown format.
    fn format(&self, path: &Path, asked: Format) -> Result<Format, Error> {
        if let Some(columns) = &self.columns {
            return asked.resolve(path, columns);
        }
        if asked != Format::Auto {
            return Ok(asked);
        }
        let mut first = None;
        for fields in self.list.iter().filter_map(|row| row.fields.as_ref().ok()) {
            let names: Vec<String> = fields.keys().cloned().collect();
            if let Some(format) = Format::of_columns(path, &names)? {
                return Ok(format);
            }
            first.get_or_insert(names);
        }
        match (first, self.list.first()) {
            (None, Some(Row { place, fields: Err(reason) })) => Err(Error::NothingKept {
                path: path.to_owned(),
                dropped: self.list.len() as u64,
                first: Box::new(Rejection { place: *place, reason: reason.clone() }),
            }),
            (first, _) => Err(Error::UnknownColumns {
                path: path.to_owned(),
                found: columns::list(&first.unwrap_or_default()),
            }),
        }
    }
}

//! TensorBoard event files.
//!
//! A file is a sequence of records, each `length: u64, crc of length: u32, data, crc of data: u32` in little-endian,
//! where data is a protobuf `tensorflow.Event` and the checksums are CRC-32C, masked.
//!
//! *Source*: TensorFlow's `core/lib/io/record_writer.h`, `core/lib/hash/crc32c.h`, `core/util/event.proto` and
//! `core/framework/summary.proto`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use ferrotune_core::BoxError;
use prost::Message;

use crate::{Error, Event, Listener, Result};

/// Writes scalars under the names that transformers' TensorBoard callback gives them: `train/loss`, `eval/loss`, ...
///
/// Records reach the system as they are written and the disk before each checkpoint.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    /// The file that is written on, once there is one.
    path: Option<PathBuf>,
    file: Option<File>,
}

/// What the name of every event file contains; TensorBoard finds files by it.
const MARK: &str = ".tfevents.";

/// The first record of every file.
const VERSION: &str = "brain.Event:2";

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    // Optional, so that a zero is written too.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

impl TensorBoard {
    /// Event files in a folder that may hold some. [`Event::Started`] removes those of a run that begins anew, and cuts back
    /// those of one that goes on, whose newest is written on. Folder and file are made with the first scalar.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), path: None, file: None }
    }

    fn begin(&mut self, step: u64) -> Result<()> {
        let listed = |entries: fs::ReadDir| entries.map(|entry| Ok(entry?.path())).collect();
        let mut files: Vec<PathBuf> = match fs::read_dir(&self.folder).and_then(listed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            files => files.map_err(Error::io("read", &self.folder))?,
        };
        files.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(MARK)));
        files.sort();
        for path in &files {
            match step {
                0 => fs::remove_file(path).map_err(Error::io("remove", path))?,
                _ => cut_back(path, step)?,
            }
        }
        (self.path, self.file) = (files.pop().filter(|_| step > 0), None);
        Ok(())
    }

    fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let scalar =
            |&(tag, value): &(&str, f64)| Scalar { tag: tag.to_owned(), simple_value: Some(value as f32) };
        let summary = Some(Summary { value: values.iter().map(scalar).collect() });
        let record =
            Record { wall_time: wall_time(), step: step as i64, file_version: None, summary }.encode_to_vec();
        let path = self.path.get_or_insert_with(|| {
            self.folder.join(format!("events.out{MARK}{:010}.ferrotune", wall_time().trunc() as u64))
        });
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(path)?),
        };
        file.write_all(&framed(&record)).map_err(Error::io("write", path))
    }
}

impl Listener for TensorBoard {
    fn on(&mut self, event: &Event<'_>) -> Result<(), BoxError> {
        match *event {
            Event::Started { step, .. } => self.begin(step)?,
            Event::Logged(row) => {
                let mut values = vec![
                    ("train/loss", row.loss),
                    ("train/grad_norm", row.grad_norm),
                    ("train/learning_rate", row.learning_rate),
                    ("train/epoch", row.epoch),
                ];
                values.extend(row.auxiliary_loss.map(|loss| ("train/auxiliary_loss", loss)));
                self.scalars(row.step, &values)?;
            }
            Event::Evaluated { row, evaluation } => {
                self.scalars(
                    row.step,
                    &[("eval/loss", row.eval_loss), ("eval/perplexity", evaluation.perplexity)],
                )?;
            }
            Event::CheckpointBegun { .. } | Event::Finished { .. } => {
                if let (Some(path), Some(file)) = (&self.path, &self.file) {
                    file.sync_data().map_err(Error::io("write", path))?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Opens an event file; a new one begins with its version.
fn open(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    let file = OpenOptions::new().append(true).create(true).open(path);
    let mut file = file.map_err(Error::io("open", path))?;
    if file.metadata().map_err(Error::io("read", path))?.len() == 0 {
        let file_version = Some(VERSION.to_owned());
        let record = Record { wall_time: wall_time(), step: 0, file_version, summary: None };
        file.write_all(&framed(&record.encode_to_vec())).map_err(Error::io("write", path))?;
    }
    Ok(file)
}

/// Keeps the records up to a step. The last record may be incomplete; an interrupted process wrote it.
fn cut_back(path: &Path, step: u64) -> Result<()> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let mut kept = 0;
    while let Some((data, next)) = unframed(&bytes, kept) {
        let damaged = || Error::DamagedLog {
            path: path.to_owned(),
            place: format!("byte {kept}"),
            expected: "a record with a valid checksum",
        };
        let record = Record::decode(data.ok_or_else(damaged)?).map_err(|_| damaged())?;
        if record.step > step as i64 {
            break;
        }
        kept = next;
    }
    let file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
    file.set_len(kept as u64).map_err(Error::io("cut", path))
}

/// The record that begins at a byte and the byte after it; nothing if it is not complete, no data if it is damaged.
fn unframed(bytes: &[u8], start: usize) -> Option<(Option<&[u8]>, usize)> {
    let header = bytes.get(start..start + 12)?;
    let length = u64::from_le_bytes(header[..8].try_into().ok()?);
    if masked_crc(&header[..8]).to_le_bytes() != header[8..] {
        return Some((None, start));
    }
    let data = start + 12;
    let end = data.checked_add(usize::try_from(length).ok()?)?;
    let crc = bytes.get(end..end.checked_add(4)?)?;
    let data = &bytes[data..end];
    Some(((masked_crc(data).to_le_bytes() == crc).then_some(data), end + 4))
}

fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C rotated by 15 bits and moved by a constant, so that checksums of data that holds checksums stay strong.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::{Error, MARK, TensorBoard, fs};

    #[test]
    fn damaged_events_are_refused_by_a_run_that_goes_on_and_removed_by_one_that_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let names = || {
            let names = fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let mut board = TensorBoard::new(folder.path());
        board.begin(0).unwrap();
        assert_eq!(names(), ["notes.txt"], "nothing is written before there is something to write");
        board.scalars(1, &[("train/loss", 2.0)]).unwrap();
        let written = folder.path().join(&names()[0]);
        let mut bytes = fs::read(&written).unwrap();
        bytes[30] ^= 1;
        fs::write(&written, &bytes).unwrap();
        fs::write(folder.path().join(format!("events.out{MARK}0000000001.other")), &bytes).unwrap();

        let error = board.begin(1).unwrap_err();
        assert!(matches!(&error, Error::DamagedLog { .. }), "{error}");
        assert_eq!(fs::read(&written).unwrap(), bytes, "nothing was cut");
        board.begin(0).unwrap();
        assert_eq!(names(), ["notes.txt"]);
    }

    #[test]
    fn a_record_that_was_cut_off_goes_and_those_before_it_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::new(folder.path());
        board.scalars(1, &[("train/loss", 2.0)]).unwrap();
        let path = board.path.clone().unwrap();
        let first = fs::read(&path).unwrap();
        board.scalars(2, &[("train/loss", 1.0)]).unwrap();
        let both = fs::read(&path).unwrap();
        for cut in [1, 7, 20] {
            fs::write(&path, &both[..both.len() - cut]).unwrap();
            board.begin(2).unwrap();
            assert_eq!(fs::read(&path).unwrap(), first);
        }
        fs::write(&path, &both).unwrap();
        board.begin(1).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first, "it is of a step that is taken again");
        board.scalars(2, &[("train/loss", 1.0)]).unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), both.len());
    }
}

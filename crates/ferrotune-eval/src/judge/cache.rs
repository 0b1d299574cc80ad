//! What was answered before: an append-only file of JSON lines.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::limits::lock;
use crate::{Error, LineProblem, Result};

/// Replies and vectors by the digest of what they depend on.
///
/// A file holds one JSON object per line, `{"key": …, "value": …}`, is only ever appended to, and is written through to
/// the disk with every reply. A run that was interrupted therefore resumes without asking for anything twice. A last line
/// that was cut by a crash is left out, reported ([`torn_line`](Self::torn_line)) and removed before the next line is
/// written; damage anywhere else is an error.
///
/// One process owns a file at a time; within it one value, behind an `Arc`, serves any number of threads.
#[derive(Debug)]
pub struct ReplyCache {
    torn: Option<TornLine>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    values: HashMap<String, Value>,
    log: Option<Log>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    /// Locked until the log is dropped.
    file: File,
    /// Where the last complete line ends.
    end: u64,
}

/// How every line begins. What ends without a line's end and begins otherwise is no cache that a crash cut off, but another
/// file.
const LINE_BEGINS: &[u8] = br#"{"key":""#;

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    value: Value,
}

/// The remains of a line that a crash cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornLine {
    /// Its number, counted from 1.
    pub line: usize,
    /// How many bytes there were.
    pub bytes: usize,
}

impl ReplyCache {
    /// A cache that ends with the process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { torn: None, inner: Mutex::default() }
    }

    /// The cache in a file, which is created if it is not there.
    ///
    /// # Errors
    /// [`Error::MissingFolder`] if there is no folder to create it in; [`Error::CacheInUse`] if another process, or another value of this one, has it open; [`Error::Read`];
    /// [`Error::Write`]; [`Error::Line`] for a damaged line before the last one.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = |source| Error::Read { path: path.to_owned(), source };
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(
                |source| match missing_folder(path) {
                    Some(folder) => Error::MissingFolder { path: path.to_owned(), folder: folder.to_owned() },
                    None => unreadable(source),
                },
            )?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::CacheInUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(unreadable(source)),
        }
        let mut log = Log { path: path.to_owned(), file, end: 0 };
        let mut bytes = Vec::new();
        log.file.read_to_end(&mut bytes).map_err(unreadable)?;
        let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let mut values = HashMap::new();
        let mut lines = 0;
        for text in bytes[..end].split_inclusive(|&byte| byte == b'\n') {
            lines += 1;
            let line: Line = serde_json::from_slice(text).map_err(|error| Error::Line {
                path: path.to_owned(),
                line: lines,
                problem: LineProblem::NotACacheEntry { detail: error.to_string() },
            })?;
            values.entry(line.key).or_insert(line.value);
        }
        let tail = &bytes[end..];
        if !(tail.starts_with(LINE_BEGINS) || LINE_BEGINS.starts_with(tail)) {
            return Err(Error::Line {
                path: path.to_owned(),
                line: lines + 1,
                problem: LineProblem::NotACacheEntry { detail: "it begins as no entry does".to_owned() },
            });
        }
        let torn = (!tail.is_empty()).then(|| TornLine { line: lines + 1, bytes: tail.len() });
        if let Some(torn) = &torn {
            tracing::warn!(path = %path.display(), line = torn.line, bytes = torn.bytes,
                "the last line of the cache was cut off and is left out");
        }
        log.end = end as u64;
        Ok(Self { torn, inner: Mutex::new(Inner { values, log: Some(log) }) })
    }

    /// The line that was left out when the file was opened, if a crash had cut one.
    #[must_use]
    pub fn torn_line(&self) -> Option<&TornLine> {
        self.torn.as_ref()
    }

    /// The file that it is kept in, if it is kept.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        lock(&self.inner).log.as_ref().map(|log| log.path.clone())
    }

    /// How many values it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.inner).values.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        lock(&self.inner).values.contains_key(key)
    }

    /// The value under a key; one that cannot be read as `T` counts as absent, since no digest leads to it by intent.
    pub(super) fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let inner = lock(&self.inner);
        T::deserialize(inner.values.get(key)?).ok()
    }

    /// Keeps values, in one write; keys that are there already keep theirs.
    ///
    /// # Errors
    /// [`Error::Write`]; the file then ends where it ended before.
    pub(super) fn put_all<'k, T: Serialize>(
        &self,
        entries: impl IntoIterator<Item = (&'k str, T)>,
    ) -> Result<()> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let mut text = Vec::new();
        let mut fresh = Vec::new();
        for (key, value) in entries {
            if inner.values.contains_key(key) {
                continue;
            }
            let line = Line { key: key.to_owned(), value: serde_json::json!(value) };
            serde_json::to_writer(&mut text, &line).map_err(|error| Error::Write {
                path: inner.log.as_ref().map(|log| log.path.clone()).unwrap_or_default(),
                source: error.into(),
            })?;
            text.push(b'\n');
            fresh.push(line);
        }
        if let Some(log) = &mut inner.log {
            log.append(&text)?;
        }
        inner.values.extend(fresh.into_iter().map(|line| (line.key, line.value)));
        Ok(())
    }
}

/// The folder that a file would lie in, if there is none.
fn missing_folder(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists())
}

impl Drop for Log {
    /// Closing is not enough: a child that another thread forks holds the descriptor, and with it the lock, until it runs its
    /// program.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl Log {
    fn append(&mut self, text: &[u8]) -> Result<()> {
        let mut write = || {
            self.file.set_len(self.end)?; // without the remains of a line that a crash cut off
            self.file.seek(SeekFrom::Start(self.end))?;
            self.file.write_all(text)?;
            self.file.sync_data()
        };
        write().map_err(|source| {
            // What was written of it would look like damage to the next run.
            let _ = self.file.set_len(self.end);
            Error::Write { path: self.path.clone(), source }
        })?;
        self.end += text.len() as u64;
        Ok(())
    }
}

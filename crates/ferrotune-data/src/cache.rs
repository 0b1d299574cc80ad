//! Tokenized records on disk, under a name that says what they were made from.
//!
//! # Format
//! Little-endian throughout: the 8 bytes `FTTOKEN1`, the key (64 hexadecimal digits), the number of records
//! as u64, then for each record a tag byte (0 kept, 1 request too long, 2 nothing supervised). A kept record
//! goes on with a byte for `truncated`, the number of ids `n` as u64, `n` ids as u32 and the supervised flags
//! as a bit set of `n` bits, lowest bit first; a too long one with the count of request tokens as u64. At the
//! end stands the SHA-256 (64 digits) of everything before it, so that a file cut short or changed is noticed
//! and made again.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use ferrotune_core::{Sample, digest};
use serde::{Deserialize, Serialize};

use crate::{Encoded, Limits, Preamble, Record};

const MAGIC: &[u8; 8] = b"FTTOKEN1";

/// Changes when encoding or this format changes.
const VERSION: u32 = 1;

/// Whether samples came from the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum CacheUse {
    /// No cache was asked for.
    #[default]
    Off,
    /// The samples were read from this file.
    Read {
        /// The file.
        file: PathBuf,
    },
    /// The samples were made and written to this file.
    Written {
        /// The file.
        file: PathBuf,
    },
    /// The file was damaged; the samples were made and written again.
    Rebuilt {
        /// The file.
        file: PathBuf,
        /// What was wrong with it.
        problem: String,
    },
    /// The samples were made but the file could not be written.
    NotWritten {
        /// Why.
        problem: String,
    },
}

/// The place of one preparation in a cache folder.
pub(crate) struct CacheFile {
    path: PathBuf,
    key: String,
}

impl CacheFile {
    /// The key covers the text of every record and so everything about the data files that matters: their
    /// bytes, the format they were read in, and their order.
    pub(crate) fn new(
        folder: &Path,
        records: &[Record],
        tokenizer: &str,
        template: &str,
        limits: &Limits,
    ) -> Self {
        let Limits { max_seq_length, max_request_tokens } = limits;
        let mut content = format!(
            "{VERSION}\n{template}\n{tokenizer}\n{max_seq_length} {max_request_tokens}\n{}\n",
            records.len()
        )
        .into_bytes();
        for record in records {
            // Lengths before texts, so that no two lists of records run together to the same bytes.
            let mut put = |text: &str| {
                content.extend((text.len() as u64).to_le_bytes());
                content.extend(text.as_bytes());
            };
            put(if record.preamble == Preamble::Added { "added" } else { "omitted" });
            put(if record.system.is_some() { "system" } else { "" });
            put(record.system.as_deref().unwrap_or_default());
            for turn in &record.turns {
                put(&turn.request);
                put(&turn.response);
            }
            put("end");
        }
        let key = digest::of_bytes(&content);
        Self { path: folder.join(format!("tokens-{}.bin", &key[..32])), key }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The records in the file, `None` if there is no file, or what is wrong with it.
    pub(crate) fn read(&self, records: usize) -> Result<Option<Vec<Encoded>>, String> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(problem) => return Err(problem.to_string()),
        };
        let (content, sum) = bytes
            .split_at_checked(bytes.len().saturating_sub(64))
            .filter(|(_, sum)| sum.len() == 64)
            .ok_or_else(|| format!("it has only {} bytes", bytes.len()))?;
        if digest::of_bytes(content).as_bytes() != sum {
            return Err("its checksum does not match its content".to_owned());
        }
        let short = || "it ends before its last record".to_owned();
        let mut at = Cursor { bytes: content };
        if at.take(MAGIC.len()).ok_or_else(short)? != MAGIC {
            return Err("it does not begin as a token cache of this version".to_owned());
        }
        if at.take(self.key.len()).ok_or_else(short)? != self.key.as_bytes() {
            return Err("it was made from other records or settings".to_owned());
        }
        let count = at.u64().ok_or_else(short)?;
        if count != records as u64 {
            return Err(format!("it holds {count} records, expected {records}"));
        }
        (0..records).map(|_| at.record().ok_or_else(short)).collect::<Result<_, _>>().map(Some)
    }

    /// Writes to a temporary name and renames, so that a reader sees the whole file or none.
    pub(crate) fn write(&self, encoded: &[Encoded]) -> io::Result<()> {
        let mut content = MAGIC.to_vec();
        content.extend(self.key.as_bytes());
        content.extend((encoded.len() as u64).to_le_bytes());
        for record in encoded {
            put(record, &mut content);
        }
        let sum = digest::of_bytes(&content);
        content.extend(sum.as_bytes());

        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let temporary = self.path.with_extension(format!("{}.tmp", std::process::id()));
        let written = fs::File::create(&temporary)
            .and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            // The first error is the one worth reporting.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn put(record: &Encoded, content: &mut Vec<u8>) {
    match record {
        Encoded::Kept(sample) => {
            content.extend([0, u8::from(sample.truncated)]);
            content.extend((sample.ids.len() as u64).to_le_bytes());
            content.extend(sample.ids.iter().flat_map(|id| id.to_le_bytes()));
            content.extend(sample.supervised.chunks(8).map(|bits| {
                bits.iter().enumerate().fold(0u8, |byte, (bit, &set)| byte | u8::from(set) << bit)
            }));
        }
        Encoded::RequestTooLong(tokens) => {
            content.push(1);
            content.extend((*tokens as u64).to_le_bytes());
        }
        Encoded::NothingSupervised => content.push(2),
    }
}

/// What is left to read.
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn record(&mut self) -> Option<Encoded> {
        match self.u8()? {
            0 => {
                let truncated = self.u8()? != 0;
                let count = usize::try_from(self.u64()?).ok()?;
                let ids = self
                    .take(count.checked_mul(4)?)?
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|&id| u32::from_le_bytes(id))
                    .collect();
                let bits = self.take(count.div_ceil(8))?;
                let supervised = (0..count)
                    .map(|at| bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1))
                    .collect();
                Some(Encoded::Kept(Sample { ids, supervised, truncated }))
            }
            1 => Some(Encoded::RequestTooLong(usize::try_from(self.u64()?).ok()?)),
            2 => Some(Encoded::NothingSupervised),
            _ => None,
        }
    }
}

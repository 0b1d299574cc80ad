//! A list of records to a list of samples: in parallel, with progress, a count of everything, and a cache.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use ferrotune_core::{Sample, Tokenize};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Encoded, Error, Limits, Record,
    cache::{self, CacheUse},
    template::Template,
};

/// The samples of a list of records, with the way back.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// One sample for each record that was kept, in record order.
    pub samples: Vec<Sample>,
    /// For each sample the position of its record in the list that was given.
    pub records: Vec<usize>,
    /// What became of every record.
    pub report: PrepareReport,
}

impl Prepared {
    /// Length of every sample, as [`batches`](crate::batches) wants them.
    #[must_use]
    pub fn lengths(&self) -> Vec<usize> {
        self.samples.iter().map(Sample::len).collect()
    }

    /// The sample of each of the given records; `None` where the record was left out.
    #[must_use]
    pub fn sample_of(&self, record: usize) -> Option<&Sample> {
        self.records.binary_search(&record).ok().and_then(|at| self.samples.get(at))
    }
}

/// The records that every one of several preparations kept, in ascending order.
///
/// Tokenizers count differently, so a length filter keeps other records for each. Models that are to be
/// compared must be trained on the same ones: split these.
#[must_use]
pub fn kept_by_all(prepared: &[&Prepared]) -> Vec<usize> {
    let Some((first, others)) = prepared.split_first() else { return Vec::new() };
    first
        .records
        .iter()
        .copied()
        .filter(|record| others.iter().all(|other| other.records.binary_search(record).is_ok()))
        .collect()
}

/// Counts of tokenization, in all and by file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareReport {
    /// All files together.
    pub total: Counts,
    /// Each data file by the path that the user gave.
    pub files: BTreeMap<PathBuf, Counts>,
    /// The limits that were applied.
    pub limits: Limits,
    /// The template that was rendered.
    pub template: String,
    /// The tokenizer's [`fingerprint`](Tokenize::fingerprint).
    pub tokenizer: String,
    /// Whether the samples came from the cache.
    pub cache: CacheUse,
}

/// What became of the records of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records that were given: `kept + request_too_long + nothing_supervised`.
    pub records: u64,
    /// Records that became samples.
    pub kept: u64,
    /// Records left out because a request has too many tokens.
    pub request_too_long: u64,
    /// Records left out because truncation left no supervised token.
    pub nothing_supervised: u64,
    /// Kept records that lost their end.
    pub truncated: u64,
    /// Ids of the kept samples.
    pub tokens: u64,
    /// Ids among them whose prediction counts.
    pub supervised_tokens: u64,
}

impl Counts {
    fn add(&mut self, encoded: &Encoded) {
        self.records += 1;
        match encoded {
            Encoded::Kept(sample) => {
                self.kept += 1;
                self.truncated += u64::from(sample.truncated);
                self.tokens += sample.len() as u64;
                self.supervised_tokens += sample.supervised_tokens() as u64;
            }
            Encoded::RequestTooLong(_) => self.request_too_long += 1,
            Encoded::NothingSupervised => self.nothing_supervised += 1,
        }
    }
}

/// How far tokenization is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Records done.
    pub done: usize,
    /// Records in all.
    pub total: usize,
}

/// Encodes records in parallel on rayon's current pool.
///
/// `progress` is called from many threads after about every hundredth record and once at the end with `done
/// == total`. With `cache_folder` the result is kept in a file named by the content of records, tokenizer,
/// template and limits, and read back the next time; a damaged file is rebuilt. A cache that cannot be
/// written costs a warning, not the run: [`PrepareReport::cache`] says what happened.
///
/// # Errors
/// Limits that cannot be meant, a tokenizer without BOS or EOS, a text that it refuses (the first in record
/// order).
pub fn prepare(
    records: &[Record],
    tokenizer: &dyn Tokenize,
    template: &Template,
    limits: &Limits,
    cache_folder: Option<&Path>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Prepared, Error> {
    limits.check()?;
    let (encoded, cache) = match cache_folder {
        None => (encode_all(records, tokenizer, template, limits, progress)?, CacheUse::Off),
        Some(folder) => {
            let file =
                cache::CacheFile::new(folder, records, tokenizer.fingerprint(), &template.key(), limits);
            match file.read(records.len()) {
                Ok(Some(encoded)) => {
                    progress(Progress { done: records.len(), total: records.len() });
                    (encoded, CacheUse::Read { file: file.path().to_owned() })
                }
                missing_or_damaged => {
                    let damage = missing_or_damaged.err();
                    if let Some(problem) = &damage {
                        tracing::warn!(file = %file.path().display(), problem, "damaged cache, tokenizing again");
                    }
                    let encoded = encode_all(records, tokenizer, template, limits, progress)?;
                    let outcome = file.write(&encoded);
                    if let Err(problem) = &outcome {
                        tracing::warn!(file = %file.path().display(), %problem, "cache not written");
                    }
                    let used = match (outcome, damage) {
                        (Err(problem), _) => CacheUse::NotWritten { problem: problem.to_string() },
                        (Ok(()), Some(problem)) => {
                            CacheUse::Rebuilt { file: file.path().to_owned(), problem }
                        }
                        (Ok(()), None) => CacheUse::Written { file: file.path().to_owned() },
                    };
                    (encoded, used)
                }
            }
        }
    };
    let mut report = PrepareReport {
        limits: *limits,
        template: template.key(),
        tokenizer: tokenizer.fingerprint().to_owned(),
        cache,
        ..PrepareReport::default()
    };
    let (mut samples, mut kept) = (Vec::with_capacity(encoded.len()), Vec::with_capacity(encoded.len()));
    for (position, (record, encoded)) in records.iter().zip(encoded).enumerate() {
        report.total.add(&encoded);
        match report.files.get_mut(&*record.origin.file) {
            Some(counts) => counts.add(&encoded),
            None => report.files.entry(record.origin.file.to_path_buf()).or_default().add(&encoded),
        }
        if let Encoded::Kept(sample) = encoded {
            samples.push(sample);
            kept.push(position);
        }
    }
    Ok(Prepared { samples, records: kept, report })
}

fn encode_all(
    records: &[Record],
    tokenizer: &dyn Tokenize,
    template: &Template,
    limits: &Limits,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<Encoded>, Error> {
    let total = records.len();
    let step = (total / 100).max(1);
    let done = AtomicUsize::new(0);
    let results: Vec<Result<Encoded, Error>> = records
        .par_iter()
        .map(|record| {
            let encoded = template.encode(record, tokenizer, limits);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(step) && done < total {
                progress(Progress { done, total });
            }
            encoded
        })
        .collect();
    progress(Progress { done: total, total });
    results.into_iter().collect()
}

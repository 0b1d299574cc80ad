//! What was measured before and stands in files, taken up again without a model and without asking a judge.

use std::{collections::BTreeMap, path::Path};

use ferrotune_core::digest;
use ferrotune_data::Record as DataRecord;
use ferrotune_eval::{
    Evidence, Measurement, Record, Run, SampleLine, Tally,
    judge::JudgeUsage,
    mean_of_lines,
    perplexity::{Perplexity, TextLikelihood},
    read_samples,
    task::rescore_task,
};
use serde::{Deserialize, Serialize};

use super::{Asked, Benchmark, Measure, bootstrap, ids_of, pairs};
use crate::{Error, Result};

/// A part of what is measured of a model that is done: perplexity, the metrics over answers, or a benchmark.
///
/// Its records are here, and what they were made from is in its per-sample file, so that both together give the part again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Digest of the part's per-sample file.
    sha256: String,
    /// Seconds that it took.
    seconds: f64,
    /// What a server of vectors was paid for it.
    embeddings_usage: Option<JudgeUsage>,
    /// For each record whether its value is the mean of the scores in the file.
    means: Vec<bool>,
    records: Vec<Record>,
}

/// Parts that need not be measured again.
#[derive(Debug, Default)]
pub struct Restored {
    pub(super) found: BTreeMap<String, Found>,
}

/// What came of a part.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) records: Vec<Record>,
    /// What the records were made from; of a benchmark that was taken up again the first one only, its own.
    pub(super) measurements: Vec<Measurement>,
    pub(super) answers: Vec<String>,
    pub(super) embeddings_usage: Option<JudgeUsage>,
    pub(super) seconds: f64,
}

impl Restored {
    /// The names of the parts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.found.keys().map(String::as_str)
    }

    /// The seconds that they took.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.found.values().map(|found| found.seconds).sum()
    }
}

impl Part {
    /// What is to be kept of a part whose per-sample file is complete.
    pub(super) fn of(found: &Found, file: &Path) -> Result<Self> {
        Ok(Self {
            sha256: digest_of(file)?,
            seconds: found.seconds,
            embeddings_usage: found.embeddings_usage,
            means: found.measurements.iter().map(is_mean).collect(),
            records: found.records.clone(),
        })
    }
}

impl Measure {
    /// Takes up again what was measured of a model and stands in `folder`: parts of the same `run` over the same held-out
    /// `records` whose files are as they were. A part that does not give its values again is left out, to be measured anew.
    ///
    /// # Errors
    /// Files that cannot be read; what metrics give that are computed again.
    pub fn restore(
        &self,
        records: &[&DataRecord],
        run: &Run,
        folder: &Path,
        parts: &BTreeMap<String, Part>,
    ) -> Result<Restored> {
        let mut restored = Restored::default();
        for asked in self.asked() {
            let Some(part) = parts.get(asked.name()) else { continue };
            let file = folder.join(asked.file());
            let same_run = part.records.iter().all(|record| is_of(&record.run, run));
            if !same_run || !file.is_file() || digest_of(&file)? != part.sha256 {
                continue;
            }
            let again = match asked {
                Asked::Perplexity => likelihoods(&file)?,
                Asked::Texts => self.answers_again(records, &file, part)?,
                Asked::Benchmark(benchmark, _) => documents(benchmark, run, &file, part)?,
            };
            let gives_its_values = |found: &Found| {
                let mut pairs = found.measurements.iter().zip(&part.records);
                !found.measurements.is_empty() && pairs.all(|(found, record)| agrees(found, record))
            };
            let Some(found) = again.filter(gives_its_values) else {
                tracing::warn!(file = %file.display(), "it does not give the values again that were kept of it");
                continue;
            };
            let mut measurements = found.measurements.iter();
            if measurements.any(|found| found.check(self.config.on_failure).is_err()) {
                continue; // it was kept under another policy, and ends the work now
            }
            let Part { records, embeddings_usage, seconds, .. } = part.clone();
            let found = Found { records, embeddings_usage, seconds, ..found };
            restored.found.insert(asked.name().to_owned(), found);
        }
        Ok(restored)
    }

    /// The metrics over answers, with the answers; nothing where the file lacks one.
    fn answers_again(&self, records: &[&DataRecord], file: &Path, part: &Part) -> Result<Option<Found>> {
        let lines = read_samples(file)?;
        let predictions: BTreeMap<&str, &str> =
            lines.iter().map(|line| (line.id.as_str(), line.prediction.as_str())).collect();
        let answer = |id: &String| predictions.get(id.as_str()).map(|answer| (*answer).to_owned());
        let Some(answers) = ids_of(records).iter().map(answer).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let pairs = pairs(records, &answers);
        let mut kept = part.records.iter().zip(&part.means);
        let mut measurements = Vec::new();
        for metric in &self.texts.metrics {
            let (records, are_means): (Vec<&Record>, Vec<&bool>) =
                kept.by_ref().take(metric.outputs().len()).unzip();
            // Recorded replies are counted off, so those that were used up have to be used up again.
            let is_counted_off =
                self.texts.judges.are_recorded() && records.iter().any(|record| record.judge.is_some());
            if are_means.into_iter().all(|&is_mean| is_mean) && !is_counted_off {
                measurements.extend(records.into_iter().map(|record| of_lines(record, &lines)));
            } else {
                measurements.extend(metric.measure(&pairs)?);
            }
        }
        let is_whole = measurements.len() == part.records.len();
        Ok(is_whole.then(|| Found { measurements, answers, ..Found::default() }))
    }
}

/// A benchmark's own measurement.
fn documents(benchmark: &Benchmark, run: &Run, file: &Path, part: &Part) -> Result<Option<Found>> {
    let lines = read_samples(file)?;
    let own = match (part.records.first(), part.means.first()) {
        (Some(record), Some(true)) => Some(of_lines(record, &lines)),
        _ => {
            let outcome = rescore_task(benchmark.task.as_ref(), &lines, &bootstrap(run))?;
            outcome.measurements.into_iter().next()
        }
    };
    Ok(own.map(|own| Found { measurements: vec![own], ..Found::default() }))
}

fn likelihoods(file: &Path) -> Result<Option<Found>> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::Io { path: file.to_owned(), source })?;
    let texts: Option<Vec<TextLikelihood>> =
        text.lines().map(|line| serde_json::from_str(line).ok()).collect();
    let Some(texts) = texts else { return Ok(None) };
    let measurements = vec![Perplexity::TokenWeighted.measure(&texts)?];
    Ok(Some(Found { measurements, ..Found::default() }))
}

fn of_lines(record: &Record, lines: &[SampleLine]) -> Measurement {
    Measurement { params: record.params.clone(), ..mean_of_lines(&record.metric, &record.variant, lines) }
}

/// Whether a value is the mean of the samples' scores, each of which counts for itself: then their lines give all of it again.
fn is_mean(measurement: &Measurement) -> bool {
    let scores: Vec<f64> =
        measurement.samples.iter().filter_map(|sample| sample.score.as_ref().ok().copied()).collect();
    match &measurement.evidence {
        Evidence::Measured(tally) => !tally.is_clustered() && tally.rows() == Tally::mean_of(&scores).rows(),
        _ => true,
    }
}

/// Whether a record was made from this measurement.
fn agrees(found: &Measurement, record: &Record) -> bool {
    let value = found.value().filter(|value| !value.is_nan());
    (&found.metric, &found.variant) == (&record.metric, &record.variant)
        && (value, found.samples.len(), found.scored()) == (record.value, record.n_total, record.n_scored)
}

/// Whether a record's run is this one; those of benchmarks have other data and another template.
fn is_of(of_record: &Run, run: &Run) -> bool {
    let key = |run: &Run| (run.run_id.clone(), run.model.clone(), run.tokenizer_sha.clone(), run.seed);
    key(of_record) == key(run)
}

fn digest_of(file: &Path) -> Result<String> {
    digest::of_file(file).map_err(|source| Error::Io { path: file.to_owned(), source })
}

//! Benchmarks of a study: opened once, asked of every model before and after.

use std::path::Path;

use ferrotune_core::Tokenize;
use ferrotune_eval::{
    Existing, Measurement, OnFailure, Record, Run,
    quality_index::{BenchmarkScore, QualityIndex},
    statistics::Bootstrap,
    task::{PromptStyle, RunOptions, Task, documents_within, run_task},
    write_samples,
};

use super::{Progress, Subject, bootstrap, kept::Found};
use crate::{BenchmarkConfig, Chat, Error, PromptText, Result, ScoredModel};

/// The name that records of the index go by.
pub const QUALITY_INDEX: &str = "quality_index";

/// 97.5 % of a normal distribution lie below.
const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054;

/// A benchmark whose files are open.
#[derive(Debug)]
pub struct Benchmark {
    /// As the study names it.
    pub config: BenchmarkConfig,
    /// The task.
    pub task: Box<dyn Task>,
}

impl Benchmark {
    pub(super) fn open(config: BenchmarkConfig) -> Result<Self> {
        Ok(Self { task: config.open()?, config })
    }

    /// How many documents are asked about.
    #[must_use]
    pub fn documents(&self) -> usize {
        documents_within(self.task.as_ref(), self.config.limit).len()
    }

    /// How questions are written for the model of a folder.
    ///
    /// # Errors
    /// As [`Chat::style`].
    pub fn style(&self, folder: &Path, usual: Chat) -> Result<(PromptStyle, PromptText)> {
        self.config.chat.unwrap_or(usual).style(folder, self.config.turns)
    }

    /// Asks a model, and keeps what it said in `file` before any failure ends the work.
    pub(super) fn ask<T: Tokenize>(
        &self,
        subject: &Subject<'_, T>,
        (style, prompts): &(PromptStyle, PromptText),
        (batch_tokens, on_failure): (usize, OnFailure),
        file: &Path,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<Found> {
        let options = RunOptions {
            // The template of the held-out records is not that of a plain prompt.
            run: Run { template_sha: None, ..subject.run.clone() },
            style: style.clone(),
            limit: self.config.limit,
            bootstrap: bootstrap(subject.run),
            ..RunOptions::default()
        };
        let name = self.config.name.as_str();
        let mut model = ScoredModel::new(subject.model, subject.tokenizer)
            .with_batch_tokens(batch_tokens)
            .with_prompts(*prompts);
        let outcome = run_task(self.task.as_ref(), &mut model, &options, &mut |at| {
            progress(&Progress::Documents { task: name, done: at.done, total: at.total });
        })?;
        write_samples(file, &outcome.samples, Existing::Replace)?;
        outcome.check(on_failure).map_err(|failure| Error::Unfinished {
            path: file.to_owned(),
            source: Box::new(failure.into()),
        })?;
        Ok(Found { records: outcome.records, measurements: outcome.measurements, ..Found::default() })
    }
}

/// The plain mean of MMLU, GPQA, MATH and HumanEval where all of them were measured, each once; otherwise the record says
/// what is missing.
pub(super) fn quality_index(principal: &[&Record], run: &Run) -> Result<Record> {
    let index = QualityIndex::mean_of_four();
    let parts = index.components.iter().map(|component| {
        let found: Vec<&Record> = principal
            .iter()
            .copied()
            .filter(|record| record.metric == component.name && record.value.is_some())
            .collect();
        (component.name.as_str(), found)
    });
    let (mut scores, mut used, mut missing, mut several) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (name, found) in parts {
        match found.as_slice() {
            [] => missing.push(name),
            [one] => {
                let score = BenchmarkScore {
                    name: name.to_owned(),
                    value: one.value.unwrap_or_default(),
                    stderr: one.stderr,
                };
                scores.push(score);
                used.push(*one);
            }
            _ => several.push(name),
        }
    }
    let mut problems = Vec::new();
    if !missing.is_empty() {
        problems.push(format!("missing: {}", missing.join(", ")));
    }
    if !several.is_empty() {
        problems.push(format!("in several variants: {}", several.join(", ")));
    }
    let run = Run { dataset: Default::default(), template_sha: None, ..run.clone() };
    let absent = Measurement::not_measured(QUALITY_INDEX, &index.name, &[], problems.join("; "));
    let mut record = Record::new(&run, &absent, &Bootstrap::default(), 0.0)?;
    if !problems.is_empty() {
        return Ok(record);
    }
    let value = index.value(&scores)?;
    record.not_measured = None;
    record.variant = value.definition;
    record.value = Some(value.value);
    record.stderr = value.stderr;
    record.ci95 =
        value.stderr.map(|s| [value.value - NORMAL_QUANTILE * s, value.value + NORMAL_QUANTILE * s]);
    record.ci_method = match value.stderr {
        Some(_) => "normal, from the standard errors of the benchmarks, taken as independent".to_owned(),
        None => "none: a benchmark has no standard error".to_owned(),
    };
    record.n_total = used.iter().map(|part| part.n_total).sum();
    record.n_scored = used.iter().map(|part| part.n_scored).sum();
    record.n_failed = record.n_total - record.n_scored;
    let variants = used.iter().map(|part| (part.metric.clone(), part.variant.clone().into())).collect();
    record.params.insert("parts".to_owned(), serde_json::Value::Object(variants));
    Ok(record)
}

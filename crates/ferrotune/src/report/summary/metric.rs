//! One metric or benchmark of a model: before, after, and whether the difference is more than chance.

use ferrotune_eval::Record;
use serde::Serialize;

use super::{Spread, spread};
use crate::{
    report::metrics::Row,
    study::{ModelResults, RunResults, StudyComparison, StudyResults},
};

/// One metric, before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MetricSummary {
    /// The metric's name in the records.
    pub metric: String,
    /// Its variant, where metrics are told apart by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Its name in the report.
    pub label: String,
    /// Between which numbers its value lies, in words; empty where that is not known.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub scale: &'static str,
    /// Samples of each evaluation, those that could not be scored among them; the most, should evaluations differ.
    pub samples: Option<u64>,
    /// The base model's value.
    pub base: Option<Spread>,
    /// Why it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_not_measured: Option<String>,
    /// Its 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_ci95: Option<[f64; 2]>,
    /// How many samples it is over, where some could not be scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_scored: Option<Scored>,
    /// The fine-tuned model's value over the runs that have one.
    pub fine_tuned: Option<Spread>,
    /// Why it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fine_tuned_not_measured: Option<String>,
    /// Its 95 % interval, if there is one run only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fine_tuned_ci95: Option<[f64; 2]>,
    /// How many samples of all runs it is over, where some could not be scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fine_tuned_scored: Option<Scored>,
    /// Fine-tuned minus base: the mean of the runs' paired differences, each over the samples that both states have a score
    /// on; of the values themselves where nothing was compared.
    pub change: Option<f64>,
    /// The 95 % interval of the change where it was compared; of several runs, from the lowest end of their intervals to the
    /// highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_ci95: Option<[f64; 2]>,
    /// How many samples of all runs those are, where they are not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_scored: Option<Scored>,
    /// What the comparisons of the runs with the base say; nothing where none was made.
    pub compared: Option<ComparedRuns>,
}

/// Samples that have a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Scored {
    /// Those that do.
    pub scored: u64,
    /// All of them.
    pub total: u64,
}

/// When a difference is marked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Significance {
    /// Corrected p-values below which a difference gets one mark, two, and three.
    pub thresholds: [f64; 3],
    /// Comparisons in the study, which the correction is for.
    pub comparisons: u64,
}

impl Significance {
    /// Marks for a corrected p-value, 0 to 3.
    #[must_use]
    pub fn marks(&self, p_holm: f64) -> usize {
        self.thresholds.iter().filter(|&&threshold| p_holm < threshold).count()
    }
}

/// What the comparisons of a model's runs with its base say of one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ComparedRuns {
    /// Runs that were compared.
    pub runs: u64,
    /// Of these, runs whose difference is marked and goes the way of the mean change.
    pub significant: u64,
    /// Marks that every run of the model has, 0 to 3.
    pub marks: usize,
}

/// Which of a model's records are summarized.
pub(crate) struct Records {
    /// Of the base.
    pub(crate) base: fn(&ModelResults) -> &[Record],
    /// Of a run.
    pub(crate) run: fn(&RunResults) -> &[Record],
}

/// The metrics on held-out records.
pub(crate) const METRICS: Records = Records { base: |model| &model.base, run: |run| &run.metrics };

/// The benchmarks.
pub(crate) const BENCHMARKS: Records =
    Records { base: |model| &model.base_benchmarks, run: |run| &run.benchmarks };

/// A row of a model's table.
pub(super) fn summary(
    results: &StudyResults,
    model: &ModelResults,
    row: &Row,
    records: &Records,
) -> MetricSummary {
    let base_record = row.find((records.base)(model));
    let base = spread(base_record.and_then(|record| record.value).into_iter());
    let tuned: Vec<_> = model.runs.iter().map(|run| row.find((records.run)(run))).collect();
    let fine_tuned = spread(tuned.iter().flatten().filter_map(|record| record.value));
    let why = |record: Option<&Record>| {
        record.and_then(|record| record.not_measured.clone()).unwrap_or_else(|| row.absent.to_owned())
    };
    let why_not_tuned = || match tuned.iter().flatten().next() {
        None if model.runs.is_empty() && base_record.is_some() => "there is no fine-tuning run".to_owned(),
        first => why(first.copied()),
    };
    let compared = comparisons(results, model, row);
    // What is tested is what is shown: where samples failed, the values are over other samples than their difference.
    let paired = spread(compared.iter().map(|found| found.comparison.difference)).map(|spread| spread.mean);
    let unpaired = || base.zip(fine_tuned).map(|(base, tuned)| tuned.mean - base.mean);
    let change = paired.or_else(unpaired).filter(|change| change.is_finite());
    MetricSummary {
        metric: row.metric.clone(),
        variant: row.variant.clone(),
        label: row.label.clone(),
        scale: row.scale,
        samples: base_record
            .iter()
            .chain(tuned.iter().flatten())
            .filter(|record| record.value.is_some())
            .map(|record| record.n_total as u64)
            .max(),
        base_not_measured: base.is_none().then(|| why(base_record)),
        fine_tuned_not_measured: fine_tuned.is_none().then(why_not_tuned),
        base_ci95: base_record.and_then(|record| record.ci95),
        base_scored: scored(base_record.into_iter()),
        fine_tuned_ci95: match tuned.as_slice() {
            [Some(only)] => only.ci95,
            _ => None,
        },
        fine_tuned_scored: scored(tuned.iter().flatten().copied()),
        base,
        fine_tuned,
        change,
        change_ci95: change.and_then(|_| hull(compared.iter().map(|found| found.comparison.ci95))),
        change_scored: paired.and_then(|_| in_common(&compared)),
        compared: change.and_then(|change| compared_runs(results, model, &compared, change)),
    }
}

/// The smallest interval that holds all of these; nothing if there is none, or one is missing.
fn hull(mut intervals: impl Iterator<Item = Option<[f64; 2]>>) -> Option<[f64; 2]> {
    let first = intervals.next()??;
    intervals.try_fold(first, |[low, high], interval| {
        interval.map(|[other_low, other_high]| [low.min(other_low), high.max(other_high)])
    })
}

/// Samples of measured records, where some could not be scored.
fn scored<'a>(records: impl Iterator<Item = &'a Record>) -> Option<Scored> {
    let (mut scored, mut total) = (0, 0);
    for record in records.filter(|record| record.value.is_some()) {
        scored += record.n_scored as u64;
        total += record.n_total as u64;
    }
    (scored < total).then_some(Scored { scored, total })
}

pub(super) fn significance(results: &StudyResults) -> Significance {
    Significance { thresholds: [0.05, 0.01, 0.001], comparisons: results.comparisons.len() as u64 }
}

/// The comparisons of a model's runs with its base.
fn comparisons<'a>(results: &'a StudyResults, model: &ModelResults, row: &Row) -> Vec<&'a StudyComparison> {
    let of_run = |found: &&StudyComparison| {
        found.baseline.seed.is_none()
            && found.baseline.model == model.name
            && found.candidate.model == model.name
            && row.is_of(&found.comparison.metric, &found.variant)
    };
    results.comparisons.iter().filter(of_run).collect()
}

/// Samples that both sides of each comparison have a score on, if some do not.
fn in_common(compared: &[&StudyComparison]) -> Option<Scored> {
    let scored = compared.iter().map(|found| found.comparison.n as u64).sum();
    let left_out: u64 = compared.iter().map(|found| found.comparison.n_left_out as u64).sum();
    (left_out > 0).then_some(Scored { scored, total: scored + left_out })
}

fn compared_runs(
    results: &StudyResults,
    model: &ModelResults,
    compared: &[&StudyComparison],
    change: f64,
) -> Option<ComparedRuns> {
    let significance = significance(results);
    let marks: Vec<usize> = compared
        .iter()
        .map(|found| match found.comparison.difference * change > 0.0 {
            true => significance.marks(found.p_holm),
            false => 0,
        })
        .collect();
    (!marks.is_empty()).then(|| ComparedRuns {
        runs: marks.len() as u64,
        significant: marks.iter().filter(|&&marks| marks > 0).count() as u64,
        marks: if marks.len() == model.runs.len() { marks.iter().copied().min().unwrap_or(0) } else { 0 },
    })
}

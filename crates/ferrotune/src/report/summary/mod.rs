//! The numbers that a report computes from the results: they stand in `results.json` too, under `summary`.

mod metric;

use std::collections::BTreeMap;

use ferrotune_core::extended;
use serde::Serialize;

use super::{
    axis::{Axis, AxisKind},
    curves,
    metrics::{self, Row},
};
use crate::study::{ModelResults, RunResults, StudyResults};

pub(super) use metric::{BENCHMARKS, METRICS, Records};
pub use metric::{ComparedRuns, MetricSummary, Scored, Significance};

/// Everything a report prints that is not itself in the study's results: totals, means over seeds, rounded times,
/// and the numbers on the figure's axes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Numbers of the tables and the figure, as in the published comparison.
    pub numbering: Numbering,
    /// Confidence of the intervals in percent.
    pub confidence_percent: u64,
    /// What marks a difference.
    pub significance: Significance,
    /// The whole study's time.
    pub duration: Duration,
    /// The machine's memory, in GiB.
    pub memory_gib: f64,
    /// Totals over the data files.
    pub data: DataTotals,
    /// One per model, in the order of the study.
    pub models: Vec<ModelSummary>,
    /// The figure's axes.
    pub figure: FigureAxes,
}

/// Numbers of the tables and the figure, as in the published comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Numbering {
    /// The table of training times.
    pub training_time_table: u64,
    /// The table of metrics.
    pub metrics_table: u64,
    /// The figure of losses.
    pub loss_figure: u64,
}

/// A time in units that people read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Duration {
    /// The time in seconds.
    pub total_seconds: f64,
    /// Full hours.
    pub hours: u64,
    /// Full minutes beyond them.
    pub minutes: u64,
    /// Seconds beyond those, rounded.
    pub seconds: u64,
}

/// Mean and range over runs that differ in their seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Spread {
    /// Runs.
    pub runs: u64,
    /// Their arithmetic mean.
    #[serde(with = "extended")]
    pub mean: f64,
    /// The smallest.
    #[serde(with = "extended")]
    pub min: f64,
    /// The largest.
    #[serde(with = "extended")]
    pub max: f64,
}

/// A count of weights in millions or billions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Scaled {
    /// The count.
    pub count: u64,
    /// The count in `unit`.
    pub scaled: f64,
    /// Nothing, `million` or `billion`.
    pub unit: &'static str,
}

/// Totals over the data files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DataTotals {
    /// Records read.
    pub read: u64,
    /// Records kept.
    pub kept: u64,
    /// Records dropped.
    pub dropped: u64,
    /// Records dropped, for each file in their order.
    pub dropped_per_file: Vec<u64>,
    /// Records dropped, by reason.
    pub dropped_by_reason: BTreeMap<String, u64>,
}

/// What a model's runs have in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ModelSummary {
    /// The model's name.
    pub name: String,
    /// Fine-tuning runs.
    pub runs: u64,
    /// All weights.
    pub parameters: Scaled,
    /// Weights that a token crosses.
    pub active_parameters: Scaled,
    /// Weights that trained.
    pub trainable_parameters: Scaled,
    /// The part of the weights that trained, in percent.
    pub trainable_percent: f64,
    /// Training time, for each run.
    pub durations: Vec<Duration>,
    /// The mean training time.
    pub mean_duration: Option<Duration>,
    /// Training time in seconds.
    pub train_seconds: Option<Spread>,
    /// Steps per run.
    pub steps: Option<Spread>,
    /// Epochs per run.
    pub epochs: Option<Spread>,
    /// Mean training loss.
    pub train_loss: Option<Spread>,
    /// Validation loss where it was measured first.
    pub first_validation_loss: Option<Spread>,
    /// Validation loss at the end.
    pub validation_loss: Option<Spread>,
    /// Lowest validation loss along the way.
    pub lowest_validation_loss: Option<Spread>,
    /// Input tokens per second.
    pub tokens_per_second: Option<Spread>,
    /// Targets per second.
    pub supervised_tokens_per_second: Option<Spread>,
    /// Resident memory in GiB, for each run.
    pub peak_rss_gib: Vec<f64>,
    /// The largest of these over the runs.
    pub largest_rss_gib: Option<f64>,
    /// Device memory in GiB, for each run that has it.
    pub peak_device_gib: Vec<Option<f64>>,
    /// The largest of these over the runs.
    pub largest_device_gib: Option<f64>,
    /// Where runs began to overfit.
    pub overfitting: OverfittingSummary,
    /// One per row of the table of metrics.
    pub metrics: Vec<MetricSummary>,
    /// One per row of the table of benchmarks; none without benchmarks.
    pub benchmarks: Vec<MetricSummary>,
}

/// Where runs began to overfit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OverfittingSummary {
    /// Runs that did.
    pub runs: u64,
    /// The earliest step of the lowest validation loss among them.
    pub first_step: Option<u64>,
    /// The latest.
    pub last_step: Option<u64>,
}

/// The numbers on the figure's axes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FigureAxes {
    /// Steps, from left to right.
    pub steps: Option<Axis>,
    /// Losses, from bottom to top.
    pub losses: Option<Axis>,
}

/// Computes the summary: a function of the results alone.
#[must_use]
pub fn summarize(results: &StudyResults) -> Summary {
    let (rows, benchmarks) = (metrics::rows(results), metrics::benchmark_rows(results));
    let model = |model| model_summary(results, model, &rows, &benchmarks);
    Summary {
        numbering: Numbering { training_time_table: 3, metrics_table: 4, loss_figure: 1 },
        confidence_percent: 95,
        significance: metric::significance(results),
        duration: duration(results.seconds),
        memory_gib: gib(results.environment.memory_bytes),
        data: data_totals(results),
        models: results.models.iter().map(model).collect(),
        figure: axes(results),
    }
}

fn data_totals(results: &StudyResults) -> DataTotals {
    let files = &results.data.files;
    let dropped_per_file: Vec<u64> = files.iter().map(|file| file.dropped.values().sum()).collect();
    let mut dropped_by_reason = BTreeMap::new();
    for (reason, count) in files.iter().flat_map(|file| &file.dropped) {
        *dropped_by_reason.entry(reason.clone()).or_insert(0) += count;
    }
    DataTotals {
        read: files.iter().map(|file| file.read).sum(),
        kept: files.iter().map(|file| file.kept).sum(),
        dropped: dropped_per_file.iter().sum(),
        dropped_per_file,
        dropped_by_reason,
    }
}

fn model_summary(
    results: &StudyResults,
    model: &ModelResults,
    rows: &[Row],
    benchmarks: &[Row],
) -> ModelSummary {
    let over = |value: fn(&RunResults) -> Option<f64>| spread(model.runs.iter().filter_map(value));
    let train_seconds = over(|run| Some(run.train_seconds));
    let peak_rss_gib: Vec<f64> = model.runs.iter().map(|run| gib(run.peak_rss_bytes)).collect();
    let peak_device_gib: Vec<Option<f64>> =
        model.runs.iter().map(|run| run.peak_device_bytes.map(gib)).collect();
    let overfitting = || model.runs.iter().filter_map(|run| run.overfitting);
    ModelSummary {
        name: model.name.clone(),
        runs: model.runs.len() as u64,
        parameters: scaled(model.parameters),
        active_parameters: scaled(model.active_parameters),
        trainable_parameters: scaled(model.trainable_parameters),
        trainable_percent: if model.parameters == 0 {
            0.0
        } else {
            100.0 * model.trainable_parameters as f64 / model.parameters as f64
        },
        durations: model.runs.iter().map(|run| duration(run.train_seconds)).collect(),
        mean_duration: train_seconds.map(|seconds| duration(seconds.mean)),
        train_seconds,
        steps: over(|run| Some(run.steps as f64)),
        epochs: over(|run| Some(run.epochs)),
        train_loss: over(|run| Some(run.train_loss)),
        first_validation_loss: over(|run| run.validation_curve.first().map(|point| point.loss)),
        validation_loss: over(|run| run.validation_loss),
        lowest_validation_loss: over(|run| {
            run.validation_curve.iter().map(|point| point.loss).reduce(f64::min)
        }),
        tokens_per_second: over(|run| Some(run.tokens_per_second)),
        supervised_tokens_per_second: over(|run| Some(run.supervised_tokens_per_second)),
        largest_rss_gib: peak_rss_gib.iter().copied().reduce(f64::max),
        peak_rss_gib,
        largest_device_gib: peak_device_gib.iter().flatten().copied().reduce(f64::max),
        peak_device_gib,
        overfitting: OverfittingSummary {
            runs: overfitting().count() as u64,
            first_step: overfitting().map(|at| at.step).min(),
            last_step: overfitting().map(|at| at.step).max(),
        },
        metrics: rows.iter().map(|row| metric::summary(results, model, row, &METRICS)).collect(),
        benchmarks: benchmarks.iter().map(|row| metric::summary(results, model, row, &BENCHMARKS)).collect(),
    }
}

fn axes(results: &StudyResults) -> FigureAxes {
    let runs = || results.models.iter().flat_map(|model| &model.runs);
    let last_step = runs().flat_map(curves::points).map(|point| point.step).max();
    let losses = runs().flat_map(curves::drawn).map(|point| point.loss);
    FigureAxes {
        steps: last_step.map(|last| Axis::over(0.0, last as f64, AxisKind::Counts)),
        losses: curves::range(losses).map(|(low, high)| Axis::over(low, high, AxisKind::Losses)),
    }
}

fn duration(total_seconds: f64) -> Duration {
    let rounded = total_seconds.max(0.0).round() as u64;
    Duration { total_seconds, hours: rounded / 3600, minutes: rounded % 3600 / 60, seconds: rounded % 60 }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn scaled(count: u64) -> Scaled {
    let (scale, unit) = match count {
        0..1_000_000 => (1.0, ""),
        1_000_000..1_000_000_000 => (1e6, "million"),
        _ => (1e9, "billion"),
    };
    Scaled { count, scaled: count as f64 / scale, unit }
}

fn spread(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let values: Vec<f64> = values.collect();
    let runs = values.len();
    (runs > 0).then(|| Spread {
        runs: runs as u64,
        // Dividing first keeps the mean of huge losses finite.
        mean: values.iter().map(|value| value / runs as f64).sum(),
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    })
}

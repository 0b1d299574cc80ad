//! Training run by run: losses, times, memory.

use serde::Serialize;

use super::{
    number::decimal,
    prose::{self, EPOCH, LOSS, SECONDS},
    summary::{ModelSummary, Spread},
    view::NOT_MEASURED,
};
use crate::study::{ModelResults, RunResults};

/// The losses of a run, or their means.
#[derive(Debug, Serialize)]
pub(super) struct LossRow {
    run: String,
    train: String,
    first: String,
    lowest: String,
    last: String,
    overfits: String,
}

/// The time of a run, or the means.
#[derive(Debug, Serialize)]
pub(super) struct TimeRow {
    run: String,
    strong: bool,
    time: String,
    seconds: String,
    steps: String,
    epochs: String,
    tokens: String,
    supervised: String,
    rss: String,
    device: String,
}

/// Losses run by run, and their means.
pub(super) fn losses(model: &ModelResults, summary: &ModelSummary) -> Vec<LossRow> {
    let loss = |value: Option<f64>| value.map_or_else(|| NOT_MEASURED.to_owned(), |x| decimal(x, LOSS));
    let row = |run: &RunResults| LossRow {
        run: format!("seed {}", run.seed),
        train: decimal(run.train_loss, LOSS),
        first: loss(run.validation_curve.first().map(|point| point.loss)),
        lowest: loss(run.validation_curve.iter().map(|point| point.loss).reduce(f64::min)),
        last: loss(run.validation_loss),
        overfits: match run.overfitting {
            Some(at) => format!("after step {} (epoch {})", at.step, decimal(at.epoch, EPOCH)),
            None if run.validation_curve.is_empty() => NOT_MEASURED.to_owned(),
            None => "no".to_owned(),
        },
    };
    let mut rows: Vec<LossRow> = model.runs.iter().map(row).collect();
    if model.runs.len() > 1 {
        let mean = |spread: &Option<Spread>| loss(spread.map(|s| s.mean));
        rows.push(LossRow {
            run: "mean".to_owned(),
            train: mean(&summary.train_loss),
            first: mean(&summary.first_validation_loss),
            lowest: mean(&summary.lowest_validation_loss),
            last: mean(&summary.validation_loss),
            overfits: if summary.lowest_validation_loss.is_some() {
                format!("{} of {} runs", summary.overfitting.runs, summary.runs)
            } else {
                NOT_MEASURED.to_owned()
            },
        });
    }
    rows
}

/// Times run by run, and their means.
pub(super) fn times(model: &ModelResults, summary: &ModelSummary) -> Vec<TimeRow> {
    let memory = |gib: Option<f64>| gib.map_or_else(|| NOT_MEASURED.to_owned(), |x| decimal(x, 2));
    let mut rows: Vec<TimeRow> = model
        .runs
        .iter()
        .enumerate()
        .map(|(i, run)| TimeRow {
            run: format!("seed {}", run.seed),
            strong: false,
            time: prose::duration(&summary.durations[i]),
            seconds: decimal(run.train_seconds, SECONDS),
            steps: run.steps.to_string(),
            epochs: decimal(run.epochs, EPOCH),
            tokens: decimal(run.tokens_per_second, 1),
            supervised: decimal(run.supervised_tokens_per_second, 1),
            rss: memory(Some(summary.peak_rss_gib[i])),
            device: memory(summary.peak_device_gib[i]),
        })
        .collect();
    let (Some(seconds), Some(mean_duration)) = (&summary.train_seconds, &summary.mean_duration) else {
        return rows;
    };
    if rows.len() < 2 {
        return rows;
    }
    let mean = |spread: &Option<Spread>, digits| {
        spread.map_or_else(|| NOT_MEASURED.to_owned(), |spread| decimal(spread.mean, digits))
    };
    // Means of whole numbers that agree stay whole.
    let whole = summary.steps.is_some_and(|steps| steps.min == steps.max);
    rows.push(TimeRow {
        run: "mean".to_owned(),
        strong: true,
        time: prose::duration(mean_duration),
        seconds: decimal(seconds.mean, SECONDS),
        steps: mean(&summary.steps, usize::from(!whole)),
        epochs: mean(&summary.epochs, EPOCH),
        tokens: mean(&summary.tokens_per_second, 1),
        supervised: mean(&summary.supervised_tokens_per_second, 1),
        rss: memory(summary.largest_rss_gib),
        device: memory(summary.largest_device_gib),
    });
    rows
}

//! What happened, as results.

use std::path::Path;

use ferrotune_data::Split;
use ferrotune_eval::{FailureKind, Measurement, Record, judge::JudgeUsage};
use ferrotune_trainer::LogRow;

use super::{
    Answer, BenchmarkResults, CurvePoint, DataFile, DataResults, FailureCount, JudgeResults, ModelResults,
    Overfitting, RunResults, bench::HeldOut, comparisons::Evaluated, done::Trained,
};
use crate::{Benchmark, Instructions, Measure, Measured, measure};

/// How many answers are shown side by side.
const SHOWN_ANSWERS: usize = 8;

/// The records of all benchmarks, each one's own before its other views, and the Quality Index.
pub(super) fn benchmark_records(measured: &Measured) -> Vec<Record> {
    let records = measured.benchmarks.iter().flat_map(|outcome| &outcome.records);
    records.chain(&measured.quality_index).cloned().collect()
}

/// The benchmarks, with the metric and variant that they are measured by.
pub(super) fn benchmarks(measure: &Measure, evaluated: &[Evaluated]) -> Vec<BenchmarkResults> {
    let measured = evaluated.first().map_or(&[][..], |first| &first.benchmarks);
    let one = |(benchmark, measurement): (&Benchmark, &Measurement)| {
        let dataset = &benchmark.task.info().dataset;
        BenchmarkResults {
            name: benchmark.config.name.clone(),
            metric: measurement.metric.clone(),
            variant: measurement.variant.clone(),
            data: dataset.path_name.clone(),
            sha256: dataset.sha256.clone(),
            documents: benchmark.documents() as u64,
            available: benchmark.task.len() as u64,
        }
    };
    measure.benchmarks().iter().zip(measured).map(one).collect()
}

/// Who judged, and what that did cost, whichever process paid for it.
pub(super) fn judge(
    measure: &Measure,
    models: &[ModelResults],
    evaluated: &[Evaluated],
) -> Option<JudgeResults> {
    let [asked, _] = measure.judge_usage();
    let mut usage = JudgeUsage { cost: asked?.cost.map(|_| 0.0), ..JudgeUsage::default() };
    let mut name = String::new();
    for record in models.iter().flat_map(|m| m.base.iter().chain(m.runs.iter().flat_map(|run| &run.metrics)))
    {
        usage += record.judge_usage.unwrap_or_default();
        if let (true, Some(judge)) = (name.is_empty(), &record.judge) {
            name.clone_from(&judge.name);
        }
    }
    let embeddings_usage = evaluated.iter().filter_map(|one| one.embeddings_usage).reduce(|mut sum, more| {
        sum += more;
        sum
    });
    Some(JudgeResults { name, usage, embeddings_usage })
}

/// What could not be scored, counted by its kind.
pub(super) fn failures(evaluated: &[Evaluated]) -> Vec<FailureCount> {
    let mut counts: Vec<FailureCount> = Vec::new();
    for Evaluated { contestant, measurements, benchmarks, .. } in evaluated {
        for measurement in measurements.iter().chain(benchmarks) {
            let begin = counts.len();
            for sample in &measurement.samples {
                // A metric that was not run at all says so in its record.
                let Some(failure) =
                    sample.score.as_ref().err().filter(|f| f.kind != FailureKind::NotMeasured)
                else {
                    continue;
                };
                match counts[begin..].iter_mut().find(|count| count.kind == failure.kind) {
                    Some(count) => count.count += 1,
                    None => counts.push(FailureCount {
                        model: contestant.model.clone(),
                        seed: contestant.seed,
                        metric: measurement.metric.clone(),
                        kind: failure.kind,
                        count: 1,
                        first: format!("{}: {}", sample.id, failure.detail),
                    }),
                }
            }
        }
    }
    counts
}

/// The results of a fine-tuning.
pub(super) fn run(seed: u64, trained: &Trained, base_loss: Option<f64>, after: &Measured) -> RunResults {
    let Trained { summary, history, .. } = trained;
    let mut training_curve = Vec::new();
    let mut validation_curve: Vec<CurvePoint> =
        base_loss.map(|loss| CurvePoint { step: 0, epoch: 0.0, loss }).into_iter().collect();
    for row in &history.log_history {
        match row {
            LogRow::Training(row) => {
                training_curve.push(CurvePoint {
                    step: row.step,
                    epoch: row.epoch,
                    loss: row.token_loss.unwrap_or(row.loss),
                });
            }
            LogRow::Evaluation(row) => {
                validation_curve.push(CurvePoint { step: row.step, epoch: row.epoch, loss: row.eval_loss });
            }
            LogRow::End(_) => {}
        }
    }
    let step =
        ferrotune_trainer::overfitting_step(validation_curve.iter().map(|point| (point.step, point.loss)));
    let overfitting = step.and_then(|step| {
        let lowest = validation_curve.iter().rev().find(|point| point.step == step)?;
        let last = validation_curve.last()?;
        Some(Overfitting { step, epoch: lowest.epoch, lowest_loss: lowest.loss, final_loss: last.loss })
    });
    RunResults {
        seed,
        steps: summary.steps,
        epochs: summary.epochs,
        train_seconds: summary.train_runtime_seconds,
        train_loss: summary.train_token_loss,
        validation_loss: summary.eval_loss,
        tokens_per_second: summary.tokens_per_second,
        supervised_tokens_per_second: summary.supervised_tokens_per_second,
        peak_rss_bytes: summary.peak_rss_bytes.unwrap_or(0),
        peak_device_bytes: summary.peak_device_bytes,
        training_curve,
        validation_curve,
        overfitting,
        metrics: after.records.clone(),
        benchmarks: benchmark_records(after),
    }
}

/// The first held-out questions with the answers of both states.
pub(super) fn side_by_side(held_out: &HeldOut<'_>, before: &[String], after: &[String]) -> Vec<Answer> {
    held_out
        .records
        .iter()
        .zip(before.iter().zip(after))
        .take(SHOWN_ANSWERS)
        .map(|(record, (base, fine_tuned))| Answer {
            request: measure::request(record).to_owned(),
            reference: measure::response(record).to_owned(),
            base: base.clone(),
            fine_tuned: fine_tuned.clone(),
        })
        .collect()
}

/// What became of the data.
pub(super) fn data(instructions: &Instructions, split: &Split) -> DataResults {
    let file = |report: &ferrotune_data::FileReport| DataFile {
        name: file_name(&report.path),
        sha256: report.sha256.clone(),
        read: report.read,
        kept: report.kept,
        dropped: report
            .dropped_by_reason
            .iter()
            .map(|(reason, &count)| (reason.to_string(), count))
            .collect(),
    };
    DataResults {
        files: instructions.reports.iter().map(file).collect(),
        split: split.counts(),
        split_seed: instructions.config().split_seed,
    }
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

use std::{sync::Arc, time::Instant};

use crate::{Error, Measurement, Metric, OnFailure, Pair, Record, Result, Run, statistics::Bootstrap};

/// What an evaluation found: measurements and their records, in the same order.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// What the metrics found, with a score or a failure for every sample.
    pub measurements: Vec<Measurement>,
    /// What goes into a report.
    pub records: Vec<Record>,
}

/// Runs metrics over pairs and makes their records.
///
/// `wall_s` of a record is the time of the whole metric; where one metric reports several measurements, each carries
/// it.
///
/// # Errors
/// What a metric returns, [`Error::JudgeRefused`], and [`Error::SampleFailed`] under [`OnFailure::Error`].
pub fn evaluate(
    metrics: &[Arc<dyn Metric>],
    pairs: &[Pair],
    run: &Run,
    bootstrap: &Bootstrap,
    on_failure: OnFailure,
) -> Result<Evaluation> {
    match evaluate_until_failure(metrics, pairs, run, bootstrap, on_failure) {
        (evaluation, None) => Ok(evaluation),
        (_, Some(failure)) => Err(failure),
    }
}

/// The same, which gives back what was found before a failure, and the failure: judges were paid for it.
///
/// No metric follows one that fails. If a sample failed ([`OnFailure::Error`]) or a judge refused to go on, the metric's own
/// measurements are the last ones; those of a judge that refused have no value.
pub fn evaluate_until_failure(
    metrics: &[Arc<dyn Metric>],
    pairs: &[Pair],
    run: &Run,
    bootstrap: &Bootstrap,
    on_failure: OnFailure,
) -> (Evaluation, Option<Error>) {
    let mut evaluation = Evaluation::default();
    let found = metrics.iter().try_for_each(|metric| {
        let start = Instant::now();
        let measurements = metric.measure(pairs)?;
        let wall_s = start.elapsed().as_secs_f64();
        tracing::debug!(metric = ?metric.outputs(), samples = pairs.len(), wall_s, "measured");
        let mut checked = Ok(());
        for measurement in measurements {
            checked = checked.and_then(|()| measurement.check(on_failure));
            evaluation.records.push(Record::new(run, &measurement, bootstrap, wall_s)?);
            evaluation.measurements.push(measurement);
        }
        checked
    });
    (evaluation, found.err())
}

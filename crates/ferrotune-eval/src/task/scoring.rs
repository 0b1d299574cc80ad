//! Measurements over answered documents, as every task makes them.

use super::{Answered, TaskInfo};
use crate::{Failure, Measurement};

/// Whether a reply is right, with the answer that was found in it.
pub(super) struct Verdict {
    pub(super) extracted: Option<String>,
    pub(super) right: Result<bool, Failure>,
}

impl Verdict {
    pub(super) fn new(extracted: Option<String>, right: bool) -> Self {
        Self { extracted, right: Ok(right) }
    }
}

/// The share of documents that are answered right, reported as `metric` under the task's variant and `rule`.
pub(super) fn share(
    info: &TaskInfo,
    metric: &str,
    rule: &str,
    answered: &[Answered],
    judge: impl Fn(&Answered) -> Verdict,
) -> Measurement {
    let verdicts: Vec<Verdict> = answered.iter().map(judge).collect();
    let outcomes = answered.iter().zip(&verdicts).map(|(one, v)| (one.document.id.clone(), v.right.clone()));
    let variant = format!("{}, {rule}, share of documents, 0 to 1", info.variant);
    let mut measurement = Measurement::of_share(metric, variant, outcomes);
    for (sample, verdict) in measurement.samples.iter_mut().zip(verdicts) {
        sample.extracted = verdict.extracted;
    }
    measurement.params = info.params.clone();
    measurement
}

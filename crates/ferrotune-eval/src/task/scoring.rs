//! Measurements over answered documents, as every task makes them.

use std::collections::HashMap;

use ndarray::Array2;

use super::{Answered, Request, TaskInfo};
use crate::{
    Evidence, Failure, FailureKind, Measurement, Tally,
    benchmark::{ChoiceScore, most_likely_choice},
    statistics::{mean_stderr, pooled_stderr},
};

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
    clustered(measurement, answered.iter())
}

/// The same measurement, whose interval counts documents of one cluster as one question.
fn clustered<'a>(measurement: Measurement, answered: impl Iterator<Item = &'a Answered>) -> Measurement {
    let scored = answered.zip(&measurement.samples).filter(|(_, sample)| sample.score.is_ok());
    let mut known: HashMap<&str, usize> = HashMap::new();
    let labels: Vec<usize> = scored
        .enumerate()
        .map(|(row, (one, _))| match &one.document.cluster {
            Some(cluster) => *known.entry(cluster).or_insert(row),
            None => row,
        })
        .collect();
    let evidence = match measurement.evidence {
        Evidence::Measured(tally) => Evidence::Measured(tally.clustered(&labels)),
        other => other,
    };
    Measurement { evidence, ..measurement }
}

/// The choice that a model finds most likely, against the right one: lm-evaluation-harness' `acc`, or `acc_norm`.
pub(super) fn chosen(one: &Answered, labels: &[&str], right: usize, score: ChoiceScore) -> Verdict {
    let Request::Choices { choices, .. } = &one.document.request else {
        return Verdict::new(None, false);
    };
    match most_likely_choice(&one.log_likelihoods(), choices, score) {
        Some(place) => Verdict::new(labels.get(place).map(|label| (*label).to_owned()), place == right),
        None => Verdict {
            extracted: None,
            right: Err(Failure {
                kind: FailureKind::NotFinite,
                detail: format!("log-likelihoods {:?} of {} choices", one.log_likelihoods(), choices.len()),
            }),
        },
    }
}

/// The same measurement of each group, in order of first appearance, named `metric/group`.
pub(super) fn by_group<'a>(
    whole: &Measurement,
    answered: &'a [Answered],
    group: impl Fn(&'a Answered) -> Option<&'a str>,
) -> Vec<Measurement> {
    let mut members: Vec<(&str, Vec<usize>)> = Vec::new();
    for (place, one) in answered.iter().enumerate() {
        let Some(name) = group(one) else { continue };
        match members.iter_mut().find(|(known, _)| *known == name) {
            Some((_, places)) => places.push(place),
            None => members.push((name, vec![place])),
        }
    }
    let of_group = |(name, places): (&str, Vec<usize>)| {
        let samples = places.iter().map(|&place| &whole.samples[place]);
        let outcomes = samples.map(|s| (s.id.clone(), s.score.clone().map(|score| score == 1.0)));
        let metric = format!("{}/{name}", whole.metric);
        let share = Measurement::of_share(metric, &whole.variant, outcomes);
        let members = places.iter().map(|&place| &answered[place]);
        clustered(Measurement { params: whole.params.clone(), ..share }, members)
    };
    members.into_iter().map(of_group).collect()
}

/// The mean of the groups' means, each group counting the same, named `metric_macro`. The groups are its strata, unless
/// documents of several groups ask the same question: questions are drawn then, and a draw that misses a group is the mean of
/// those it has.
pub(super) fn macro_mean(whole: &Measurement, answered: &[Answered]) -> Measurement {
    let mut groups: Vec<&str> = answered.iter().filter_map(|one| one.document.group.as_deref()).collect();
    groups.dedup();
    groups.sort_unstable();
    groups.dedup();
    let scored: Vec<(usize, f64)> = answered
        .iter()
        .zip(&whole.samples)
        .filter_map(|(one, sample)| {
            let group = groups.binary_search(&one.document.group.as_deref()?).ok()?;
            Some((group, *sample.score.as_ref().ok()?))
        })
        .collect();
    let mut rows = Array2::zeros((scored.len(), 2 * groups.len()));
    for (row, &(group, score)) in scored.iter().enumerate() {
        rows[[row, 2 * group]] = score;
        rows[[row, 2 * group + 1]] = 1.0;
    }
    let tally = Tally::new(rows, |sums| {
        let means = sums.chunks_exact(2).filter(|pair| pair[1] > 0.0).map(|pair| pair[0] / pair[1]);
        let (sum, count) = means.fold((0.0, 0.0), |(sum, count), mean| (sum + mean, count + 1.0));
        sum / count
    });
    let (metric, variant) =
        (format!("{}_macro", whole.metric), format!("{}; mean of the means of groups", whole.variant));
    let samples = whole.samples.clone();
    let strata: Vec<usize> = scored.iter().map(|&(group, _)| group).collect();
    let mean = Measurement::of_tally(metric, variant, samples, tally.stratified(&strata));
    clustered(Measurement { params: whole.params.clone(), ..mean }, answered.iter())
}

/// Adds lm-evaluation-harness' standard error of a size-weighted mean of groups to the settings of a measurement.
pub(super) fn with_pooled_stderr(whole: Measurement, groups: &[Measurement]) -> Measurement {
    let stderr = |group: &Measurement| {
        let scores: Vec<f64> = group.samples.iter().filter_map(|s| s.score.as_ref().ok().copied()).collect();
        Some((mean_stderr(&scores)?, scores.len()))
    };
    match groups.iter().map(stderr).collect::<Option<Vec<_>>>().as_deref().and_then(pooled_stderr) {
        Some(stderr) => whole.with_param("stderr_pooled_over_groups", stderr),
        None => whole,
    }
}

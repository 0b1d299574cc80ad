//! Who judged and at what cost, and what could not be scored.

use std::collections::BTreeSet;

use ferrotune_eval::{JudgeInfo, OnFailure, Record, judge::JudgeUsage};
use serde::Serialize;
use serde_json::Value;

use super::{
    metrics,
    number::decimal,
    view::{beginning, short, state},
};
use crate::study::{FailureCount, JudgeResults, StudyResults};

/// Digits of money.
const COST: usize = 4;

/// Characters of a failure's first case that are shown; the rest stands in `results.json`.
const SHORT_FAILURE: usize = 200;

/// The section on judging.
#[derive(Debug, Serialize)]
pub(super) struct Judging<'a> {
    name: &'a str,
    /// Whether there are prices, and so costs.
    priced: bool,
    /// Says that tokens were not counted, if so.
    caution: Option<String>,
    /// Who judged and how it was asked, as names and values.
    settings: Vec<(String, String)>,
    rows: Vec<Row<'a>>,
}

/// One judged measurement, or all of them.
#[derive(Debug, Serialize)]
struct Row<'a> {
    model: &'a str,
    state: String,
    label: String,
    total: bool,
    scored: String,
    calls: u64,
    cached: u64,
    retries: u64,
    unanswered: u64,
    unusable: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    cost: String,
}

/// Samples that could not be scored.
#[derive(Debug, Serialize)]
pub(super) struct Failures<'a> {
    /// What the study does with such samples.
    policy: Option<&'static str>,
    lines: Vec<FailureLine<'a>>,
    /// How many samples all other values are over, where that can be said.
    complete: Option<String>,
}

/// Samples of one evaluation that one metric could not score for one kind of reason.
#[derive(Debug, Serialize)]
struct FailureLine<'a> {
    model: &'a str,
    state: String,
    label: String,
    kind: String,
    /// How many of how many.
    count: String,
    first: String,
}

/// The section on judging; nothing without a judge.
pub(super) fn judging(results: &StudyResults) -> Option<Judging<'_>> {
    let JudgeResults { name, usage, embeddings_usage } = results.judge.as_ref()?;
    let mut rows = Vec::new();
    for Evaluation { model, seed, metrics, .. } in evaluations(results) {
        for record in metrics {
            let Record { n_scored, n_total, judge_usage: Some(usage), .. } = record else { continue };
            let scored = format!("{n_scored} of {n_total}");
            rows.push(row(model, state(seed), metrics::label(&record.metric), scored, usage));
        }
    }
    let total = |what: &str, usage| Row {
        total: true,
        ..row("all models", "all states".to_owned(), what.to_owned(), "all".to_owned(), usage)
    };
    rows.push(total("questions to the judge", usage));
    rows.extend(embeddings_usage.as_ref().map(|usage| total("requests for vectors", usage)));
    let caution = (usage.uncounted > 0).then(|| {
        format!(
            "The judge did not count the tokens of {} replies: tokens and cost are lower bounds.",
            usage.uncounted
        )
    });
    let settings = settings(results);
    Some(Judging { name, priced: usage.cost.is_some(), caution, settings, rows })
}

/// Who judged and how it was asked, as the records say it; a setting in which they differ has each of its values.
fn settings(results: &StudyResults) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| match settings.iter_mut().find(|(other, _)| other == name) {
        Some((_, values)) if values.split("; ").any(|one| one == value) => {}
        Some((_, values)) => *values = format!("{values}; {value}"),
        None => settings.push((name.to_owned(), value)),
    };
    for record in evaluations(results).flat_map(|evaluation| evaluation.metrics) {
        let Some(JudgeInfo { name, params, prompt_sha }) = &record.judge else { continue };
        add("Judge", name.clone());
        let text = |key: &str| params.get(key).and_then(Value::as_str);
        let place = match (text("endpoint"), text("weights_sha256"), text("replies_sha256")) {
            (Some(endpoint), ..) => Some(endpoint.to_owned()),
            (_, Some(weights), _) => Some(format!(
                "this machine, in {} on {}, weights {}",
                text("dtype").unwrap_or("a type that is not stated"),
                text("device").unwrap_or("a device that is not stated"),
                short(weights)
            )),
            (.., Some(replies)) => Some(format!("replies that were written down, {}", short(replies))),
            _ => None,
        };
        place.into_iter().for_each(|place| add("Asked at", place));
        let answered = params.get("answered_as").and_then(Value::as_array);
        for answered in answered.into_iter().flatten().filter_map(Value::as_str) {
            add("Answered as", answered.to_owned());
        }
        for date in ["answered_from", "answered_to"].into_iter().filter_map(text) {
            add("Answered on", day(date).to_owned());
        }
        // What was written down was drawn elsewhere.
        let drawn = |key: &str| params.get(key).filter(|_| text("replies_sha256").is_none());
        match drawn("temperature").map(Value::as_f64) {
            Some(Some(temperature)) => add("Temperature", temperature.to_string()),
            Some(None) => add("Temperature", "the judge's own: none was sent".to_owned()),
            None => {}
        }
        if let Some(seed) = drawn("seed").and_then(Value::as_u64) {
            add("Seed", seed.to_string());
        }
        if let Some(tokens) = params.get("max_tokens") {
            add("Longest reply", format!("{tokens}\u{a0}tokens"));
        }
        if let Some(times) = params.get("reasks") {
            add("Further attempts", format!("{times} where a reply is of no use"));
        }
        if let Some(times) = record.params.get("repeats") {
            add("Repeats", format!("{times} of each sample"));
        }
        add("Prompts", format!("{} {}", metrics::label(&record.metric), short(prompt_sha)));
    }
    settings
}

/// The day of an HTTP date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn day(date: &str) -> &str {
    date.get(5..16).unwrap_or(date)
}

fn row<'a>(model: &'a str, state: String, label: String, scored: String, usage: &JudgeUsage) -> Row<'a> {
    Row {
        model,
        state,
        label,
        total: false,
        scored,
        calls: usage.calls,
        cached: usage.cached,
        retries: usage.retries,
        unanswered: usage.unanswered,
        unusable: usage.unusable,
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        cost: usage.cost.map_or_else(|| "no price".to_owned(), |cost| decimal(cost, COST)),
    }
}

/// A model in one of its states, and the records of it.
struct Evaluation<'a> {
    model: &'a str,
    seed: Option<u64>,
    metrics: &'a [Record],
    benchmarks: &'a [Record],
}

fn evaluations(results: &StudyResults) -> impl Iterator<Item = Evaluation<'_>> {
    results.models.iter().flat_map(|model| {
        let of = |seed, metrics, benchmarks| Evaluation { model: &model.name, seed, metrics, benchmarks };
        let base = of(None, model.base.as_slice(), model.base_benchmarks.as_slice());
        let runs = model.runs.iter().map(move |run| of(Some(run.seed), &run.metrics, &run.benchmarks));
        std::iter::once(base).chain(runs)
    })
}

/// Everything that could not be scored, by evaluation, metric and kind.
pub(super) fn failures(results: &StudyResults) -> Failures<'_> {
    let total = |failure: &FailureCount| {
        let of_state = |one: &Evaluation<'_>| one.model == failure.model && one.seed == failure.seed;
        let evaluation = evaluations(results).find(of_state)?;
        let mut records = evaluation.metrics.iter().chain(evaluation.benchmarks);
        records.find(|record| record.metric == failure.metric).map(|record| record.n_total)
    };
    let line = |failure: &'_ FailureCount| FailureLine {
        model: "",
        state: state(failure.seed),
        label: metrics::label(&failure.metric),
        kind: failure.kind.to_string(),
        count: match total(failure) {
            Some(total) => format!("{} of {total}", failure.count),
            None => failure.count.to_string(),
        },
        first: beginning(&failure.first, SHORT_FAILURE),
    };
    let lines = results.failures.iter();
    Failures {
        policy: results.on_failure.map(|policy| match policy {
            OnFailure::Skip => "A sample that cannot be scored is left out of the value and counted (skip).",
            OnFailure::Error => "A sample that cannot be scored ends the study (error).",
        }),
        lines: lines.map(|failure| FailureLine { model: &failure.model, ..line(failure) }).collect(),
        complete: complete(results),
    }
}

/// How many samples the values are over that lack none of them; nothing where some lack samples that were not counted.
fn complete(results: &StudyResults) -> Option<String> {
    let mut sizes: Vec<(String, BTreeSet<usize>)> = Vec::new();
    for Evaluation { model, seed, metrics, benchmarks } in evaluations(results) {
        let is_own = |record: &&Record| {
            results.benchmarks.iter().any(|one| one.metric == record.metric && one.variant == record.variant)
        };
        let benchmarks = benchmarks.iter().filter(is_own);
        let all = metrics
            .iter()
            .map(|record| ("held-out records".to_owned(), record))
            .chain(benchmarks.map(|one| (metrics::label_in(results, &one.metric, &one.variant), one)));
        for (what, record) in all.filter(|(_, record)| record.value.is_some()) {
            if record.n_scored < record.n_total {
                let counted = results.failures.iter().any(|failure| {
                    failure.model == model && failure.seed == seed && failure.metric == record.metric
                });
                if counted {
                    continue;
                }
                return None;
            }
            match sizes.iter_mut().find(|(other, _)| *other == what) {
                Some((_, counts)) => drop(counts.insert(record.n_total)),
                None => sizes.push((what, BTreeSet::from([record.n_total]))),
            }
        }
    }
    let size = |(what, counts): (String, BTreeSet<usize>)| {
        let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
        format!("{what}: n\u{a0}=\u{a0}{}", counts.join(", "))
    };
    let sizes: Vec<String> = sizes.into_iter().map(size).collect();
    (!sizes.is_empty()).then(|| sizes.join("; "))
}

//! Who judged and at what cost, and what could not be scored.

use ferrotune_eval::{Record, judge::JudgeUsage};
use serde::Serialize;

use super::{
    metrics,
    number::decimal,
    view::{beginning, state},
};
use crate::study::{JudgeResults, StudyResults};

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
pub(super) struct FailureLine<'a> {
    model: &'a str,
    state: String,
    label: String,
    kind: String,
    count: u64,
    first: String,
}

/// The section on judging; nothing without a judge.
pub(super) fn judging(results: &StudyResults) -> Option<Judging<'_>> {
    let JudgeResults { name, usage, embeddings_usage } = results.judge.as_ref()?;
    let mut rows = Vec::new();
    for model in &results.models {
        let base = model.base.iter().map(|record| (None, record));
        let tuned =
            model.runs.iter().flat_map(|run| run.metrics.iter().map(|record| (Some(run.seed), record)));
        for (seed, record) in base.chain(tuned) {
            let Record { n_scored, n_total, judge_usage: Some(usage), .. } = record else { continue };
            let scored = format!("{n_scored} of {n_total}");
            rows.push(row(&model.name, state(seed), metrics::label(&record.metric), scored, usage));
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
    Some(Judging { name, priced: usage.cost.is_some(), caution, rows })
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

/// Everything that could not be scored, by evaluation, metric and kind.
pub(super) fn failures(results: &StudyResults) -> Vec<FailureLine<'_>> {
    let line = |failure: &'_ crate::study::FailureCount| FailureLine {
        model: "",
        state: state(failure.seed),
        label: metrics::label(&failure.metric),
        kind: failure.kind.to_string(),
        count: failure.count,
        first: beginning(&failure.first, SHORT_FAILURE),
    };
    results.failures.iter().map(|failure| FailureLine { model: &failure.model, ..line(failure) }).collect()
}

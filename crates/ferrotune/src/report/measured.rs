//! The measured metrics as rows: the table that compares them, and the list of all of them.

use std::collections::BTreeSet;

use ferrotune_eval::Record;
use serde::Serialize;
use serde_json::Value;

use super::{
    metrics,
    number::{decimal, signed},
    prose::{self, METRIC},
    summary::{MetricSummary, ModelSummary, Scored, Summary},
    view::NOT_MEASURED,
};
use crate::study::{Contestant, StudyComparison, StudyResults};

/// Models side by side in one table of metrics; with more, paper is too narrow.
const MODELS_PER_TABLE: usize = 2;

/// Says that a difference is more than chance.
pub(super) const MARK: &str = "*";

/// Digits of p-values; smaller ones are written with an exponent.
const P_VALUE: usize = 4;

/// A table of metrics: three columns for each of its models.
#[derive(Debug, Serialize)]
pub(super) struct Table<'a> {
    models: Vec<&'a str>,
    columns: usize,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    label: String,
    /// What is measured, where the label does not say it.
    definition: String,
    scale: &'static str,
    better: &'static str,
    /// Samples of each evaluation.
    n: String,
    /// The reason, if no cell of the row has a number and all for the same.
    reason: Option<String>,
    cells: Vec<Cell>,
}

#[derive(Debug, Serialize)]
struct Cell {
    text: String,
    /// Each a line below.
    notes: Vec<String>,
    measured: bool,
}

/// One record.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    model: &'a str,
    state: String,
    label: String,
    variant: &'a str,
    value: String,
    interval: String,
    scored: usize,
    total: usize,
    method: &'a str,
}

/// Table by table, the metrics of all models, a few models in each.
pub(super) fn metrics<'a>(results: &'a StudyResults, summary: &Summary) -> Vec<Table<'a>> {
    tables(results, summary, &metrics::rows(results), |model| &model.metrics, |_| String::new())
}

/// The same for the benchmarks; none without a benchmark.
pub(super) fn benchmarks<'a>(results: &'a StudyResults, summary: &Summary) -> Vec<Table<'a>> {
    let rows = metrics::benchmark_rows(results);
    if rows.is_empty() {
        return Vec::new();
    }
    let definition = |row: &metrics::Row| {
        let of_row = results.benchmarks.iter().find(|one| row.is_of(&one.metric, &one.variant));
        match of_row {
            Some(one) if one.documents < one.available => format!(
                "{}; the first {} of {} documents{}",
                one.variant,
                one.documents,
                one.available,
                prompts(results, row)
            ),
            Some(one) => {
                format!("{}; {} documents{}", one.variant, one.documents, prompts(results, row))
            }
            None => quality_index(results),
        }
    };
    tables(results, summary, &rows, |model| &model.benchmarks, definition)
}

/// How each model was asked.
fn prompts(results: &StudyResults, row: &metrics::Row) -> String {
    let style = |model: &'_ crate::study::ModelResults| {
        let record = row.find(&model.base_benchmarks)?;
        Some(format!("; {}: {}", model.name, record.params.get("prompt_style")?.as_str()?))
    };
    results.models.iter().filter_map(style).collect()
}

/// The index's definition, of the first record of it.
fn quality_index(results: &StudyResults) -> String {
    let mut records = results
        .models
        .iter()
        .flat_map(|model| model.base_benchmarks.iter().chain(model.runs.iter().flat_map(|r| &r.benchmarks)));
    let found = records.find(|record| record.metric == crate::QUALITY_INDEX);
    found.map_or_else(String::new, |record| record.variant.clone())
}

fn tables<'a>(
    results: &'a StudyResults,
    summary: &Summary,
    rows: &[metrics::Row],
    of_model: fn(&ModelSummary) -> &[MetricSummary],
    definition: impl Fn(&metrics::Row) -> String,
) -> Vec<Table<'a>> {
    let names: Vec<&str> = results.models.iter().map(|model| model.name.as_str()).collect();
    names
        .chunks(MODELS_PER_TABLE)
        .zip(summary.models.chunks(MODELS_PER_TABLE))
        .map(|(names, models)| Table {
            models: names.to_vec(),
            columns: 3 * names.len(),
            rows: rows
                .iter()
                .enumerate()
                .map(|(i, row)| {
                    let cells: Vec<Cell> =
                        models.iter().flat_map(|model| cells(&of_model(model)[i], model.runs)).collect();
                    let reason = cells.iter().find_map(|cell| cell.notes.first().cloned());
                    let uniform = cells.iter().all(|cell| {
                        !cell.measured && (cell.notes.is_empty() || cell.notes.first() == reason.as_ref())
                    });
                    Row {
                        label: row.label.clone(),
                        definition: definition(row),
                        scale: row.scale,
                        n: samples(models.iter().filter_map(|model| of_model(model)[i].samples)),
                        better: prose::better(row.better),
                        reason: reason.filter(|_| uniform),
                        cells,
                    }
                })
                .collect(),
        })
        .collect()
}

/// How many samples evaluations have: one number, unless they differ.
fn samples(counts: impl Iterator<Item = u64>) -> String {
    let counts: BTreeSet<u64> = counts.collect();
    match (counts.first(), counts.last()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (Some(all), _) => all.to_string(),
        _ => "none".to_owned(),
    }
}

/// Base, fine-tuned and change of one metric of one model.
fn cells(metric: &MetricSummary, runs: u64) -> [Cell; 3] {
    let own = |ci95: Option<[f64; 2]>| ci95.map(|ends| interval(Some(ends)));
    let scored = |samples: Option<Scored>| samples.map(|s| format!("{} of {} scored", s.scored, s.total));
    let absent = |why: &Option<String>| Cell {
        text: NOT_MEASURED.to_owned(),
        notes: why.iter().cloned().collect(),
        measured: false,
    };
    let base = match &metric.base {
        Some(value) => {
            let notes = own(metric.base_ci95).into_iter().chain(scored(metric.base_scored)).collect();
            Cell { text: decimal(value.mean, METRIC), notes, measured: true }
        }
        None => absent(&metric.base_not_measured),
    };
    let fine_tuned = match &metric.fine_tuned {
        Some(spread) => {
            let range = format!("{} to {}", decimal(spread.min, METRIC), decimal(spread.max, METRIC));
            let mut notes = Vec::new();
            if spread.runs > 1 {
                notes.push(range);
            } else {
                notes.extend(own(metric.fine_tuned_ci95));
            }
            if spread.runs < runs {
                notes.push(format!("{} of {runs} runs", spread.runs));
            }
            notes.extend(scored(metric.fine_tuned_scored));
            Cell { text: decimal(spread.mean, METRIC), notes, measured: true }
        }
        None => absent(&metric.fine_tuned_not_measured),
    };
    let change = match metric.change {
        Some(change) => {
            let marks = MARK.repeat(metric.compared.map_or(0, |compared| compared.marks));
            let text = format!("{}{marks}", signed(change, METRIC));
            let several = metric.compared.filter(|compared| compared.runs > 1);
            let differ = several.map(|found| format!("{} of {} runs differ", found.significant, found.runs));
            let common =
                metric.change_scored.map(|both| format!("{} of {} in both", both.scored, both.total));
            let interval = metric.change_ci95.map_or_else(|| "no interval".to_owned(), signed_interval);
            let interval = metric.compared.map(|_| interval);
            let notes = interval.into_iter().chain(differ).chain(common).collect();
            Cell { text, notes, measured: true }
        }
        None if metric.base.is_some() && metric.fine_tuned.is_some() => {
            Cell { text: "undefined".to_owned(), notes: Vec::new(), measured: true }
        }
        None => Cell { text: NOT_MEASURED.to_owned(), notes: Vec::new(), measured: false },
    };
    [base, fine_tuned, change]
}

/// A comparison of two evaluations.
#[derive(Debug, Serialize)]
pub(super) struct ComparisonLine {
    label: String,
    first: String,
    second: String,
    difference: String,
    interval: String,
    p_value: String,
    p_holm: String,
    marks: String,
    n: usize,
    left_out: usize,
}

/// Every comparison of the study in its order.
pub(super) fn comparisons(results: &StudyResults, summary: &Summary) -> Vec<ComparisonLine> {
    let name = |contestant: &Contestant| match contestant.seed {
        None => format!("{}, base", contestant.model),
        Some(seed) => format!("{}, seed {seed}", contestant.model),
    };
    let line = |found: &StudyComparison| ComparisonLine {
        label: metrics::label_in(results, &found.comparison.metric, &found.variant),
        first: name(&found.baseline),
        second: name(&found.candidate),
        difference: signed(found.comparison.difference, METRIC),
        interval: interval(found.comparison.ci95),
        p_value: decimal(found.comparison.p_value, P_VALUE),
        p_holm: decimal(found.p_holm, P_VALUE),
        marks: MARK.repeat(summary.significance.marks(found.p_holm)),
        n: found.comparison.n,
        left_out: found.comparison.n_left_out,
    };
    results.comparisons.iter().map(line).collect()
}

fn signed_interval([low, high]: [f64; 2]) -> String {
    format!("{} to {}", signed(low, METRIC), signed(high, METRIC))
}

fn interval(ends: Option<[f64; 2]>) -> String {
    match ends {
        Some([low, high]) => format!("{} to {}", decimal(low, METRIC), decimal(high, METRIC)),
        None => "none".to_owned(),
    }
}

/// An encoder of texts, and the metrics that it served.
#[derive(Debug, Serialize)]
pub(super) struct Encoder<'a> {
    name: &'a str,
    metrics: String,
}

/// The encoders of the study in the order in which records name them.
pub(super) fn encoders(results: &StudyResults) -> Vec<Encoder<'_>> {
    let records =
        results.models.iter().flat_map(|m| m.base.iter().chain(m.runs.iter().flat_map(|run| &run.metrics)));
    let mut served: Vec<(&str, Vec<String>)> = Vec::new();
    for record in records {
        let Some(name) = record.params.get("encoder").and_then(Value::as_str) else { continue };
        let label = metrics::label(&record.metric);
        match served.iter_mut().find(|(other, _)| *other == name) {
            Some((_, labels)) if labels.contains(&label) => {}
            Some((_, labels)) => labels.push(label),
            None => served.push((name, vec![label])),
        }
    }
    served.into_iter().map(|(name, labels)| Encoder { name, metrics: labels.join("; ") }).collect()
}

/// Every record of the study, base models before their runs.
pub(super) fn lines(results: &StudyResults) -> Vec<Line<'_>> {
    let mut rows = Vec::new();
    for model in &results.models {
        let base = model.base.iter().chain(&model.base_benchmarks).map(|record| ("base".to_owned(), record));
        let tuned = model.runs.iter().flat_map(|run| {
            let records = run.metrics.iter().chain(&run.benchmarks);
            records.map(move |record| (format!("seed {}", run.seed), record))
        });
        rows.extend(base.chain(tuned).map(|(state, record)| line(results, &model.name, state, record)));
    }
    rows
}

fn line<'a>(results: &StudyResults, model: &'a str, state: String, record: &'a Record) -> Line<'a> {
    Line {
        model,
        state,
        label: metrics::label_in(results, &record.metric, &record.variant),
        variant: &record.variant,
        value: match (record.value, &record.not_measured) {
            (Some(value), _) => decimal(value, METRIC),
            (None, Some(reason)) => format!("{NOT_MEASURED}: {reason}"),
            (None, None) => NOT_MEASURED.to_owned(),
        },
        interval: interval(record.ci95),
        scored: record.n_scored,
        total: record.n_total,
        method: &record.ci_method,
    }
}

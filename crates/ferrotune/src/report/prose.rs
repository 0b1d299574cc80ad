//! What a study found, in sentences. They state numbers of the results and the summary, and claim nothing beyond them.

use ferrotune_eval::Record;

use super::{
    measured::MARK,
    metrics::Better,
    number::{decimal, signed},
    summary::{BENCHMARKS, Duration, METRICS, MetricSummary, ModelSummary, Records, Spread, Summary},
};
use crate::study::{ModelResults, RunResults, StudyResults};

/// Digits of losses.
pub(super) const LOSS: usize = 4;
/// Digits of metrics; the same for all, so that columns align at the point.
pub(super) const METRIC: usize = 3;
/// Digits of epochs.
pub(super) const EPOCH: usize = 2;
/// Digits of seconds.
pub(super) const SECONDS: usize = 1;
/// Metrics that the summary at the top speaks of, at most; the table has all.
const MOST_METRICS: usize = 5;

/// What became of one model.
pub(super) fn findings(model: &ModelResults, summary: &ModelSummary, confidence: u64) -> Vec<String> {
    let metrics = summary.metrics.iter().filter_map(|metric| change(model, &METRICS, metric, confidence));
    let benchmarks = summary.benchmarks.iter();
    let benchmarks = benchmarks.filter_map(|metric| change(model, &BENCHMARKS, metric, confidence));
    let mut sentences: Vec<String> =
        metrics.take(MOST_METRICS).chain(benchmarks.take(MOST_METRICS)).collect();
    if model.runs.is_empty() {
        sentences.push("It was not fine-tuned: there is no run.".to_owned());
        return sentences;
    }
    if let (Some(mean), Some(seconds)) = (&summary.mean_duration, &summary.train_seconds) {
        // Whole seconds would round a short mean out of its own range.
        let took = match seconds.mean {
            short if short < 60.0 => format!("{}\u{a0}s", decimal(short, SECONDS)),
            _ => duration(mean),
        };
        sentences.push(format!("Training took {took}{}.", over_seeds(seconds, SECONDS, "\u{a0}s")));
    }
    if let (Some(first), Some(last)) = (&summary.first_validation_loss, &summary.validation_loss) {
        let verb = verb(first.mean, last.mean, LOSS);
        let from = decimal(first.mean, LOSS);
        let to = decimal(last.mean, LOSS);
        sentences.push(match verb {
            "stayed" => format!("Validation loss stayed at {to}{}.", over_seeds(last, LOSS, "")),
            verb => format!("Validation loss {verb} from {from} to {to}{}.", over_seeds(last, LOSS, "")),
        });
    }
    sentences.push(overfitting_in_short(model, summary));
    sentences
}

/// Which metrics of the study nobody measured, and why.
pub(super) fn not_measured(summary: &Summary) -> Option<String> {
    let mut by_reason: Vec<(&str, Vec<&str>)> = Vec::new();
    let all = |model: &'_ ModelSummary| model.metrics.iter().chain(&model.benchmarks).cloned().collect();
    let models: Vec<Vec<MetricSummary>> = summary.models.iter().map(all).collect();
    for (i, first) in models.first().into_iter().flatten().enumerate() {
        let cells: Vec<&MetricSummary> = models.iter().map(|metrics| &metrics[i]).collect();
        let absent = |m: &MetricSummary| m.base.is_none() && m.fine_tuned.is_none();
        let (true, Some(reason)) = (cells.iter().all(|m| absent(m)), &first.base_not_measured) else {
            continue;
        };
        match by_reason.iter_mut().find(|(other, _)| other == reason) {
            Some((_, labels)) => labels.push(&first.label),
            None => by_reason.push((reason, vec![&first.label])),
        }
    }
    let groups: Vec<String> =
        by_reason.iter().map(|(reason, labels)| format!("{} ({reason})", labels.join("; "))).collect();
    (!groups.is_empty()).then(|| format!("Not measured: {}.", groups.join("; ")))
}

/// Whether and where each run of a model overfits.
pub(super) fn overfitting(model: &ModelResults) -> String {
    if model.runs.is_empty() {
        return "There is no run, so nothing can overfit.".to_owned();
    }
    if model.runs.iter().all(|run| run.validation_curve.is_empty()) {
        return "Whether it overfits is unknown: validation loss was not measured.".to_owned();
    }
    let looked_at = model.runs.iter().all(|run| !run.validation_curve.is_empty());
    if model.runs.len() > 1 && looked_at && model.runs.iter().all(|run| run.overfitting.is_none()) {
        return format!("None of the runs overfits ({}).", seeds(model));
    }
    let sentences: Vec<String> = model.runs.iter().map(overfitting_of_run).collect();
    sentences.join(" ")
}

/// The name of a direction, for readers of a table.
pub(super) fn better(better: Option<Better>) -> &'static str {
    match better {
        Some(Better::Higher) => "higher is better",
        Some(Better::Lower) => "lower is better",
        None => "",
    }
}

/// What the marks mean, if anything was compared.
pub(super) fn marks(summary: &Summary) -> Option<String> {
    let super::Significance { thresholds, comparisons } = summary.significance;
    let legend: Vec<String> =
        (1..).zip(thresholds).map(|(count, p)| format!("{} p < {p}", MARK.repeat(count))).collect();
    (comparisons > 0).then(|| {
        format!(
            "Marks: {} for every run against its base on the same records (paired permutation test, p-values corrected by \
             Holm's rule for all {comparisons} comparisons of this study).",
            legend.join(", ")
        )
    })
}

/// A time as people say it.
pub(super) fn duration(time: &Duration) -> String {
    let mut parts = Vec::new();
    if time.hours > 0 {
        parts.push(format!("{}\u{a0}h", time.hours));
    }
    if time.hours > 0 || time.minutes > 0 {
        parts.push(format!("{}\u{a0}min", time.minutes));
    }
    parts.push(format!("{}\u{a0}s", time.seconds));
    parts.join(" ")
}

/// What was measured for the report's first lines: models, seeds, time.
pub(super) fn scope(results: &StudyResults, summary: &Summary) -> String {
    let seeds = results.models.first().map_or_else(|| "no model".to_owned(), seeds);
    format!("Finished {} after {}; {seeds}.", results.finished, duration(&summary.duration))
}

fn seeds(model: &ModelResults) -> String {
    let seeds: Vec<String> = model.runs.iter().map(|run| run.seed.to_string()).collect();
    match seeds.len() {
        0 => "no fine-tuning run".to_owned(),
        1 => format!("seed {}", seeds[0]),
        _ => format!("seeds {}", seeds.join(", ")),
    }
}

fn overfitting_of_run(run: &RunResults) -> String {
    match run.overfitting {
        _ if run.validation_curve.is_empty() => {
            format!("Seed {}: validation loss was not measured.", run.seed)
        }
        None => format!("Seed {} does not overfit.", run.seed),
        Some(at) => format!(
            "Seed {} overfits after step {} (epoch {}): validation loss is {} there and {} at the end.",
            run.seed,
            at.step,
            decimal(at.epoch, EPOCH),
            decimal(at.lowest_loss, LOSS),
            decimal(at.final_loss, LOSS),
        ),
    }
}

fn overfitting_in_short(model: &ModelResults, summary: &ModelSummary) -> String {
    let earliest = model.runs.iter().filter_map(|run| run.overfitting).min_by_key(|at| at.step);
    let when = |epoch: f64, step: u64| format!("after step {step} (epoch {})", decimal(epoch, EPOCH));
    match earliest {
        _ if model.runs.iter().all(|run| run.validation_curve.is_empty()) => overfitting(model),
        None if summary.runs == 1 => "It does not overfit.".to_owned(),
        None => format!("None of {} runs overfits.", summary.runs),
        Some(at) if summary.runs == 1 => format!("It overfits {}.", when(at.epoch, at.step)),
        Some(at) => format!(
            "{} of {} runs {}, the earliest {}.",
            summary.overfitting.runs,
            summary.runs,
            if summary.overfitting.runs == 1 { "overfits" } else { "overfit" },
            when(at.epoch, at.step),
        ),
    }
}

/// `Exact Match rose from a (n = .., 95 % interval ..) to b (..)`, if both were measured.
fn change(
    model: &ModelResults,
    records: &Records,
    metric: &MetricSummary,
    confidence: u64,
) -> Option<String> {
    let (base, tuned) = (metric.base?, metric.fine_tuned?);
    let find = |records: &'_ [Record]| {
        let of_metric = |r: &&Record| {
            r.metric == metric.metric && metric.variant.as_ref().is_none_or(|variant| *variant == r.variant)
        };
        records.iter().find(of_metric).cloned()
    };
    let sample = |record: Option<Record>| match record {
        Some(Record { n_scored, ci95: Some([low, high]), .. }) => format!(
            " (n\u{a0}=\u{a0}{n_scored}, {confidence}\u{a0}% interval {} to {})",
            decimal(low, METRIC),
            decimal(high, METRIC)
        ),
        Some(record) => format!(" (n\u{a0}=\u{a0}{})", record.n_scored),
        None => String::new(),
    };
    let before = sample(find((records.base)(model)));
    let after = if tuned.runs > 1 {
        over_seeds(&tuned, METRIC, "")
    } else {
        sample(
            model
                .runs
                .iter()
                .find_map(|run| find((records.run)(run)).filter(|record| record.value.is_some())),
        )
    };
    let (from, to) = (decimal(base.mean, METRIC), decimal(tuned.mean, METRIC));
    let label = &metric.label;
    let within = find((records.base)(model))
        .and_then(|record| record.ci95)
        .is_some_and(|[low, high]| low <= tuned.mean && tuned.mean <= high);
    if let (Some(_), Some(change)) = (metric.change_scored, metric.change) {
        // The values are over other samples than their tested difference, so they do not say which way it goes.
        let found = match metric.compared {
            Some(compared) if compared.significant == 0 => {
                ", which the tests do not tell from chance".to_owned()
            }
            Some(compared) if compared.marks == 0 => format!(
                "; {} of {} runs differ from the base by more than chance",
                compared.significant, compared.runs
            ),
            _ => String::new(),
        };
        return Some(format!(
            "{label} went from {from}{before} to {to}{after}: {} on the samples that both have a score on{found}.",
            signed(change, METRIC)
        ));
    }
    Some(match (verb(base.mean, tuned.mean, METRIC), metric.compared) {
        ("stayed", _) => format!("{label} stayed at {from}{before}."),
        // A direction would say more than the numbers do.
        (_, Some(compared)) if compared.significant == 0 => {
            format!(
                "{label} went from {from}{before} to {to}{after}, which the tests do not tell from chance."
            )
        }
        (_, Some(compared)) if compared.marks == 0 => format!(
            "{label} went from {from}{before} to {to}{after}; {} of {} runs differ from the base by more than chance.",
            compared.significant, compared.runs
        ),
        (_, None) if within => {
            format!("{label} went from {from}{before} to {to}{after}, within the base's interval.")
        }
        (verb, _) => format!("{label} {verb} from {from}{before} to {to}{after}."),
    })
}

/// The direction as it is seen in the numbers that are printed.
fn verb(from: f64, to: f64, digits: usize) -> &'static str {
    if decimal(from, digits) == decimal(to, digits) {
        "stayed"
    } else if to > from {
        "rose"
    } else {
        "fell"
    }
}

fn over_seeds(spread: &Spread, digits: usize, unit: &str) -> String {
    if spread.runs < 2 {
        return String::new();
    }
    if spread.mean.is_infinite() {
        return format!(" (mean of {} seeds)", spread.runs);
    }
    format!(
        " (mean of {} seeds, {} to {}{unit})",
        spread.runs,
        decimal(spread.min, digits),
        decimal(spread.max, digits)
    )
}

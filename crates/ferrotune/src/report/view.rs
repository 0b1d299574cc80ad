//! The report as rows of text, in the order of the page; templates only arrange them.

use serde::Serialize;

use super::{
    figure, judging, measured,
    number::decimal,
    prose::{self, SECONDS},
    summary::{ModelSummary, Scaled, Summary, summarize},
    training,
};
use crate::study::{DataFile, ModelResults, StudyResults};

/// What a cell says where there is no number.
pub(super) const NOT_MEASURED: &str = "not measured";
/// Characters of a hash that are shown; the rest stands in `results.json`.
const SHORT_HASH: usize = 12;
/// Characters of a request, a reference or an answer that are shown; the rest stands in `results.json`. A real
/// reference can fill a page on paper, beside answers that are cut at a few dozen tokens.
const SHORT_TEXT: usize = 500;

#[derive(Debug, Serialize)]
pub(super) struct View<'a> {
    title: &'a str,
    description: &'a str,
    scope: String,
    numbering: super::Numbering,
    confidence: u64,
    findings: Vec<Finding<'a>>,
    not_measured: Option<String>,
    panels: Vec<PanelView>,
    legend: Vec<LegendEntry<'a>>,
    logarithmic: bool,
    overfitting: Vec<Named<'a, String>>,
    losses: Vec<Named<'a, Vec<training::LossRow>>>,
    times: Vec<Named<'a, Vec<training::TimeRow>>>,
    device_memory: bool,
    metrics: Vec<measured::Table<'a>>,
    benchmarks: Vec<measured::Table<'a>>,
    judging: Option<judging::Judging<'a>>,
    failures: judging::Failures<'a>,
    encoders: Vec<measured::Encoder<'a>>,
    answers: Vec<Named<'a, Vec<AnswerView>>>,
    files: Vec<FileRow<'a>>,
    totals: super::DataTotals,
    data: &'a crate::study::DataResults,
    /// How many of the held-out records were measured, if not all.
    measured: Option<usize>,
    encodings: Vec<Named<'a, crate::study::EncodingCounts>>,
    models: Vec<ModelRow<'a>>,
    settings: &'a [(String, String)],
    environment: Vec<(&'static str, String)>,
    measurements: Vec<measured::Line<'a>>,
    comparisons: Vec<measured::ComparisonLine>,
    /// The legend of the marks, if there is a comparison.
    marks: Option<String>,
}

#[derive(Debug, Serialize)]
struct Named<'a, T> {
    name: &'a str,
    value: T,
}

#[derive(Debug, Serialize)]
struct Finding<'a> {
    name: &'a str,
    sentences: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PanelView {
    title: String,
    svg: String,
}

#[derive(Debug, Serialize)]
struct LegendEntry<'a> {
    name: &'a str,
    training: String,
    validation: Option<String>,
}

#[derive(Debug, Serialize)]
struct AnswerView {
    request: String,
    reference: String,
    base: String,
    fine_tuned: String,
}

#[derive(Debug, Serialize)]
struct FileRow<'a> {
    file: &'a DataFile,
    hash: &'a str,
    dropped: u64,
}

#[derive(Debug, Serialize)]
struct ModelRow<'a> {
    model: &'a ModelResults,
    base_hash: &'a str,
    tokenizer_hash: &'a str,
    template_hash: &'a str,
    parameters: String,
    active: String,
    trainable: String,
    percent: String,
}

impl<'a> View<'a> {
    pub(super) fn new(results: &'a StudyResults) -> Self {
        let summary = summarize(results);
        let both = || results.models.iter().zip(&summary.models);
        let device_memory = both().any(|(_, s)| s.largest_device_gib.is_some());
        Self {
            title: &results.title,
            description: &results.description,
            scope: prose::scope(results, &summary),
            numbering: summary.numbering,
            confidence: summary.confidence_percent,
            findings: both()
                .map(|(model, s)| Finding {
                    name: &model.name,
                    sentences: prose::findings(model, s, summary.confidence_percent),
                })
                .collect(),
            not_measured: prose::not_measured(&summary),
            panels: figure::panels(results, &summary)
                .into_iter()
                .map(|panel| PanelView { title: panel.title, svg: panel.svg })
                .collect(),
            legend: legend(results),
            logarithmic: summary.figure.losses.as_ref().is_some_and(|axis| axis.logarithmic),
            overfitting: named(results, prose::overfitting),
            losses: both()
                .map(|(model, s)| Named { name: &model.name, value: training::losses(model, s) })
                .collect(),
            times: both()
                .map(|(model, s)| Named { name: &model.name, value: training::times(model, s) })
                .collect(),
            device_memory,
            metrics: measured::metrics(results, &summary),
            benchmarks: measured::benchmarks(results, &summary),
            judging: judging::judging(results),
            failures: judging::failures(results),
            encoders: measured::encoders(results),
            answers: named(results, |model| model.answers.iter().map(answer).collect()),
            files: file_rows(results, &summary),
            totals: summary.data.clone(),
            data: &results.data,
            measured: measured_records(results),
            encodings: named(results, |model| model.encoding),
            models: both().map(|(model, s)| model_row(model, s)).collect(),
            settings: &results.settings,
            environment: environment(results, &summary),
            measurements: measured::lines(results),
            comparisons: measured::comparisons(results, &summary),
            marks: prose::marks(&summary),
        }
    }
}

fn named<'a, T>(results: &'a StudyResults, value: impl Fn(&'a ModelResults) -> T) -> Vec<Named<'a, T>> {
    results.models.iter().map(|model| Named { name: &model.name, value: value(model) }).collect()
}

fn legend(results: &StudyResults) -> Vec<LegendEntry<'_>> {
    results
        .models
        .iter()
        .enumerate()
        .filter(|(_, model)| !model.runs.is_empty())
        .map(|(i, model)| {
            let swatches = figure::swatches(i);
            let validated = model.runs.iter().any(|run| !run.validation_curve.is_empty());
            LegendEntry {
                name: &model.name,
                training: swatches.training,
                validation: validated.then_some(swatches.validation),
            }
        })
        .collect()
}

fn answer(answer: &crate::study::Answer) -> AnswerView {
    AnswerView {
        request: beginning(&answer.request, SHORT_TEXT),
        reference: beginning(&answer.reference, SHORT_TEXT),
        base: beginning(&answer.base, SHORT_TEXT),
        fine_tuned: beginning(&answer.fine_tuned, SHORT_TEXT),
    }
}

/// The state of a model that an evaluation is of.
pub(super) fn state(seed: Option<u64>) -> String {
    seed.map_or_else(|| "base".to_owned(), |seed| format!("seed {seed}"))
}

/// The text, cut between words where it has more than so many characters.
pub(super) fn beginning(text: &str, characters: usize) -> String {
    let Some((end, _)) = text.char_indices().nth(characters) else { return text.to_owned() };
    let end = text[..end].rfind(char::is_whitespace).unwrap_or(end);
    format!("{} […]", text[..end].trim_end())
}

/// How many held-out records were measured, where that is not all of them.
fn measured_records(results: &StudyResults) -> Option<usize> {
    let measured =
        results.models.iter().flat_map(|model| &model.base).map(|record| record.run.dataset.n_rows).max();
    measured.filter(|&measured| measured < results.data.split.test)
}

fn file_rows<'a>(results: &'a StudyResults, summary: &Summary) -> Vec<FileRow<'a>> {
    let files = results.data.files.iter().zip(&summary.data.dropped_per_file);
    files.map(|(file, &dropped)| FileRow { file, hash: short(&file.sha256), dropped }).collect()
}

fn model_row<'a>(model: &'a ModelResults, summary: &ModelSummary) -> ModelRow<'a> {
    ModelRow {
        model,
        base_hash: short(&model.base_sha256),
        tokenizer_hash: short(&model.tokenizer_sha256),
        template_hash: short(&model.template.sha256),
        parameters: weights(&summary.parameters),
        active: weights(&summary.active_parameters),
        trainable: weights(&summary.trainable_parameters),
        percent: decimal(summary.trainable_percent, 2),
    }
}

fn environment(results: &StudyResults, summary: &Summary) -> Vec<(&'static str, String)> {
    let environment = &results.environment;
    vec![
        ("Ferrotune", environment.ferrotune.clone()),
        ("libtorch", environment.libtorch.clone()),
        ("System", environment.system.clone()),
        ("Processor", environment.processor.clone()),
        ("Threads", environment.threads.to_string()),
        ("Memory", format!("{}\u{a0}GiB", decimal(summary.memory_gib, 1))),
        ("Device", environment.device.clone()),
        ("Compute type", environment.dtype.clone()),
        ("Whole study", format!("{}\u{a0}s", decimal(results.seconds, SECONDS))),
    ]
}

fn weights(scaled: &Scaled) -> String {
    if scaled.unit.is_empty() {
        scaled.count.to_string()
    } else {
        format!("{}\u{a0}{}", decimal(scaled.scaled, 2), scaled.unit)
    }
}

/// The beginning of a hash, up to a whole character.
pub(super) fn short(hash: &str) -> &str {
    hash.char_indices().nth(SHORT_HASH).map_or(hash, |(end, _)| &hash[..end])
}

#[cfg(test)]
mod tests {
    use super::{SHORT_TEXT, beginning};

    #[test]
    fn long_texts_are_cut_between_words_and_say_so() {
        assert_eq!(beginning("a short answer", SHORT_TEXT), "a short answer");
        let whole = "é".repeat(SHORT_TEXT);
        assert_eq!(beginning(&whole, SHORT_TEXT), whole);
        assert_eq!(beginning(&format!("{whole}é"), SHORT_TEXT), format!("{whole} […]"));
        let words = "seven words ".repeat(SHORT_TEXT / 8);
        let cut = beginning(&words, SHORT_TEXT);
        assert!(cut.ends_with(" […]") && cut.chars().count() <= SHORT_TEXT + 4, "{cut}");
        assert!(words.starts_with(&format!("{} ", cut.trim_end_matches(" […]"))), "{cut}");
    }
}

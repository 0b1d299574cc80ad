//! The study's report: [`html`], [`markdown`], and [`write()`], which puts both beside `results.json`.
//!
//! A report is a function of [`StudyResults`]. What it prints beyond them (means over seeds, totals, rounded times, the
//! numbers on axes) is a [`Summary`], computed once by [`summarize`] and written into `results.json` under `summary`.
//! So this holds of every report, and a test holds it: *each number in the visible text, the figure included, equals
//! a number in `results.json` written with as many digits, or is part of a text in it* (a name, a setting, an
//! answer).
//!
//! The page needs nothing outside itself and runs no script. Texts of the study are escaped wherever they go.

mod axis;
mod curves;
mod error;
mod figure;
mod files;
mod judging;
mod measured;
mod metrics;
mod number;
mod prose;
mod render;
mod summary;
mod training;
mod view;

use std::path::{Path, PathBuf};

pub use axis::Axis;
pub use error::ReportError;
pub use summary::{
    ComparedRuns, DataTotals, Duration, FigureAxes, MetricSummary, ModelSummary, Numbering,
    OverfittingSummary, Scaled, Scored, Significance, Spread, Summary, summarize,
};

use crate::study::{CurvePoint, StudyResults};

/// The report as a self-contained HTML page.
///
/// # Errors
/// [`ReportError::NotFinite`] if a loss or a time is infinite or not a number.
pub fn html(results: &StudyResults) -> Result<String, ReportError> {
    check(results)?;
    render::html(&view::View::new(results))
}

/// The report as GitHub Markdown: the same tables and sentences; for the figure it names the HTML page.
///
/// # Errors
/// As [`html`].
pub fn markdown(results: &StudyResults) -> Result<String, ReportError> {
    check(results)?;
    render::markdown(&view::View::new(results))
}

/// The results with their [`Summary`], as the text of `results.json`; it reads back as [`StudyResults`].
///
/// # Errors
/// As [`html`].
pub fn json(results: &StudyResults) -> Result<String, ReportError> {
    check(results)?;
    let mut value = serde_json::to_value(results)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("summary".to_owned(), serde_json::to_value(summarize(results))?);
    }
    let mut text = serde_json::to_string_pretty(&value)?;
    text.push('\n');
    Ok(text)
}

/// Where the parts of a report were written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The HTML page.
    pub html: PathBuf,
    /// The Markdown text.
    pub markdown: PathBuf,
    /// The results.
    pub json: PathBuf,
}

/// The files of a report.
pub(crate) const FILES: [&str; 3] = ["results.json", "report.md", "report.html"];

/// Removes the report in a folder, if there is one.
///
/// # Errors
/// [`ReportError::Io`].
pub fn remove(folder: &Path) -> Result<(), ReportError> {
    for name in FILES {
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(ReportError::Io { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes `results.json`, `report.md` and `report.html` into a folder, which is made if it is missing.
///
/// ```no_run
/// use ferrotune::{report, study::StudyResults};
///
/// // The pages of an earlier study, made anew from its numbers.
/// let results: StudyResults = serde_json::from_str(&std::fs::read_to_string("runs/study/results.json")?)?;
/// let written = report::write("pages".as_ref(), &results)?;
/// assert!(written.html.ends_with("report.html"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Each file appears complete or not at all, and none before all three could be made. Files of an earlier report are
/// replaced: whether that is wanted is for the caller to decide.
///
/// # Errors
/// As [`html`]; [`ReportError::InTheWay`] if a folder has the name of one of the files; [`ReportError::Io`].
pub fn write(folder: &Path, results: &StudyResults) -> Result<Written, ReportError> {
    let [json, markdown, html] = [
        ("results.json", json(results)?),
        ("report.md", markdown(results)?),
        ("report.html", html(results)?),
    ];
    files::write_all(folder, &[&json, &markdown, &html])?;
    Ok(Written { html: folder.join(html.0), markdown: folder.join(markdown.0), json: folder.join(json.0) })
}

/// Refuses numbers that JSON and a figure have no place for.
fn check(results: &StudyResults) -> Result<(), ReportError> {
    let finite = |field: String, found: f64| {
        if found.is_finite() { Ok(()) } else { Err(ReportError::NotFinite { field, found }) }
    };
    finite("seconds".to_owned(), results.seconds)?;
    for (m, model) in results.models.iter().enumerate() {
        for (r, run) in model.runs.iter().enumerate() {
            let at = |field: &str| format!("models[{m}].runs[{r}].{field}");
            let fields = [
                ("epochs", run.epochs),
                ("train_seconds", run.train_seconds),
                ("train_loss", run.train_loss),
                ("validation_loss", run.validation_loss.unwrap_or(0.0)),
                ("tokens_per_second", run.tokens_per_second),
                ("supervised_tokens_per_second", run.supervised_tokens_per_second),
            ];
            for (field, found) in fields {
                finite(at(field), found)?;
            }
            let curve = |name: &str, points: &[CurvePoint]| {
                points.iter().enumerate().try_for_each(|(i, point)| {
                    finite(at(&format!("{name}[{i}].epoch")), point.epoch)?;
                    finite(at(&format!("{name}[{i}].loss")), point.loss)
                })
            };
            curve("training_curve", &run.training_curve)?;
            curve("validation_curve", &run.validation_curve)?;
            if let Some(point) = run.overfitting {
                let fields = [
                    ("overfitting.epoch", point.epoch),
                    ("overfitting.lowest_loss", point.lowest_loss),
                    ("overfitting.final_loss", point.final_loss),
                ];
                for (field, found) in fields {
                    finite(at(field), found)?;
                }
            }
        }
        let of_runs = model.runs.iter().flat_map(|run| run.metrics.iter().chain(&run.benchmarks));
        for record in model.base.iter().chain(&model.base_benchmarks).chain(of_runs) {
            let field = |what: &str| format!("models[{m}]: {what} of `{}`", record.metric);
            if let Some(value) = record.value.filter(|value| value.is_nan()) {
                return Err(ReportError::NotFinite { field: field("value"), found: value });
            }
            for end in record.ci95.into_iter().flatten() {
                finite(field("interval"), end)?;
            }
            finite(field("standard error"), record.stderr.unwrap_or(0.0))?;
        }
    }
    Ok(())
}

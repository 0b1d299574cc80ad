//! Tasks by name.

use std::path::{Path, PathBuf};

use super::{Task, gpqa, gsm8k, human_eval, math, mgsm, mmlu};
use crate::{Error, Result, sandbox::SandboxConfig};

/// What a user may change about a task. What changes nothing in a variant is refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskSettings {
    /// How many examples precede a question; what the variant has where absent.
    pub shots: Option<usize>,
    /// The file or folder that examples are taken from, where they do not lie beside the documents.
    pub examples: Option<PathBuf>,
    /// The subjects or languages to ask about; all where empty.
    pub parts: Vec<String>,
    /// Whether files must have as many rows as the published ones.
    pub rows: RowCount,
    /// The most tokens of an answer; what the variant has where absent.
    pub max_new_tokens: Option<usize>,
    /// How many answers are drawn for each question, where a task draws several; what the variant has where absent.
    pub answers: Option<usize>,
    /// At which temperature they are drawn, where a task draws several; what the variant has where absent.
    pub temperature: Option<f64>,
    /// Whether code that a model wrote may be run, for tasks that run it.
    pub code_execution: CodeExecution,
}

/// Whether code that a model wrote may be run on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CodeExecution {
    /// Tasks that need it cannot be opened.
    #[default]
    Refused,
    /// In a [`Sandbox`](crate::sandbox::Sandbox), or not at all where there is none that holds.
    Allowed(SandboxConfig),
}

/// How many rows a file may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowCount {
    /// Those of the published data, so that a half-downloaded file cannot pass for the benchmark.
    #[default]
    Published,
    /// Any number, at least one.
    Any,
}

/// A task that [`open_task`] knows.
#[derive(Clone, Copy, Debug)]
pub struct TaskEntry {
    /// Its name.
    pub name: &'static str,
    /// What it measures, and which files it reads.
    pub summary: &'static str,
    /// Its variants with what each is, the default first. One is asked for as `name:variant`.
    pub variants: &'static [(&'static str, &'static str)],
    open: Open,
}

/// Opens the variant, which is one of the entry's, over the files of a path.
type Open = fn(&'static str, &Path, &TaskSettings) -> Result<Box<dyn Task>>;

const TASKS: &[TaskEntry] = &[
    TaskEntry { name: mmlu::NAME, summary: mmlu::SUMMARY, variants: mmlu::VARIANTS, open: mmlu::open },
    TaskEntry { name: gpqa::NAME, summary: gpqa::SUMMARY, variants: gpqa::VARIANTS, open: gpqa::open },
    TaskEntry { name: math::NAME, summary: math::SUMMARY, variants: math::VARIANTS, open: math::open },
    TaskEntry { name: mgsm::NAME, summary: mgsm::SUMMARY, variants: mgsm::VARIANTS, open: mgsm::open },
    TaskEntry { name: gsm8k::NAME, summary: gsm8k::SUMMARY, variants: gsm8k::VARIANTS, open: gsm8k::open },
    TaskEntry {
        name: human_eval::NAME,
        summary: human_eval::SUMMARY,
        variants: human_eval::VARIANTS,
        open: human_eval::open,
    },
];

/// The tasks there are.
#[must_use]
pub fn tasks() -> &'static [TaskEntry] {
    TASKS
}

/// Opens a task over the files of `data`, which is a file or a folder.
///
/// `name` is the task's, or `name:variant`.
///
/// # Errors
/// [`Error::UnknownTask`], [`Error::UnknownVariant`] with what there is; [`Error::Read`], [`Error::TaskData`] for files
/// that are not the benchmark's; [`Error::Setting`]; [`Error::UnusedSetting`] for a setting without effect; [`Error::CodeExecutionNotAllowed`] and [`Error::Isolation`] for a task
/// that runs code.
pub fn open_task(name: &str, data: &Path, settings: &TaskSettings) -> Result<Box<dyn Task>> {
    let (task, variant) = name.split_once(':').map_or((name, None), |(task, variant)| (task, Some(variant)));
    let Some(entry) = TASKS.iter().find(|entry| entry.name == task) else {
        let known = TASKS.iter().map(|entry| entry.name.to_owned()).collect();
        return Err(Error::UnknownTask { name: task.to_owned(), known });
    };
    let found = entry.variants.iter().find(|(known, _)| variant.is_none_or(|asked| asked == *known));
    let Some((found, _)) = found else {
        return Err(Error::UnknownVariant {
            task: task.to_owned(),
            variant: variant.unwrap_or_default().to_owned(),
            known: entry.variants.iter().map(|(known, _)| (*known).to_owned()).collect(),
        });
    };
    (entry.open)(found, data, settings)
}

//! What a user changed about a task: noted in the records, said in the variant's name, refused where it changes nothing.

use std::fmt::Display;

use serde_json::{Map, Value};

use super::{CodeExecution, TaskInfo, TaskSettings};
use crate::{Dataset, Error, Result};

/// A variant with the settings it asks by, as they are noted.
#[derive(Debug)]
pub(super) struct Asking {
    task: &'static str,
    variant: &'static str,
    description: &'static str,
    changes: Vec<String>,
    params: Map<String, Value>,
}

/// A setting of [`TaskSettings`] with the reason that a variant has no use for it.
pub(super) type Unused = (&'static str, &'static str);

impl Asking {
    /// The variant, which is one of `variants`, as it is by itself.
    pub(super) fn new(
        task: &'static str,
        variants: &[(&'static str, &'static str)],
        variant: &'static str,
    ) -> Self {
        let description = variants.iter().find(|(name, _)| *name == variant).map_or("", |(_, what)| what);
        Self { task, variant, description, changes: Vec::new(), params: Map::new() }
    }

    /// A setting as the variant has it, or as the user wants it.
    pub(super) fn setting<T>(&mut self, name: &str, usual: T, wanted: Option<T>) -> T
    where
        T: Copy + PartialEq + Display + Into<Value>,
    {
        let value = wanted.unwrap_or(usual);
        if value != usual {
            self.changes.push(format!("{name} {value} instead of {usual}"));
        }
        self.note(name, value);
        value
    }

    /// How many examples precede a question; with none, a place to take them from is refused.
    pub(super) fn shots(&mut self, usual: usize, settings: &TaskSettings) -> Result<usize> {
        let shots = self.setting("n_shot", usual, settings.shots);
        if shots == 0 {
            self.refuse(settings, &[("examples", "no example is shown")])?;
        }
        Ok(shots)
    }

    /// The parts of the benchmark that are asked about, all of them where none was named.
    pub(super) fn parts(&mut self, name: &str, named: &[String]) {
        if !named.is_empty() {
            self.changes.push(format!("{name} {} instead of all", named.join(", ")));
        }
    }

    /// Notes a setting that nobody can change.
    pub(super) fn note(&mut self, name: &str, value: impl Into<Value>) {
        self.params.insert(name.to_owned(), value.into());
    }

    /// Refuses what the user set in vain, so that no record is taken for what it is not.
    pub(super) fn refuse(&self, settings: &TaskSettings, unused: &[Unused]) -> Result<()> {
        let is_set = |name| match name {
            "shots" => settings.shots.is_some_and(|shots| shots > 0),
            "examples" => settings.examples.is_some(),
            "parts" => !settings.parts.is_empty(),
            "max_new_tokens" => settings.max_new_tokens.is_some(),
            "answers" => settings.answers.is_some(),
            "temperature" => settings.temperature.is_some(),
            _ => settings.code_execution != CodeExecution::Refused,
        };
        match unused.iter().find(|(name, _)| is_set(name)) {
            None => Ok(()),
            Some(&(setting, reason)) => Err(Error::UnusedSetting {
                task: self.task,
                variant: self.variant.to_owned(),
                setting,
                reason,
            }),
        }
    }

    /// What the task measures on `dataset`: the variant's name with what it is and what was changed of it.
    pub(super) fn info(self, dataset: Dataset) -> TaskInfo {
        let mut variant = format!("{} ({})", self.variant, self.description);
        if !self.changes.is_empty() {
            variant = format!("{variant}, changed: {}", self.changes.join(", "));
        }
        let name = self.task.to_owned();
        TaskInfo { name, variant, asked: self.params, params: Map::new(), dataset }
    }
}

/// In tasks that ask for one greedy answer and run no code.
pub(super) const GREEDY_TEXT: [Unused; 3] = [
    ("answers", "one answer is asked for"),
    ("temperature", "the most probable answer is asked for"),
    ("code_execution", "no code is run"),
];

/// In tasks of one part.
pub(super) const NO_PARTS: Unused = ("parts", "it has no parts to choose from");

/// Where choices are scored.
pub(super) const NO_TEXT: Unused = ("max_new_tokens", "no text is generated");

//! A benchmark as study files and flags name it.

use std::path::PathBuf;

use ferrotune_eval::task::{CodeExecution, RowCount, Task, TaskSettings, Turns, open_task};
use serde::{Deserialize, Serialize};

use crate::{Chat, Result};

/// A benchmark, its files, and how it is asked. What is absent is as the variant has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BenchmarkConfig {
    /// The task, or `name:variant`.
    pub name: String,
    /// Its file or folder.
    pub data: PathBuf,
    /// Only the first documents, of each language (MGSM) or subject (MMLU, MATH); records say so.
    pub limit: Option<usize>,
    /// Examples before each question.
    pub shots: Option<usize>,
    /// Where examples are, if not beside the data.
    pub examples: Option<PathBuf>,
    /// Subjects or languages to ask about; all where empty.
    pub parts: Vec<String>,
    /// Whether data may have another number of rows than the published files.
    pub any_row_count: bool,
    /// The most tokens of an answer.
    pub max_new_tokens: Option<usize>,
    /// Answers drawn for each question, where a task draws several.
    pub answers: Option<usize>,
    /// At which temperature they are drawn.
    pub temperature: Option<f64>,
    /// Whether programs that a model writes may run, isolated, for tasks that measure them.
    pub allow_code_execution: bool,
    /// Through which template questions go; the caller's default where absent.
    pub chat: Option<Chat>,
    /// Where examples go in a conversation.
    pub turns: Turns,
}

impl BenchmarkConfig {
    /// What the task is opened with.
    #[must_use]
    pub fn settings(&self) -> TaskSettings {
        TaskSettings {
            shots: self.shots,
            examples: self.examples.clone(),
            parts: self.parts.clone(),
            rows: if self.any_row_count { RowCount::Any } else { RowCount::Published },
            max_new_tokens: self.max_new_tokens,
            answers: self.answers,
            temperature: self.temperature,
            code_execution: match self.allow_code_execution {
                true => CodeExecution::Allowed(Default::default()),
                false => CodeExecution::Refused,
            },
        }
    }

    /// Opens the task over its files; isolation is tried for a task that runs code.
    ///
    /// # Errors
    /// As [`open_task`].
    pub fn open(&self) -> Result<Box<dyn Task>> {
        Ok(open_task(&self.name, &self.data, &self.settings())?)
    }
}

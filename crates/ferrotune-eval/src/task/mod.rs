//! Benchmarks as tasks: a task is opened from the files that the user has, says what a model is to be asked about each
//! document, and scores the replies.
//!
//! [`open_task`] finds a task by name; [`run_task`] asks a model, in batches, and makes records and per-sample lines;
//! [`rescore_task`] scores a written per-sample file again without a model, [`score_completions`] a file of completions.
//! [`PromptStyle`] decides how a question
//! reaches the model: as plain text, as the suites do with base checkpoints, or through a chat template.
//!
//! Every name that a score is reported under says which suite's prompt and which rule it is: the suites differ, and a
//! number without its variant means nothing. No benchmark's data is part of this crate.
//!
//! ```no_run
//! use ferrotune_eval::task::{RunOptions, TaskSettings, open_task, run_task};
//! # fn example(model: &mut dyn ferrotune_core::LanguageModel) -> Result<(), Box<dyn std::error::Error>> {
//! let task = open_task("gsm8k", "grade-school-math/data".as_ref(), &TaskSettings::default())?;
//! let options = RunOptions { limit: Some(50), ..RunOptions::default() };
//! let outcome = run_task(task.as_ref(), model, &options, &mut |progress| eprintln!("{progress}"))?;
//! println!("{:?}", outcome.records[0].value);
//! # Ok(())
//! # }
//! ```

mod data;
mod few_shot;
mod gpqa;
mod gsm8k;
mod human_eval;
mod limit;
mod math;
mod mgsm;
mod mmlu;
mod multiple_choice;
mod prompt;
mod registry;
mod rescore;
mod run;
mod scoring;
mod settings;

pub mod table;

use std::fmt;

use ferrotune_core::{Generation, GenerationLimits, Likelihood};
use serde_json::{Map, Value};

pub use few_shot::Sampler;
pub use limit::documents_within;
pub use prompt::{Example, Prompt, PromptStyle, Turns};
pub use registry::{CodeExecution, RowCount, TaskEntry, TaskSettings, open_task, tasks};
pub use rescore::{rescore_task, score_completions};
pub use run::{Progress, RunOptions, TaskOutcome, run_task};

use crate::{Dataset, Measurement, Result};

/// A benchmark with its documents; implementors provide all methods, [`part`](Task::part) where there are parts.
///
/// Documents are numbered from 0 in an order that depends on the files alone. What is asked about a document, and in
/// which order its choices stand, must not depend on which other documents are asked about.
pub trait Task: fmt::Debug + Send + Sync {
    /// What is measured, on what.
    fn info(&self) -> &TaskInfo;

    /// How many documents there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kind and the name of the part that a document below [`len`](Self::len) belongs to, such as `language` and `de`,
    /// where a limit counts in each part; see [`documents_within`].
    fn part(&self, index: usize) -> Option<(&'static str, &str)> {
        let _ = index;
        None
    }

    /// What is to be asked about a document below [`len`](Self::len).
    fn document(&self, index: usize) -> Document;

    /// Scores what a model replied, in ascending order of the documents, which may be a part of them.
    ///
    /// An error is for work that cannot go on; a reply without an answer is a failure or a zero, as the reference has it.
    fn score(&self, answered: &[Answered]) -> Result<Scores>;
}

/// What a task measures, and on what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskInfo {
    /// The task's name, as it is asked for.
    pub name: String,
    /// Whose prompt and rules these are, and what was changed of them.
    pub variant: String,
    /// Settings that shape the replies, such as `n_shot`.
    pub asked: Map<String, Value>,
    /// Settings of the scoring that change the value.
    pub params: Map<String, Value>,
    /// The files; `n_rows` counts the documents.
    pub dataset: Dataset,
}

/// One question of a benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Unique within the task, the same in every run.
    pub id: String,
    /// The part of the benchmark it belongs to: a subject, a language.
    pub group: Option<String>,
    /// The question behind it, where several documents ask the same one, in other orders or languages: their scores go
    /// together, so intervals count the question once.
    pub cluster: Option<String>,
    /// What the model is asked.
    pub request: Request,
    /// The answers that count as right, for per-sample files.
    pub references: Vec<String>,
}

/// What a model is asked about a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// How likely each of some continuations is.
    Choices {
        /// The question.
        prompt: Prompt,
        /// The continuations, without the delimiter that [`Prompt::delimiter`] puts before them.
        choices: Vec<String>,
    },
    /// An answer, or several.
    Generation {
        /// The question.
        prompt: Prompt,
        /// When an answer ends, and how it is drawn. The seed is the run's, mixed with the document's id.
        limits: GenerationLimits,
        /// How many answers are drawn; 1 unless the temperature is above 0.
        samples: usize,
    },
}

impl Request {
    /// One answer.
    pub(crate) fn answer(prompt: Prompt, limits: &GenerationLimits) -> Self {
        Self::Generation { prompt, limits: limits.clone(), samples: 1 }
    }

    /// The question of either kind.
    #[must_use]
    pub fn prompt(&self) -> &Prompt {
        match self {
            Self::Choices { prompt, .. } | Self::Generation { prompt, .. } => prompt,
        }
    }
}

/// What a model said about a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// Which document.
    pub index: usize,
    /// That document.
    pub document: Document,
    /// Digest of the prompt as the model read it.
    pub prompt_sha: String,
    /// What it said.
    pub reply: Reply,
}

impl Answered {
    /// The log-likelihood of each choice; none for a generation.
    #[must_use]
    pub fn log_likelihoods(&self) -> Vec<f64> {
        match &self.reply {
            Reply::Likelihoods(likelihoods) => likelihoods.iter().map(|l| l.log_likelihood).collect(),
            Reply::Generations(_) => Vec::new(),
        }
    }

    /// The first answer; empty where choices were scored.
    #[must_use]
    pub fn text(&self) -> &str {
        match &self.reply {
            Reply::Generations(generations) => generations.first().map_or("", |g| &g.text),
            Reply::Likelihoods(_) => "",
        }
    }
}

/// What came back for a [`Request`], of the same kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// One for each choice, in order.
    Likelihoods(Vec<Likelihood>),
    /// As many as were asked for.
    Generations(Vec<Generation>),
}

/// What a task found.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// Measurements with one sample for each answered document, in order: these fill the per-sample file.
    pub per_document: Vec<Measurement>,
    /// Other views of the same samples: by subject, means of means.
    pub aggregates: Vec<Measurement>,
}

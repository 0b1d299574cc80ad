//! Scores replies that are there already: of a per-sample file, or completions that came from elsewhere.

use std::{collections::HashMap, path::Path, time::Instant};

use ferrotune_core::{Generation, Likelihood, StopReason};
use serde_json::{Map, Value};

use super::{
    Answered, Document, Reply, Request, RunOptions, Task, TaskOutcome, documents_within, limit,
    run::{question_sha, scored},
    table::{Header, read_table},
};
use crate::{Asked, Dataset, Error, Result, Run, SampleLine, TaskDataProblem, statistics::Bootstrap};

/// The setting that tells completions that came from elsewhere.
const COMPLETIONS: &str = "completions_sha256";

/// Scores a per-sample file of this task again, without a model.
///
/// Every line must be a reply to the question that the task has under its id, asked with the settings that the task was
/// opened with, and the file must hold every document that its run asked about. The records say what the replies were made
/// with: model, tokenizer, template, seed and settings are those of the lines.
///
/// # Errors
/// [`Error::Rescore`] for lines that do not fit the task, or each other; what scoring gives.
pub fn rescore_task(task: &dyn Task, lines: &[SampleLine], bootstrap: &Bootstrap) -> Result<TaskOutcome> {
    let start = Instant::now();
    let mut written: HashMap<&str, &SampleLine> = HashMap::new();
    let mut asked: Option<(&str, &Asked)> = None;
    for line in lines {
        let known = *written.entry(&line.id).or_insert(line);
        if !same_reply(known, line) {
            return Err(misfit(&line.id, "two of its lines hold different replies"));
        }
        let Some(found) = &line.asked else {
            return Err(misfit(
                &line.id,
                "its line does not say how it was asked (`asked`), as those of a benchmark do",
            ));
        };
        if known.reference != line.reference
            || known.prompt_sha != line.prompt_sha
            || known.asked.as_ref().is_some_and(|known| known.question_sha != found.question_sha)
        {
            return Err(misfit(&line.id, "two of its lines hold different questions or right answers"));
        }
        let (first, known) = *asked.get_or_insert((&line.id, found));
        if (&known.run, &known.params) != (&found.run, &found.params) {
            return Err(misfit(
                &line.id,
                format!("it was made by another run, or with other settings, than `{first}`"),
            ));
        }
    }
    let Some((first, asked)) = asked else {
        return Err(Error::Setting {
            option: "samples",
            found: "empty".to_owned(),
            expected: "the lines of a run of this task",
        });
    };
    same_settings(task, first, asked)?;
    let limit = asked.params.get("limit").and_then(Value::as_u64);
    let indices = documents_within(task, limit.and_then(|limit| usize::try_from(limit).ok()));
    let total = indices.len();
    let mut answered = Vec::with_capacity(total);
    for index in indices {
        let document = task.document(index);
        let Some(line) = written.remove(document.id.as_str()) else {
            let problem = format!("it has no line, and the run asked about the {total} documents");
            return Err(misfit(&document.id, problem));
        };
        same_question(line, &document)?;
        let reply = reply_of(line, &document.request)?;
        let prompt_sha = line.prompt_sha.clone().unwrap_or_default();
        answered.push(Answered { index, document, prompt_sha, reply });
    }
    if let Some(id) = written.keys().min() {
        return Err(misfit(
            id,
            format!("it is none of the {total} documents of the task that the run asked about"),
        ));
    }
    let run = Run { dataset: Dataset { n_rows: total, ..task.info().dataset.clone() }, ..asked.run.clone() };
    scored(task, &answered, None, (&run, &asked.params), bootstrap, start)
}

/// Down to the bits: a number that is none equals itself here.
fn same_reply(one: &SampleLine, other: &SampleLine) -> bool {
    let bits = |line: &SampleLine| line.log_likelihoods.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    one.prediction == other.prediction
        && one.other_predictions == other.other_predictions
        && bits(one) == bits(other)
}

fn misfit(id: &str, problem: impl Into<String>) -> Error {
    Error::Rescore { id: id.to_owned(), problem: problem.into() }
}

/// Completions that came from elsewhere say nothing about how they were asked for, so only what is said is compared.
fn same_settings(task: &dyn Task, id: &str, asked: &Asked) -> Result<()> {
    for (name, expected) in &task.info().asked {
        let Some(found) = asked.params.get(name).filter(|&found| found != expected) else { continue };
        return Err(misfit(
            id,
            format!(
                "it was asked with `{name}` {found}, and the task was opened with {expected}; open it as the run did"
            ),
        ));
    }
    Ok(())
}

fn same_question(line: &SampleLine, document: &Document) -> Result<()> {
    let is_same =
        line.asked.as_ref().is_some_and(|asked| asked.question_sha == question_sha(&document.request));
    if !is_same {
        let question: String = document.request.prompt().question.chars().take(60).collect();
        return Err(misfit(
            &line.id,
            format!(
                "the task asks another question under this id, or shows other examples or choices: {question:?}…; open the \
                 task from the files and in the variant that the run had"
            ),
        ));
    }
    if line.reference != document.references {
        return Err(misfit(&line.id, "the task has another right answer to its question than the run had"));
    }
    Ok(())
}

/// What a model must have said, from a line of a per-sample file.
fn reply_of(line: &SampleLine, request: &Request) -> Result<Reply> {
    match request {
        Request::Choices { choices, .. } if line.log_likelihoods.len() == choices.len() => {
            let likelihood = |&log_likelihood: &f64| Likelihood {
                log_likelihood,
                tokens: 0,
                is_greedy: false,
                dropped: 0,
            };
            Ok(Reply::Likelihoods(line.log_likelihoods.iter().map(likelihood).collect()))
        }
        Request::Choices { choices, .. } => Err(misfit(
            &line.id,
            format!("it holds {} log-likelihoods for {} choices", line.log_likelihoods.len(), choices.len()),
        )),
        Request::Generation { samples, .. } => {
            let answers = std::iter::once(&line.prediction).chain(&line.other_predictions);
            let found = answers.clone().count();
            // Of completions that came from elsewhere there may be any number.
            let is_elsewhere =
                line.asked.as_ref().is_some_and(|asked| asked.params.contains_key(COMPLETIONS));
            if found != *samples && !is_elsewhere {
                return Err(misfit(&line.id, format!("it holds {found} answers, and {samples} were drawn")));
            }
            Ok(Reply::Generations(answers.map(|text| generation(text)).collect()))
        }
    }
}

/// Scores a file of completions that came from elsewhere: `{"task_id", "completion"}`, any number for each document, in
/// every format of [`read_table`]. The records say the file's digest, and nothing about how the completions were made.
///
/// # Errors
/// [`Error::TaskData`] for a file that is not that, that names a document the task does not have, or that lacks one of
/// those within [`RunOptions::limit`]; what scoring gives.
pub fn score_completions(task: &dyn Task, path: &Path, options: &RunOptions) -> Result<TaskOutcome> {
    let start = Instant::now();
    let name = &task.info().name;
    let table = read_table(name, path, Header::FirstRow)?;
    table.require(&["task_id", "completion"])?;
    let mut params = Map::new();
    params.insert(COMPLETIONS.to_owned(), table.sha256.clone().into());
    limit::note(task, options.limit, &mut params);
    let indices = documents_within(task, options.limit);
    let total = indices.len();
    let documents: Vec<Document> = indices.iter().map(|&index| task.document(index)).collect();
    let mut completions: HashMap<&str, Vec<Generation>> =
        documents.iter().map(|document| (document.id.as_str(), Vec::new())).collect();
    for row in &table.rows {
        let id = table.text(row, "task_id")?;
        let Some(of_document) = completions.get_mut(id) else {
            let expected = format!("one of the {total} documents of {name}");
            return Err(table.cell(row, "task_id", Some(&id.into()), &expected));
        };
        of_document.push(generation(table.text(row, "completion")?));
    }
    let missing: Vec<String> =
        completions.iter().filter(|(_, found)| found.is_empty()).map(|(id, _)| (*id).to_owned()).collect();
    if !missing.is_empty() {
        return Err(table.problem(TaskDataProblem::MissingParts {
            what: format!("of the {total} documents of {name}"),
            missing,
        }));
    }
    let mut answered = Vec::with_capacity(total);
    for (index, document) in indices.into_iter().zip(&documents) {
        let reply = Reply::Generations(completions.remove(document.id.as_str()).unwrap_or_default());
        answered.push(Answered { index, document: document.clone(), prompt_sha: String::new(), reply });
    }
    let run =
        Run { dataset: Dataset { n_rows: total, ..task.info().dataset.clone() }, ..options.run.clone() };
    scored(task, &answered, None, (&run, &params), &options.bootstrap, start)
}

/// An answer of which only the text is known.
fn generation(text: &str) -> Generation {
    Generation { text: text.to_owned(), tokens: 0, stop: StopReason::EndOfSequence, dropped: 0 }
}

//! Asking a model a benchmark, and scoring what it said again.

use std::path::{Path, PathBuf};

use ferrotune::{
    BenchmarkConfig, Chat, ScoredModel,
    core::{Tokenize as _, digest},
    eval::{
        Evaluation, Existing, Model, Run, read_samples,
        task::{PromptStyle, RunOptions, Task, TaskOutcome, documents_within, rescore_task, run_task},
        write_samples,
    },
    kind_name, weights_digest,
};

use crate::{
    Evaluated, cli,
    flags::Flags,
    texts::{comparisons, free_name},
};

/// Runs the task `name` on the model of `--model`, or on the replies of `--rescore`.
pub(crate) fn run(name: &str, flags: &Flags) -> cli::Result<Evaluated> {
    // Before a model is loaded: the files, whether a task's code may be run here, and what to compare with.
    let task = config(name, flags).open()?;
    let task = task.as_ref();
    let rescored = |path: &PathBuf| -> cli::Result<TaskOutcome> {
        Ok(rescore_task(task, &read_samples(path)?, &flags.bootstrap())?)
    };
    let baseline = flags.baseline.as_ref().map(rescored).transpose()?;
    let outcome = match (&flags.rescore, &flags.model.model) {
        (Some(_), _) if flags.limit.is_some() => {
            return Err("`--limit` changes nothing with --rescore: replies are scored as they were asked for; leave it out".into());
        }
        (Some(samples), _) => rescored(samples)?,
        (None, Some(folder)) => {
            if let Some(baseline) = &baseline {
                same_documents(baseline, documents_within(task, flags.limit()).len())?;
            }
            ask(task, folder, flags)?
        }
        (None, None) => return Err("a task is asked of a model; name one with --model".into()),
    };
    keep_if_failed(&outcome, flags)?;
    let mut evaluated = Evaluated { samples: outcome.samples, ..Evaluated::default() };
    let found = Evaluation { records: outcome.records, measurements: outcome.measurements };
    if let Some(baseline) = baseline {
        same_documents(&baseline, found.records.first().map_or(0, |record| record.n_total))?;
        let other = Evaluation { records: baseline.records, measurements: baseline.measurements };
        evaluated.comparisons =
            comparisons(&of_the_whole(&other), &of_the_whole(&found), &flags.bootstrap())?;
        evaluated.baseline = other.records;
    }
    evaluated.metrics = found.records;
    Ok(evaluated)
}

/// Both runs ask about the first documents of the task, so as many are the same ones.
fn same_documents(baseline: &TaskOutcome, asked: usize) -> cli::Result<()> {
    let of_baseline = baseline.records.first().map_or(0, |record| record.n_total);
    if of_baseline == asked {
        return Ok(());
    }
    Err(format!(
        "the baseline answers {of_baseline} documents and this run {asked}; both must answer the same ones, as with the same \
         --limit"
    )
    .into())
}

/// The measurements over all documents: comparing every subject too would cost each comparison its power.
fn of_the_whole(found: &Evaluation) -> Evaluation {
    let whole = found.measurements.iter().filter(|measurement| !measurement.metric.contains('/'));
    Evaluation { records: Vec::new(), measurements: whole.cloned().collect() }
}

/// Under `--on-failure error` a reply that cannot be scored ends the run, but not before all replies are in a file.
fn keep_if_failed(outcome: &TaskOutcome, flags: &Flags) -> cli::Result<()> {
    let Err(failure) = outcome.check(flags.on_failure) else { return Ok(()) };
    let path = match (&flags.samples, &flags.rescore) {
        (Some(path), _) => path.clone(),
        (None, Some(path)) => {
            return Err(format!("{failure}; the replies are in `{}`", path.display()).into());
        }
        (None, None) => free_name(),
    };
    write_samples(&path, &outcome.samples, Existing::Replace)?;
    Err(format!("{failure}; the replies are in `{}`, for --rescore", path.display()).into())
}

/// The benchmark as a study's file would name it. How its questions reach a model is the flags' own affair.
fn config(name: &str, flags: &Flags) -> BenchmarkConfig {
    let model = &flags.model;
    BenchmarkConfig {
        name: name.to_owned(),
        data: model.data.clone().unwrap_or_default(),
        limit: flags.limit(),
        shots: model.shots,
        examples: model.examples.clone(),
        parts: model.parts.clone(),
        any_row_count: model.any_row_count,
        max_new_tokens: model.max_new_tokens.map(|tokens| tokens as usize),
        answers: model.answers.map(|answers| answers as usize),
        temperature: model.temperature,
        allow_code_execution: model.allow_code_execution,
        ..BenchmarkConfig::default()
    }
}

fn options(flags: &Flags) -> RunOptions {
    RunOptions { limit: flags.limit(), bootstrap: flags.bootstrap(), ..RunOptions::default() }
}

fn run_of(flags: &Flags, model: Option<Model>) -> Run {
    let name = flags.model.model.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    let task = flags.model.task.as_deref().unwrap_or_default();
    let run_id = name.map_or_else(|| task.to_owned(), |name| format!("{name}/{task}"));
    Run { run_id, model, seed: flags.compute.seed, ..Run::default() }
}

fn ask(task: &dyn Task, folder: &Path, flags: &Flags) -> cli::Result<TaskOutcome> {
    let chosen = &flags.model;
    let adapter = chosen.adapter.as_deref();
    let (opened, model) = cli::load(folder, &flags.compute, &chosen.base, adapter, chosen.other)?;
    let tokenizer = cli::tokenizer(&opened)?;
    let (style, prompts) = chosen.chat.style(folder, chosen.turns.unwrap_or_default())?;
    if let Some(reason) = chosen.turns.and_then(|_| turns_without_effect(task, chosen.chat, &style)) {
        return Err(format!("`--turns` changes nothing: {reason}; leave it out").into());
    }
    let adapter_sha = match &chosen.adapter {
        None => None,
        Some(adapter) => {
            let path = adapter.join("adapter_model.safetensors");
            Some(digest::of_file(&path).map_err(|source| ferrotune::Error::Io { path, source })?)
        }
    };
    let (_, kind) = flags.compute.resolve()?;
    let scored = Model {
        base_sha: weights_digest(folder)?,
        adapter_sha,
        dtype: chosen.base.format().unwrap_or_else(|| kind_name(kind)).to_owned(),
    };
    let run = Run { tokenizer_sha: Some(tokenizer.fingerprint().to_owned()), ..run_of(flags, Some(scored)) };
    let options = RunOptions { run, style, ..options(flags) };
    let mut asked = ScoredModel::new(model.as_ref(), &tokenizer)
        .with_batch_tokens(usize::try_from(chosen.batch_tokens)?)
        .with_prompts(prompts);
    let documents = documents_within(task, options.limit).len();
    cli::say(&format!(
        "{}: {documents} of {} documents, as {}",
        task.info().name,
        task.len(),
        options.style.name()
    ));
    Ok(run_task(task, &mut asked, &options, &mut |progress| cli::say(&progress.to_string()))?)
}

/// Why it makes no difference where examples go, if it makes none.
fn turns_without_effect(task: &dyn Task, chat: Chat, style: &PromptStyle) -> Option<&'static str> {
    let shots = task.info().asked.get("n_shot").and_then(serde_json::Value::as_u64);
    match style {
        PromptStyle::Plain => Some("questions reach the model as plain text"),
        PromptStyle::Template { .. } if chat == Chat::Study => Some("the study's template has one turn"),
        PromptStyle::Template { .. } if shots == Some(0) => Some("no example is shown"),
        PromptStyle::Template { .. } => None,
    }
}

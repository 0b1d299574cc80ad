//! Asking a model a benchmark, and scoring what it said again.

use std::path::Path;

use ferrotune::{
    ScoredModel,
    core::{Tokenize as _, digest},
    eval::{
        Model, Run, read_samples,
        task::{
            CodeExecution, RowCount, RunOptions, Task, TaskOutcome, TaskSettings, open_task, rescore_task,
            run_task,
        },
    },
    kind_name, weights_digest,
};

use crate::{Evaluated, cli, flags::Flags};

/// Runs the task `name` on the model of `--model`, or on the replies of `--rescore`.
pub(crate) fn run(name: &str, flags: &Flags) -> cli::Result<Evaluated> {
    let data = flags.model.data.as_deref().unwrap_or(Path::new(""));
    // Before a model is loaded: the files, and whether a task's code may be run here.
    let task = open_task(name, data, &settings(flags))?;
    let outcome = match (&flags.rescore, &flags.model.model) {
        (Some(samples), _) => {
            let options = RunOptions { run: run_of(flags, None), ..options(flags) };
            rescore_task(task.as_ref(), &read_samples(samples)?, &options)?
        }
        (None, Some(folder)) => ask(task.as_ref(), folder, flags)?,
        (None, None) => return Err("a task is asked of a model; name one with --model".into()),
    };
    Ok(Evaluated { metrics: outcome.records, samples: outcome.samples, ..Evaluated::default() })
}

fn settings(flags: &Flags) -> TaskSettings {
    let model = &flags.model;
    TaskSettings {
        shots: model.shots,
        examples: model.examples.clone(),
        parts: model.parts.clone(),
        rows: if model.any_row_count { RowCount::Any } else { RowCount::Published },
        max_new_tokens: model.max_new_tokens.map(|tokens| tokens as usize),
        samples: model.answers.map(|answers| answers as usize),
        temperature: model.temperature,
        code_execution: match model.allow_code_execution {
            true => CodeExecution::Allowed(Default::default()),
            false => CodeExecution::Refused,
        },
    }
}

fn options(flags: &Flags) -> RunOptions {
    RunOptions {
        limit: flags.limit.map(|limit| limit as usize),
        bootstrap: flags.bootstrap(),
        on_failure: flags.on_failure,
        ..RunOptions::default()
    }
}

fn run_of(flags: &Flags, model: Option<Model>) -> Run {
    let name = flags.model.model.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    let task = flags.model.task.as_deref().unwrap_or_default();
    let run_id = name.map_or_else(|| task.to_owned(), |name| format!("{name}/{task}"));
    Run { run_id, model, seed: flags.compute.seed, ..Run::default() }
}

fn ask(task: &dyn Task, folder: &Path, flags: &Flags) -> cli::Result<TaskOutcome> {
    let chosen = &flags.model;
    let (opened, model) = cli::load(folder, &flags.compute, &chosen.base, chosen.adapter.as_deref())?;
    let tokenizer = cli::tokenizer(&opened)?;
    let (style, prompts) = chosen.chat.style(folder, chosen.turns)?;
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
        .with_batch_tokens(chosen.batch_tokens)
        .with_prompts(prompts);
    let documents = task.len().min(flags.limit());
    cli::say(&format!(
        "{}: {documents} of {} documents, as {}",
        task.info().name,
        task.len(),
        options.style.name()
    ));
    Ok(run_task(task, &mut asked, &options, &mut |progress| cli::say(&progress.to_string()))?)
}

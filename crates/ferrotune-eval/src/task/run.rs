//! Asks a model what a task wants to know, and turns the replies into records.

use std::{fmt, time::Instant};

use ferrotune_core::{Continuation, Generation, GenerationLimits, LanguageModel, digest};
use serde_json::{Map, Value, json};

use super::{Answered, Document, PromptStyle, Reply, Request, Task, documents_within, limit, prompt};
use crate::{
    Asked, Dataset, Error, Measurement, OnFailure, Record, Result, Run, SampleLine,
    quality_index::BenchmarkScore, samples::line_of, statistics::Bootstrap,
};

/// How a task is run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// What the records say about model, tokenizer and seed; the data and the template are filled in.
    pub run: Run,
    /// How questions become text.
    pub style: PromptStyle,
    /// Only the first documents, of each language or subject where a task has these, named in the records; all where
    /// absent. See [`documents_within`].
    pub limit: Option<usize>,
    /// How many documents are handed to the model together. Results do not depend on it beyond rounding.
    pub batch: usize,
    /// Makes intervals.
    pub bootstrap: Bootstrap,
    /// Whether per-sample lines hold the whole prompt, rather than the question and the prompt's digest.
    pub whole_prompts: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            run: Run::default(),
            style: PromptStyle::Plain,
            limit: None,
            batch: 64,
            bootstrap: Bootstrap::default(),
            whole_prompts: false,
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Documents the model has replied to.
    pub done: usize,
    /// Documents there are.
    pub total: usize,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} documents", self.done, self.total)
    }
}

/// What running a task gave.
#[derive(Clone, Debug, Default)]
pub struct TaskOutcome {
    /// One record per measurement, the task's principal one first.
    pub records: Vec<Record>,
    /// The measurements behind them, in the same order.
    pub measurements: Vec<Measurement>,
    /// One line for each document and measurement over documents, see [`write_samples`](crate::write_samples).
    pub samples: Vec<SampleLine>,
}

impl TaskOutcome {
    /// The task's principal value as a part of an index; `None` if it was not measured.
    #[must_use]
    pub fn benchmark_score(&self) -> Option<BenchmarkScore> {
        let record = self.records.first()?;
        Some(BenchmarkScore { name: record.metric.clone(), value: record.value?, stderr: record.stderr })
    }

    /// Whether every reply could be scored, or need not be: to be asked once the per-sample file is written, since the
    /// replies of a long run must not be lost with the one that failed.
    ///
    /// # Errors
    /// [`Error::SampleFailed`] with the first failure under [`OnFailure::Error`].
    pub fn check(&self, on_failure: OnFailure) -> Result<()> {
        self.measurements.iter().try_for_each(|measurement| measurement.check(on_failure))
    }
}

/// Asks `model` about the documents of `task`, batch after batch, and scores the replies.
///
/// Answers that are drawn rather than most probable are seeded by the run's seed and the document's id, and each document
/// is asked about by itself then, so that they too are independent of the batch.
///
/// # Errors
/// [`Error::Model`], [`Error::ReplyCount`], [`Error::Template`], [`Error::Setting`] for a batch of 0; what scoring gives. A
/// reply that cannot be scored is none; see [`TaskOutcome::check`].
pub fn run_task(
    task: &dyn Task,
    model: &mut dyn LanguageModel,
    options: &RunOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<TaskOutcome> {
    if options.batch == 0 {
        return Err(Error::Setting {
            option: "batch",
            found: "0".to_owned(),
            expected: "at least one document",
        });
    }
    let start = Instant::now();
    let documents = documents_within(task, options.limit);
    let total = documents.len();
    let mut answered = Vec::with_capacity(total);
    let mut prompts = Vec::with_capacity(total);
    for batch in documents.chunks(options.batch) {
        let asked = batch
            .iter()
            .map(|&index| Rendered::new(index, task.document(index), &options.style))
            .collect::<Result<Vec<_>>>()?;
        let replies = ask(model, &asked, options)?;
        for (asked, reply) in asked.into_iter().zip(replies) {
            let prompt_sha = prompt::sha(&asked.prompt);
            prompts.push(asked.prompt);
            answered.push(Answered { index: asked.index, document: asked.document, prompt_sha, reply });
        }
        progress(Progress { done: answered.len(), total });
    }
    let dropped = |answered: &Answered| match &answered.reply {
        Reply::Likelihoods(likelihoods) => likelihoods.iter().any(|l| l.dropped > 0),
        Reply::Generations(generations) => generations.iter().any(|g| g.dropped > 0),
    };
    let truncated = answered.iter().filter(|answered| dropped(answered)).count();
    let run = Run {
        dataset: Dataset { n_rows: total, ..task.info().dataset.clone() },
        template_sha: options
            .style
            .fingerprint()
            .map(str::to_owned)
            .or_else(|| options.run.template_sha.clone()),
        ..options.run.clone()
    };
    let mut params = task.info().asked.clone();
    params.insert("prompt_style".to_owned(), options.style.name().into());
    params.insert("n_truncated".to_owned(), truncated.into());
    limit::note(task, options.limit, &mut params);
    let inputs = options.whole_prompts.then_some(prompts);
    scored(task, &answered, inputs.as_deref(), (&run, &params), &options.bootstrap, start)
}

/// Scores replies, and writes down what they are replies to: how they were asked for comes from `asked`.
pub(super) fn scored(
    task: &dyn Task,
    answered: &[Answered],
    prompts: Option<&[String]>,
    (run, asked): (&Run, &Map<String, Value>),
    bootstrap: &Bootstrap,
    start: Instant,
) -> Result<TaskOutcome> {
    let mut scores = task.score(answered)?;
    for measurement in scores.per_document.iter_mut().chain(&mut scores.aggregates) {
        let settings = asked.iter().map(|(name, value)| (name.clone(), value.clone()));
        measurement.params.extend(settings);
    }
    let wall_s = start.elapsed().as_secs_f64();
    let mut outcome = TaskOutcome::default();
    for measurement in &scores.per_document {
        if measurement.samples.len() != answered.len() {
            return Err(Error::LengthMismatch {
                what: "samples of a measurement and answered documents",
                left: measurement.samples.len(),
                right: answered.len(),
            });
        }
        for (place, (answered, sample)) in answered.iter().zip(&measurement.samples).enumerate() {
            let document = &answered.document;
            let texts: &[Generation] = match &answered.reply {
                Reply::Generations(generations) => generations,
                Reply::Likelihoods(_) => &[],
            };
            outcome.samples.push(SampleLine {
                input: Some(prompts.map_or(&document.request.prompt().question, |all| &all[place]).clone()),
                reference: document.references.clone(),
                prediction: texts.first().map_or_else(String::new, |first| first.text.clone()),
                other_predictions: texts.iter().skip(1).map(|other| other.text.clone()).collect(),
                log_likelihoods: answered.log_likelihoods(),
                prompt_sha: Some(answered.prompt_sha.clone()).filter(|sha| !sha.is_empty()),
                asked: Some(Asked {
                    question_sha: question_sha(&document.request),
                    params: asked.clone(),
                    run: run.clone(),
                }),
                ..line_of(&measurement.metric, sample)
            });
        }
    }
    for measurement in scores.per_document.into_iter().chain(scores.aggregates) {
        outcome.records.push(Record::new(run, &measurement, bootstrap, wall_s)?);
        outcome.measurements.push(measurement);
    }
    Ok(outcome)
}

/// The digest of what is asked, of everything that a template or a model does not change.
pub(super) fn question_sha(request: &Request) -> String {
    let prompt = request.prompt();
    let examples: Vec<[&str; 2]> =
        prompt.examples.iter().map(|example| [example.question.as_str(), &example.answer]).collect();
    let choices: &[String] = match request {
        Request::Choices { choices, .. } => choices,
        Request::Generation { .. } => &[],
    };
    let parts = json!([
        prompt.description,
        examples,
        prompt.question,
        prompt.delimiter,
        prompt.answer_prefix,
        choices
    ]);
    digest::of_bytes(parts.to_string().as_bytes())
}

/// A document with the text its question became.
struct Rendered {
    index: usize,
    document: Document,
    prompt: String,
    delimiter: String,
}

impl Rendered {
    fn new(index: usize, document: Document, style: &PromptStyle) -> Result<Self> {
        let parts = document.request.prompt();
        let (prompt, delimiter) = (style.render(parts)?, style.delimiter(parts).to_owned());
        Ok(Self { index, document, prompt, delimiter })
    }
}

/// One reply for each of `asked`, in order.
fn ask(model: &mut dyn LanguageModel, asked: &[Rendered], options: &RunOptions) -> Result<Vec<Reply>> {
    let mut replies: Vec<Option<Reply>> = vec![None; asked.len()];
    let mut continuations = Vec::new();
    let mut sizes = Vec::new();
    // Greedy answers under the same limits are asked for together.
    let mut greedy: Vec<(&GenerationLimits, Vec<usize>)> = Vec::new();
    for (place, one) in asked.iter().enumerate() {
        match &one.document.request {
            Request::Choices { choices, .. } => {
                sizes.push((place, choices.len()));
                continuations.extend(choices.iter().map(|choice| Continuation {
                    context: one.prompt.clone(),
                    text: format!("{}{choice}", one.delimiter),
                }));
            }
            Request::Generation { limits, .. } if limits.temperature == 0.0 => {
                match greedy.iter_mut().find(|(known, _)| *known == limits) {
                    Some((_, places)) => places.push(place),
                    None => greedy.push((limits, vec![place])),
                }
            }
            Request::Generation { limits, samples, .. } => {
                let seed = seed_of(options.run.seed, &one.document.id);
                let prompts = vec![one.prompt.clone(); *samples];
                replies[place] = Some(Reply::Generations(generate(
                    model,
                    &prompts,
                    &GenerationLimits { seed, ..limits.clone() },
                )?));
            }
        }
    }
    if !continuations.is_empty() {
        let found = model.log_likelihoods(&continuations).map_err(|source| Error::Model { source })?;
        counted(found.len(), continuations.len())?;
        let mut found = found.into_iter();
        for (place, size) in sizes {
            replies[place] = Some(Reply::Likelihoods(found.by_ref().take(size).collect()));
        }
    }
    for (limits, places) in greedy {
        let prompts: Vec<String> = places.iter().map(|&place| asked[place].prompt.clone()).collect();
        for (place, answer) in places.into_iter().zip(generate(model, &prompts, limits)?) {
            replies[place] = Some(Reply::Generations(vec![answer]));
        }
    }
    Ok(replies.into_iter().flatten().collect())
}

fn generate(
    model: &mut dyn LanguageModel,
    prompts: &[String],
    limits: &GenerationLimits,
) -> Result<Vec<Generation>> {
    let found = model.generate(prompts, limits).map_err(|source| Error::Model { source })?;
    counted(found.len(), prompts.len())?;
    Ok(found)
}

fn counted(found: usize, expected: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(Error::ReplyCount { found, expected }) }
}

/// A seed of its own for every document, whichever others are asked about.
fn seed_of(seed: u64, id: &str) -> u64 {
    let digest = digest::of_bytes(format!("{seed} {id}").as_bytes());
    u64::from_str_radix(&digest[..16], 16).unwrap_or(seed)
}

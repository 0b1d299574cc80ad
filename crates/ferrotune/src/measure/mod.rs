//! The metrics of a model on held-out records, and its benchmarks.

mod benchmarks;
mod config;
mod kept;
mod progress;

use std::{collections::HashMap, path::Path, time::Instant};

use ferrotune_core::{GenerationLimits, Sample, Tokenize};
use ferrotune_data::{Record as DataRecord, Template};
use ferrotune_eval::{
    Existing, Measurement, Metric, Pair, Record, Run, SampleLine,
    judge::{Estimate, JudgeUsage},
    perplexity::{Perplexity, TextLikelihood, TextSize, write_likelihoods},
    sample_lines,
    statistics::Bootstrap,
    task::{PromptStyle, TaskOutcome},
    write_samples,
};
use ferrotune_nn::CausalLm;
use tch::{Device, Kind};

use crate::{Error, Metrics, PromptText, Result, ScoredModel, slug::slug};
use kept::Found;

pub use benchmarks::{Benchmark, QUALITY_INDEX};
pub use config::MeasureConfig;
pub use kept::{Part, Restored};
pub use progress::Progress;

/// Metrics and benchmarks, ready to be applied to any number of models.
#[derive(Debug)]
pub struct Measure {
    config: MeasureConfig,
    /// The metrics over texts.
    texts: Metrics,
    perplexity: bool,
    benchmarks: Vec<Benchmark>,
}

/// A model and what it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a, T> {
    /// The model.
    pub model: &'a dyn CausalLm,
    /// Its tokenizer.
    pub tokenizer: &'a T,
    /// What its requests are written in.
    pub template: &'a Template,
    /// Held-out records.
    pub records: &'a [&'a DataRecord],
    /// Their encodings.
    pub samples: &'a [&'a Sample],
    /// For each benchmark how its questions are written.
    pub styles: &'a [(PromptStyle, PromptText)],
    /// What records say about all this.
    pub run: &'a Run,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// One record per metric; perplexity, then the others in the order asked for.
    pub records: Vec<Record>,
    /// What the records were made from, in the same order: comparisons of two models need the samples.
    pub measurements: Vec<Measurement>,
    /// Answer of each record.
    pub answers: Vec<String>,
    /// What each benchmark gave; its per-sample lines are in their file only. Of one that was taken up again there is only
    /// its own measurement.
    pub benchmarks: Vec<TaskOutcome>,
    /// The Quality Index, where there is a benchmark at all.
    pub quality_index: Option<Record>,
    /// What vectors did cost, if a server gives them.
    pub embeddings_usage: Option<JudgeUsage>,
}

/// A part of a measurement, with a per-sample file of its own.
#[derive(Clone, Copy, Debug)]
enum Asked<'m> {
    /// What the model thinks of the references.
    Perplexity,
    /// Its answers, and the metrics over them.
    Texts,
    /// A benchmark, and its place among them.
    Benchmark(&'m Benchmark, usize),
}

impl Asked<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Perplexity => PERPLEXITY,
            Self::Texts => "answers",
            Self::Benchmark(benchmark, _) => &benchmark.config.name,
        }
    }

    fn file(&self) -> String {
        match self {
            Self::Perplexity => "likelihoods.jsonl".to_owned(),
            Self::Texts => "samples.jsonl".to_owned(),
            Self::Benchmark(benchmark, _) => format!("samples-{}.jsonl", slug(&benchmark.config.name)),
        }
    }
}

impl Measure {
    /// Loads what the metrics need and opens the benchmarks' files; isolation is tried for those that run code.
    ///
    /// # Errors
    /// As [`MeasureConfig::validate`]; an unknown metric or benchmark; an encoder, dictionary, judge or file that cannot be
    /// used.
    pub fn new(config: MeasureConfig, seed: u64, compute: (Device, Kind)) -> Result<Self> {
        config.validate()?;
        let names: Vec<&str> =
            config.metrics.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let of_texts: Vec<&str> = names.iter().copied().filter(|&name| name != PERPLEXITY).collect();
        let perplexity = names.contains(&PERPLEXITY);
        // Before hours of training, not after.
        let judge = config.judge.clone().unwrap_or_default();
        let texts = if of_texts.is_empty() && (perplexity || !config.tasks.is_empty()) {
            if config.judge.is_some() {
                return Err(no_metric_asks(&config.metrics));
            }
            Metrics::default()
        } else {
            Metrics::open(&of_texts.join(","), &config.tools(), &judge, seed, config.on_failure, compute)
                .map_err(config::in_a_study)?
        };
        let benchmarks: Vec<Benchmark> =
            config.tasks.iter().cloned().map(Benchmark::open).collect::<Result<_>>()?;
        refuse_repeats(&benchmarks)?;
        Ok(Self { config, texts, perplexity, benchmarks })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &MeasureConfig {
        &self.config
    }

    /// The benchmarks, in the order of the settings.
    #[must_use]
    pub fn benchmarks(&self) -> &[Benchmark] {
        &self.benchmarks
    }

    /// How many of `available` records are measured.
    #[must_use]
    pub fn count(&self, available: usize) -> usize {
        self.config.limit.map_or(available, |limit| limit.min(available))
    }

    /// What the judge and a server of vectors did cost so far, if there is one.
    #[must_use]
    pub fn judge_usage(&self) -> [Option<JudgeUsage>; 2] {
        [self.texts.judges.usage(), self.texts.judges.embeddings_usage()]
    }

    /// What one evaluation would ask of the judge, found without asking: answers, which are not known yet, are taken to be
    /// as long as the references. `None` without a judge.
    #[must_use]
    pub fn estimate(&self, records: &[&DataRecord]) -> Option<Estimate> {
        self.texts.judges.judging.as_ref()?;
        let answers: Vec<String> = records.iter().map(|record| response(record).trim().to_owned()).collect();
        Some(self.texts.judges.estimate(&self.texts.metrics, &pairs(records, &answers)))
    }

    /// Measures of a model what is not `restored`, and writes `likelihoods.jsonl` (for perplexity), `samples.jsonl` and for each
    /// benchmark `samples-NAME.jsonl` into `folder`, which must be there. `keep` is told of each part, by its name, once its
    /// file is complete.
    ///
    /// # Errors
    /// What the model, the metrics, the benchmarks and `keep` give. A sample that cannot be scored is counted, unless failures
    /// are errors: then [`Error::Unfinished`] names the file with what was scored before.
    pub fn measure<T: Tokenize>(
        &self,
        subject: &Subject<'_, T>,
        folder: &Path,
        mut restored: Restored,
        keep: &mut dyn FnMut(&str, Part) -> Result<()>,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<Measured> {
        for asked in self.asked() {
            if restored.found.contains_key(asked.name()) {
                continue;
            }
            let start = Instant::now();
            let before = self.texts.judges.embeddings_usage();
            let file = folder.join(asked.file());
            let mut found = match asked {
                Asked::Perplexity => self.score_references(subject, &file, progress)?,
                Asked::Texts => self.score_answers(subject, &file, progress)?,
                Asked::Benchmark(benchmark, place) => {
                    let policy = (self.config.batch_tokens, self.config.on_failure);
                    benchmark.ask(subject, &subject.styles[place], policy, &file, progress)?
                }
            };
            found.embeddings_usage = self.texts.judges.embeddings_usage().map(|after| since(after, before));
            found.seconds = start.elapsed().as_secs_f64();
            keep(asked.name(), Part::of(&found, &file)?)?;
            restored.found.insert(asked.name().to_owned(), found);
        }
        self.measured(restored, subject.run)
    }

    /// Whether nothing is left to be measured.
    #[must_use]
    pub fn is_complete(&self, restored: &Restored) -> bool {
        self.asked().all(|asked| restored.found.contains_key(asked.name()))
    }

    /// What was measured, put together; parts that are not there are left out.
    ///
    /// # Errors
    /// What the Quality Index gives.
    pub fn measured(&self, mut restored: Restored, run: &Run) -> Result<Measured> {
        let mut measured = Measured::default();
        for asked in self.asked() {
            let Some(found) = restored.found.remove(asked.name()) else { continue };
            let Found { records, measurements, answers, embeddings_usage, .. } = found;
            if let Some(usage) = embeddings_usage {
                *measured.embeddings_usage.get_or_insert_default() += usage;
            }
            match asked {
                Asked::Benchmark(..) => {
                    let outcome = TaskOutcome { records, measurements, samples: Vec::new() };
                    measured.benchmarks.push(outcome);
                }
                Asked::Perplexity | Asked::Texts => {
                    measured.records.extend(records);
                    measured.measurements.extend(measurements);
                    measured.answers.extend(answers);
                }
            }
        }
        if !measured.benchmarks.is_empty() {
            let principal: Vec<&Record> =
                measured.benchmarks.iter().filter_map(|outcome| outcome.records.first()).collect();
            measured.quality_index = Some(benchmarks::quality_index(&principal, run)?);
        }
        Ok(measured)
    }

    fn asked(&self) -> impl Iterator<Item = Asked<'_>> {
        let perplexity = self.perplexity.then_some(Asked::Perplexity);
        let texts = (!self.texts.metrics.is_empty()).then_some(Asked::Texts);
        let benchmarks = self.benchmarks.iter().zip(0..).map(|(one, place)| Asked::Benchmark(one, place));
        perplexity.into_iter().chain(texts).chain(benchmarks)
    }

    fn score_references<T>(
        &self,
        subject: &Subject<'_, T>,
        file: &Path,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<Found> {
        progress(&Progress::Scoring { metric: PERPLEXITY });
        let start = Instant::now();
        let texts = self.likelihoods(subject)?;
        write_likelihoods(file, &texts)?;
        let measurement = Perplexity::TokenWeighted.measure(&texts)?;
        let seconds = start.elapsed().as_secs_f64();
        let record = Record::new(subject.run, &measurement, &bootstrap(subject.run), seconds)?;
        Ok(Found { records: vec![record], measurements: vec![measurement], ..Found::default() })
    }

    /// The answers and all metrics over them. What was scored before one of these fails is written to a file of another name
    /// than a finished one has.
    fn score_answers<T: Tokenize>(
        &self,
        subject: &Subject<'_, T>,
        file: &Path,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<Found> {
        let answers = self.answer(subject, progress)?;
        let pairs = pairs(subject.records, &answers);
        let mut found = Found { answers, ..Found::default() };
        let mut lines: Vec<SampleLine> = Vec::new();
        let mut metrics = self.texts.metrics.iter();
        let scored = metrics.try_for_each(|metric| {
            self.score(metric.as_ref(), &pairs, subject.run, progress, &mut lines, &mut found)
        });
        let unfinished = file.with_file_name(UNFINISHED);
        if let Err(failure) = scored {
            if lines.is_empty() {
                return Err(failure);
            }
            write_samples(&unfinished, &lines, Existing::Replace)?;
            return Err(Error::Unfinished { path: unfinished, source: Box::new(failure) });
        }
        write_samples(file, &lines, Existing::Replace)?;
        match std::fs::remove_file(&unfinished) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Io { path: unfinished, source })
            }
            _ => Ok(found),
        }
    }

    fn scored_model<'m, T>(&self, subject: &Subject<'m, T>) -> ScoredModel<'m, T> {
        ScoredModel::new(subject.model, subject.tokenizer).with_batch_tokens(self.config.batch_tokens)
    }

    /// What the model thinks of each reference, given its request.
    fn likelihoods<T>(&self, subject: &Subject<'_, T>) -> Result<Vec<TextLikelihood>> {
        let rows: Vec<_> = subject.samples.iter().map(|s| (s.ids.clone(), s.supervised.clone())).collect();
        let texts = self
            .scored_model(subject)
            .score_ids(&rows)?
            .iter()
            .zip(subject.records.iter().zip(ids_of(subject.records)))
            .map(|(likelihood, (record, id))| TextLikelihood {
                id,
                log_likelihood: likelihood.log_likelihood,
                tokens: likelihood.tokens as u64,
                size: Some(TextSize::of(response(record))),
            })
            .collect();
        Ok(texts)
    }

    fn answer<T: Tokenize>(
        &self,
        subject: &Subject<'_, T>,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<Vec<String>> {
        let prompts = subject
            .records
            .iter()
            .map(|record| subject.template.encode_prompt(record, subject.tokenizer))
            .collect::<Result<Vec<_>, _>>()?;
        let limits = GenerationLimits {
            max_new_tokens: self.config.max_new_tokens,
            stop: Vec::new(),
            temperature: 0.0,
            top_p: 1.0,
            seed: subject.run.seed,
        };
        let total = prompts.len();
        let answers = self.scored_model(subject).generate_ids_with(&prompts, &limits, &mut |done| {
            progress(&Progress::Answers { done, total });
        })?;
        Ok(answers.into_iter().map(|answer| answer.text.trim().to_owned()).collect())
    }

    /// One metric; its lines are kept before a failure ends the work.
    fn score(
        &self,
        metric: &dyn Metric,
        pairs: &[Pair],
        run: &Run,
        progress: &mut dyn FnMut(&Progress<'_>),
        lines: &mut Vec<SampleLine>,
        found: &mut Found,
    ) -> Result<()> {
        let names = metric.outputs().join(", ");
        let estimate = metric.estimate(pairs);
        let is_judged = estimate != Estimate::default();
        progress(&match is_judged {
            true => Progress::Judging { metric: &names, estimate },
            false => Progress::Scoring { metric: &names },
        });
        let start = Instant::now();
        let measurements = metric.measure(pairs)?;
        let seconds = start.elapsed().as_secs_f64();
        lines.extend(sample_lines(pairs, &measurements)?);
        for measurement in measurements {
            let measurement = measurement.checked(self.config.on_failure)?;
            if is_judged {
                progress(&Progress::Judged { measurement: &measurement });
            }
            found.records.push(Record::new(run, &measurement, &bootstrap(run), seconds)?);
            found.measurements.push(measurement);
        }
        Ok(())
    }
}

fn bootstrap(run: &Run) -> Bootstrap {
    Bootstrap { seed: run.seed, ..Bootstrap::default() }
}

/// What was spent since another reading of the same account.
fn since(after: JudgeUsage, before: Option<JudgeUsage>) -> JudgeUsage {
    let before = before.unwrap_or_default();
    JudgeUsage {
        calls: after.calls - before.calls,
        cached: after.cached - before.cached,
        retries: after.retries - before.retries,
        unanswered: after.unanswered - before.unanswered,
        unusable: after.unusable - before.unusable,
        prompt_tokens: after.prompt_tokens - before.prompt_tokens,
        completion_tokens: after.completion_tokens - before.completion_tokens,
        uncounted: after.uncounted - before.uncounted,
        cost: after.cost.map(|cost| cost - before.cost.unwrap_or_default()),
    }
}

/// Requests with a model's answers and the data's.
fn pairs(records: &[&DataRecord], answers: &[String]) -> Vec<Pair> {
    let ids = ids_of(records);
    let answered = records.iter().zip(answers.iter().zip(&ids));
    answered
        .map(|(record, (answer, id))| Pair {
            instruction: Some(request(record).to_owned()),
            ..Pair::new(id, answer.clone(), response(record).trim())
        })
        .collect()
}

/// Refuses a benchmark under two names, such as with its usual variant spelt out: it would be tested twice.
fn refuse_repeats(benchmarks: &[Benchmark]) -> Result<()> {
    for (index, benchmark) in benchmarks.iter().enumerate() {
        let key = |of: &Benchmark| (of.task.info().name.clone(), of.task.info().variant.clone());
        if let Some(other) = benchmarks[..index].iter().find(|other| key(other) == key(benchmark)) {
            return Err(Error::Setting {
                setting: "evaluation.tasks.name".into(),
                found: format!("`{}` and `{}`, which are the same", other.config.name, benchmark.config.name),
                expected: "each benchmark once in each variant".to_owned(),
            });
        }
    }
    Ok(())
}

fn no_metric_asks(metrics: &str) -> Error {
    Error::Setting {
        setting: "evaluation.judge".into(),
        found: format!("given, and none of the metrics asks it ({metrics})"),
        expected: "a metric such as gpt4_score or ragas_answer_correctness, or no judge".to_owned(),
    }
}

/// The metric that reads the references instead of answers.
const PERPLEXITY: &str = "perplexity";

/// What was scored before a failure ended the work, so that no reader takes it for `samples.jsonl`.
const UNFINISHED: &str = "samples-unfinished.jsonl";

/// The last request of a record.
#[must_use]
pub fn request(record: &DataRecord) -> &str {
    record.turns.last().map_or("", |turn| &turn.request)
}

/// The last response of a record.
#[must_use]
pub fn response(record: &DataRecord) -> &str {
    record.turns.last().map_or("", |turn| &turn.response)
}

/// Names records by file and place, the same for every model and each name once: where files in several folders have
/// one name, a number follows.
#[must_use]
pub fn ids_of(records: &[&DataRecord]) -> Vec<String> {
    let mut times = HashMap::new();
    let id = |record: &&DataRecord| {
        let file = record.origin.file.file_name().unwrap_or_default();
        let name = format!("{} {}", Path::new(file).display(), record.origin.place);
        let time: &mut u32 = times.entry(name.clone()).or_default();
        *time += 1;
        if *time == 1 { name } else { format!("{name} ({time})") }
    };
    records.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use ferrotune_data::Record;

    use super::ids_of;

    #[test]
    fn records_of_files_with_one_name_have_ids_of_their_own() {
        let record = |file: &str, row| {
            let mut record = Record::new("q", "a", row);
            record.origin.file = Arc::from(Path::new(file));
            record
        };
        let records = [record("a/test.json", 1), record("b/test.json", 1), record("b/test.json", 2)];
        let ids = ids_of(&records.iter().collect::<Vec<_>>());
        assert_eq!(ids, ["test.json row 1", "test.json row 1 (2)", "test.json row 2"]);
    }
}

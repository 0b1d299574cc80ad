//! A judge, what it has answered before, and what happens when it fails.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use ferrotune_core::digest;
use serde_json::{Map, Value, json};

use super::{
    Judge, JudgeRequest, JudgeUsage, Price, ReplyCache,
    interview::{Interview, Log, Question, Source, Stop},
    limits::lock,
};
use crate::{
    Error, Evidence, Failure, FailureKind, JudgeInfo, Judged, Measurement, OnFailure, Pair, Refusal, Result,
    SampleScore, Transcript,
};

/// How a judge is asked, and what its failures mean.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgingOptions {
    /// 0 is greedy; `None` leaves it to the judge, for models that accept no temperature.
    pub temperature: Option<f64>,
    /// The longest reply, in tokens.
    pub max_tokens: u32,
    /// Seeds the judge's sampling where it can be seeded; repetition `r` gets this seed plus `r`.
    pub seed: Option<u64>,
    /// How often every sample is judged, at least 1. Its score is the mean, and a failure of one is a failure of the sample.
    pub repeats: u32,
    /// How often a judge is told that its reply cannot be used and asked for another one, by the metrics of our own
    /// definition; variants of other packages repair by their own rules.
    pub reasks: u32,
    /// Whether a conversation of which the cache holds no reply that can be used is had once more. Without it a run that is
    /// repeated finds the same failures, at no cost.
    pub retry_unusable: bool,
    /// Under [`OnFailure::Error`] no sample is judged after one that failed, before more is spent; pass the same to
    /// [`evaluate`](crate::evaluate), which makes an error of it.
    pub on_failure: OnFailure,
    /// Turns tokens into money.
    pub price: Option<Price>,
}

impl Default for JudgingOptions {
    /// Greedy, 2,048 tokens, seed 0, once, with one chance to correct a reply; the first failure is an error; no price.
    fn default() -> Self {
        Self {
            temperature: Some(0.0),
            max_tokens: 2048,
            seed: Some(0),
            repeats: 1,
            reasks: 1,
            retry_unusable: false,
            on_failure: OnFailure::default(),
            price: None,
        }
    }
}

/// A judge with its cache and its options, which judged metrics share.
///
/// Samples are judged by as many threads as the judge allows; results are kept by sample, so neither their order nor the
/// number of threads changes anything.
pub struct Judging {
    pub(super) judge: Arc<dyn Judge>,
    pub(super) cache: Arc<ReplyCache>,
    pub(super) options: JudgingOptions,
    pub(super) usage: Mutex<JudgeUsage>,
}

/// What was found out about one sample.
pub(crate) struct Verdict {
    pub(crate) score: f64,
    pub(crate) extracted: String,
}

struct Judgment {
    score: Result<Verdict, Failure>,
    spread: Option<f64>,
    /// What the judge said as it refused to go on with this sample.
    refused: Option<String>,
    log: Log,
}

impl Judgment {
    /// That of a sample after the one that ended the work.
    fn not_asked_for() -> Self {
        let failure = not_judged("the work ended at a sample before it");
        Self { score: Err(failure), spread: None, refused: None, log: Log::default() }
    }
}

fn not_judged(why: &str) -> Failure {
    Failure { kind: FailureKind::NotMeasured, detail: format!("not judged: {why}") }
}

/// The judgments of all samples, in their order.
pub(crate) struct Verdicts {
    samples: Vec<(String, Judgment)>,
    usage: JudgeUsage,
    /// What the judge said as it refused to go on.
    refused: Option<String>,
    /// Whether the judge saw what the model was asked.
    questions: &'static str,
}

impl Judging {
    /// A judge with its cache.
    ///
    /// # Errors
    /// [`Error::Setting`] for no repetition at all, replies without a token, or a temperature or a price that is negative
    /// or not finite.
    pub fn new(judge: Arc<dyn Judge>, cache: Arc<ReplyCache>, options: JudgingOptions) -> Result<Arc<Self>> {
        let wrong = |option, found: String, expected| Err(Error::Setting { option, found, expected });
        if options.repeats == 0 {
            return wrong("repeats", "0".to_owned(), "at least 1");
        }
        if options.max_tokens == 0 {
            return wrong("max_tokens", "0".to_owned(), "at least 1");
        }
        let valid = |x: f64| x.is_finite() && x >= 0.0;
        if let Some(temperature) = options.temperature.filter(|&t| !valid(t)) {
            return wrong("temperature", temperature.to_string(), "a number not below 0");
        }
        if let Some(price) =
            options.price.filter(|p| !valid(p.prompt_per_million) || !valid(p.completion_per_million))
        {
            return wrong("price", format!("{price:?}"), "numbers not below 0");
        }
        let usage = Mutex::new(JudgeUsage::at(options.price.as_ref()));
        Ok(Arc::new(Self { judge, cache, options, usage }))
    }

    /// What all questions through this value did cost, failed runs included.
    #[must_use]
    pub fn usage(&self) -> JudgeUsage {
        *lock(&self.usage)
    }

    /// How the judge is asked.
    #[must_use]
    pub fn options(&self) -> &JudgingOptions {
        &self.options
    }

    /// Judges every pair by `judge`, one conversation per repetition, until the judge refuses or, under [`OnFailure::Error`], a
    /// sample fails; the caller makes an error of either once what was paid for is kept.
    ///
    /// # Errors
    /// [`Error::SomeInstructions`]; what the cache gives.
    pub(crate) fn judge_all(
        &self,
        pairs: &[Pair],
        judge: impl Fn(&Interview<'_>, &Pair) -> Result<Verdict, Stop> + Sync,
    ) -> Result<Verdicts> {
        let questions = questions_of(pairs)?;
        let next = AtomicUsize::new(0);
        let ended = AtomicBool::new(false);
        let found: Mutex<Vec<Option<Result<Judgment>>>> = Mutex::new(pairs.iter().map(|_| None).collect());
        let work = || {
            while !ended.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(pair) = pairs.get(index) else { break };
                let judgment = self.judge_one(pair, &judge);
                let is_last = match &judgment {
                    Ok(judgment) => {
                        let failed = judgment.score.is_err() && self.options.on_failure == OnFailure::Error;
                        failed || judgment.refused.is_some()
                    }
                    Err(_) => true,
                };
                if is_last {
                    ended.store(true, Ordering::Relaxed);
                }
                lock(&found)[index] = Some(judgment);
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.judge.concurrency().min(pairs.len()) {
                scope.spawn(work);
            }
            work();
        });
        let usage = JudgeUsage::at(self.options.price.as_ref());
        let mut verdicts = Verdicts { samples: Vec::new(), usage, refused: None, questions };
        let found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Samples are handed out in order, and each that was handed out is here: those that are missing come after the end.
        for (pair, judgment) in pairs.iter().zip(found) {
            let mut judgment = judgment.unwrap_or_else(|| Ok(Judgment::not_asked_for()))?;
            verdicts.usage += judgment.log.usage;
            verdicts.refused = verdicts.refused.or(judgment.refused.take());
            verdicts.samples.push((pair.id.clone(), judgment));
        }
        Ok(verdicts)
    }

    fn judge_one(
        &self,
        pair: &Pair,
        judge: &(impl Fn(&Interview<'_>, &Pair) -> Result<Verdict, Stop> + Sync),
    ) -> Result<Judgment> {
        let log = RefCell::new(Log { usage: JudgeUsage::at(self.options.price.as_ref()), ..Log::default() });
        let mut verdicts = Vec::new();
        let (mut failed, mut refused) = (None, None);
        for repeat in 0..self.options.repeats {
            let interview =
                Interview { judging: self, sample: &pair.id, repeat, source: Source::Judge, log: &log };
            match judge(&interview, pair) {
                Ok(verdict) => verdicts.push(verdict),
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Refused(detail)) => {
                    failed = Some(not_judged("the judge refused to answer"));
                    refused = Some(detail);
                    break;
                }
                Err(Stop::Failure(failure)) => {
                    failed = Some(failure);
                    break;
                }
            }
        }
        let log = log.into_inner();
        if let Some(failure) = failed {
            return Ok(Judgment { score: Err(failure), spread: None, refused, log });
        }
        let n = verdicts.len() as f64;
        let mean = verdicts.iter().map(|v| v.score).sum::<f64>() / n;
        let squares: f64 = verdicts.iter().map(|v| (v.score - mean).powi(2)).sum();
        let spread = (verdicts.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        let extracted = verdicts.into_iter().map(|v| v.extracted).collect::<Vec<_>>().join("; ");
        Ok(Judgment { score: Ok(Verdict { score: mean, extracted }), spread, refused, log })
    }

    /// The question as the judge gets it, and the digest of everything that its reply depends on. `attempt` counts
    /// conversations that were had before and came to nothing.
    pub(super) fn request(
        &self,
        sample: &str,
        repeat: u32,
        attempt: u32,
        question: &Question,
    ) -> (JudgeRequest, String) {
        // A judge that can be seeded would only say the same again.
        let draw = u64::from(repeat) + u64::from(attempt) * u64::from(self.options.repeats);
        let request = JudgeRequest {
            sample: sample.to_owned(),
            purpose: question.purpose.to_owned(),
            system: question.system.clone(),
            messages: question.messages.clone(),
            temperature: self.options.temperature,
            max_tokens: self.options.max_tokens,
            seed: self.options.seed.map(|seed| seed.wrapping_add(draw)),
            format: question.format,
        };
        let identity = self.judge.identity();
        let mut subject = json!([
            "judge 1",
            [identity.name, identity.params],
            [sample, request.purpose, repeat],
            [request.system, request.messages],
            [request.temperature, request.max_tokens, request.seed, request.format],
        ]);
        if let (Value::Array(parts), 1..) = (&mut subject, attempt) {
            parts.push(json!(["attempt", attempt]));
        }
        let key = digest::of_bytes(subject.to_string().as_bytes());
        (request, key)
    }
}

impl fmt::Debug for Judging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judging")
            .field("judge", &self.judge)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Verdicts {
    /// The mean of the scores, with who judged, by which prompts, and at what cost; no mean if the judge refused to go on.
    pub(crate) fn into_measurement(
        self,
        judging: &Judging,
        metric: &str,
        variant: &str,
        prompts: &[String],
    ) -> Measurement {
        let mut samples = Vec::with_capacity(self.samples.len());
        let mut transcripts = Vec::with_capacity(self.samples.len());
        let mut models = BTreeSet::new();
        let mut created = BTreeSet::new();
        let mut spreads = Vec::new();
        for (id, judgment) in self.samples {
            let (score, extracted) = match judgment.score {
                Ok(verdict) => (Ok(verdict.score), Some(verdict.extracted)),
                Err(failure) => (Err(failure), None),
            };
            spreads.extend(judgment.spread);
            models.extend(judgment.log.models);
            created.extend(judgment.log.created);
            samples.push(SampleScore { id, extracted, score });
            transcripts.push(Transcript {
                raw: raw(judgment.log.replies),
                latency_ms: judgment.log.latency_ms,
                attempts: judgment.log.asked,
            });
        }
        let options = &judging.options;
        let mut measurement =
            Measurement::of_mean(metric, variant, samples).with_param("questions", self.questions);
        if let Some(detail) = &self.refused {
            let (scored, all) = (measurement.scored(), measurement.samples.len());
            let reason = format!("the judge refused to answer after {scored} of {all} samples: {detail}");
            measurement.evidence = Evidence::NotMeasured { reason };
        }
        if options.retry_unusable {
            measurement = measurement.with_param("retry_unusable", true);
        }
        if options.repeats > 1 {
            // Without a sample that was judged to the end it is no number, which JSON writes as null.
            let spread = spreads.iter().sum::<f64>() / spreads.len() as f64;
            measurement = measurement
                .with_param("repeats", options.repeats)
                .with_param("mean_standard_deviation_over_repeats", spread);
        }
        let identity = judging.judge.identity();
        let mut params: Map<String, Value> = identity.params;
        params.insert("temperature".to_owned(), json!(options.temperature));
        params.insert("max_tokens".to_owned(), json!(options.max_tokens));
        params.insert("seed".to_owned(), json!(options.seed));
        params.insert("reasks".to_owned(), json!(options.reasks));
        params.insert("answered_as".to_owned(), json!(models));
        if let (Some(&first), Some(&last)) = (created.first(), created.last()) {
            params.insert("answered_from".to_owned(), json!(date(first)));
            params.insert("answered_to".to_owned(), json!(date(last)));
        }
        let info = JudgeInfo {
            name: identity.name,
            params,
            prompt_sha: digest::of_bytes(prompts.join("\n").as_bytes()),
        };
        let refused = self.refused.map(|detail| Refusal { detail, cache: judging.cache.path() });
        measurement.judged = Some(Judged { info, usage: self.usage, transcripts, refused });
        measurement
    }
}

/// What a record says of the questions: `shown` if every pair has one, `none` if none does, when an answer is judged by
/// its reference alone.
fn questions_of(pairs: &[Pair]) -> Result<&'static str> {
    let with = pairs.iter().find(|pair| pair.instruction.is_some());
    let without = pairs.iter().find(|pair| pair.instruction.is_none());
    match (with, without) {
        (Some(with), Some(without)) => {
            Err(Error::SomeInstructions { with: with.id.clone(), without: without.id.clone() })
        }
        (Some(_), None) => Ok("shown"),
        (None, _) => Ok("none"),
    }
}

/// Seconds since 1970 as a date; a server's clock can be anywhere, but not after the year 9999, where dates end.
fn date(seconds: u64) -> String {
    const LAST: u64 = 253_402_300_799;
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST)))
}

/// A single reply word for word; several with what each answers.
fn raw(mut replies: Vec<(&'static str, String)>) -> Option<String> {
    if replies.len() < 2 {
        return replies.pop().map(|(_, text)| text);
    }
    let parts: Vec<String> = replies.iter().map(|(purpose, text)| format!("[{purpose}]\n{text}")).collect();
    Some(parts.join("\n\n"))
}

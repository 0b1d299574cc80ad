//! What a metric is, and what it finds.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Error, JudgeInfo, OnFailure, Pair, Result, Tally,
    judge::{Estimate, JudgeUsage},
};

/// Scores predictions against references; implementors provide [`outputs`](Self::outputs) and
/// [`measure`](Self::measure).
///
/// Scores must not depend on the order or the batching of the pairs. A metric that cannot be measured says so in what
/// it returns ([`Measurement::not_measured`]); an error is for work that cannot go on.
pub trait Metric: fmt::Debug + Send + Sync {
    /// The names of the measurements that [`measure`](Self::measure) returns, in order.
    fn outputs(&self) -> Vec<String>;

    /// One measurement for each of [`outputs`](Self::outputs), each with one sample for each pair, in order.
    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>>;

    /// What [`measure`](Self::measure) would ask of a judge, found without asking; nothing for a metric that asks none.
    fn estimate(&self, pairs: &[Pair]) -> Estimate {
        let _ = pairs;
        Estimate::default()
    }

    /// What is lacking, for a metric that is known and cannot be measured here.
    fn lacking(&self) -> Option<&str> {
        None
    }
}

/// What one metric found: a score or a failure for every sample, and the value over those that were scored.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// The metric's name, as it is asked for.
    pub metric: String,
    /// Which of the metric's definitions this is, down to tokenizer and version of the reference it equals.
    pub variant: String,
    /// Settings that change the value.
    pub params: Map<String, Value>,
    /// One entry per pair, in order.
    pub samples: Vec<SampleScore>,
    /// The value's evidence, or why there is none.
    pub evidence: Evidence,
    /// Who judged, and what was said, for judged metrics.
    pub judged: Option<Judged>,
}

/// Who judged the samples of a [`Measurement`], what they said and what it did cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The judge.
    pub info: JudgeInfo,
    /// The cost of this measurement.
    pub usage: JudgeUsage,
    /// One entry per sample, in order.
    pub transcripts: Vec<Transcript>,
    /// Why no further sample was judged, where the judge refused to answer. The measurement then has no value, whatever the
    /// policy on failures: the samples before are there, since they were paid for.
    pub refused: Option<Refusal>,
}

/// A judge's word that it answers no further question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it said and what to do.
    pub detail: String,
    /// The file that its earlier replies are in: the same run goes on from there. `None` if they are in no file.
    pub cache: Option<PathBuf>,
}

/// What a judge said about one sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    /// Its reply, word for word; of several replies each with the question's name before it. `None` without a reply.
    pub raw: Option<String>,
    /// Milliseconds that the replies took when they were given, cached ones included.
    pub latency_ms: f64,
    /// How often it was asked, requests that failed and replies from a cache included.
    pub attempts: u32,
}

/// Whether and from what a value was computed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Evidence {
    /// Measured, from the samples that were scored.
    Measured(Tally),
    /// Not measured.
    NotMeasured {
        /// Why, in words for the report.
        reason: String,
    },
}

/// The score of one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleScore {
    /// The pair's id.
    pub id: String,
    /// The answer that was cut out of the prediction, for metrics that do that.
    pub extracted: Option<String>,
    /// The score, or why there is none.
    pub score: Result<f64, Failure>,
}

/// Why a sample has no score.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct Failure {
    /// The class it is counted under.
    pub kind: FailureKind,
    /// What happened.
    pub detail: String,
}

/// The classes of failures, each counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// A text that must not be empty is empty.
    EmptyText,
    /// A vector of norm zero has no direction.
    ZeroNorm,
    /// A number is infinite or not a number.
    NotFinite,
    /// No answer could be found in the prediction.
    NoAnswer,
    /// The metric was not run at all.
    NotMeasured,
    /// The isolation that a program was to be run in failed.
    NotExecuted,
    /// A judge's reply could not be understood.
    JudgeReply,
    /// A judge could not be reached.
    JudgeUnavailable,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyText => "empty text",
            Self::ZeroNorm => "zero norm",
            Self::NotFinite => "not finite",
            Self::NoAnswer => "no answer",
            Self::NotMeasured => "not measured",
            Self::NotExecuted => "not executed",
            Self::JudgeReply => "judge reply",
            Self::JudgeUnavailable => "judge unavailable",
        })
    }
}

impl Measurement {
    /// The mean of per-sample scores; failures are left out of it and counted.
    ///
    /// Without a single score it is not measured, and says how the first sample failed.
    pub fn of_mean(metric: impl Into<String>, variant: impl Into<String>, samples: Vec<SampleScore>) -> Self {
        let scores: Vec<f64> = samples.iter().filter_map(|s| s.score.as_ref().ok().copied()).collect();
        Self::of_tally(metric, variant, samples, Tally::mean_of(&scores))
    }

    /// The share of samples that succeed; a sample's score is 1 or 0. Failures are left out of it and counted.
    ///
    /// Its interval is Wilson's, which stays honest where all samples succeed or none does.
    pub fn of_share(
        metric: impl Into<String>,
        variant: impl Into<String>,
        outcomes: impl IntoIterator<Item = (String, Result<bool, Failure>)>,
    ) -> Self {
        let outcomes: Vec<(String, Result<bool, Failure>)> = outcomes.into_iter().collect();
        let successes: Vec<bool> =
            outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok().copied()).collect();
        let samples = outcomes.into_iter().map(|(id, outcome)| SampleScore {
            id,
            extracted: None,
            score: outcome.map(|success| f64::from(u8::from(success))),
        });
        Self::of_tally(metric, variant, samples.collect(), Tally::share_of(&successes))
    }

    /// A value that is not a mean of scores. `tally` has one row for each sample that was scored.
    pub fn of_tally(
        metric: impl Into<String>,
        variant: impl Into<String>,
        samples: Vec<SampleScore>,
        tally: Tally,
    ) -> Self {
        let evidence = if tally.is_empty() {
            let reason = match samples.iter().find_map(|s| s.score.as_ref().err()) {
                Some(failure) => format!("all {} samples failed, the first with {failure}", samples.len()),
                None => "there are no samples".to_owned(),
            };
            Evidence::NotMeasured { reason }
        } else {
            Evidence::Measured(tally)
        };
        Self {
            metric: metric.into(),
            variant: variant.into(),
            params: Map::new(),
            samples,
            evidence,
            judged: None,
        }
    }

    /// A metric that was asked for and could not be run.
    pub fn not_measured(
        metric: impl Into<String>,
        variant: impl Into<String>,
        pairs: &[Pair],
        reason: impl Into<String>,
    ) -> Self {
        let reason = reason.into();
        let failure = Failure { kind: FailureKind::NotMeasured, detail: reason.clone() };
        let samples = pairs
            .iter()
            .map(|p| SampleScore { id: p.id.clone(), extracted: None, score: Err(failure.clone()) })
            .collect();
        Self {
            metric: metric.into(),
            variant: variant.into(),
            params: Map::new(),
            samples,
            evidence: Evidence::NotMeasured { reason },
            judged: None,
        }
    }

    /// Adds a setting that changes the value.
    #[must_use]
    pub fn with_param(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.params.insert(name.to_owned(), value.into());
        self
    }

    /// The value over the scored samples; `None` if it was not measured.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        self.tally().map(Tally::value)
    }

    /// The statistics behind the value; `None` if it was not measured.
    #[must_use]
    pub fn tally(&self) -> Option<&Tally> {
        match &self.evidence {
            Evidence::Measured(tally) => Some(tally),
            Evidence::NotMeasured { .. } => None,
        }
    }

    /// How many samples have a score.
    #[must_use]
    pub fn scored(&self) -> usize {
        self.samples.iter().filter(|s| s.score.is_ok()).count()
    }

    /// Passes the measurement on, unless its judge refused, or a sample failed and the policy is [`OnFailure::Error`].
    ///
    /// # Errors
    /// [`Error::JudgeRefused`] whatever the policy; [`Error::SampleFailed`] with the first failure. A metric that was not
    /// measured at all passes, unless it was judged: its record says so.
    pub fn checked(self, on_failure: OnFailure) -> Result<Self> {
        self.check(on_failure)?;
        Ok(self)
    }

    /// The same without passing it on.
    ///
    /// # Errors
    /// As [`checked`](Self::checked).
    pub fn check(&self, on_failure: OnFailure) -> Result<()> {
        if let Some(Judged { info, refused: Some(refusal), .. }) = &self.judged {
            return Err(Error::JudgeRefused {
                judge: info.name.clone(),
                judged: self.scored(),
                samples: self.samples.len(),
                detail: refusal.detail.clone(),
                cache: refusal.cache.clone(),
            });
        }
        let was_tried = matches!(self.evidence, Evidence::Measured(_)) || self.judged.is_some();
        if on_failure == OnFailure::Error && was_tried {
            for sample in &self.samples {
                if let Err(failure) = &sample.score {
                    return Err(Error::SampleFailed {
                        metric: self.metric.clone(),
                        id: sample.id.clone(),
                        failure: failure.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// A metric that is known by name but cannot be run here, and says why.
#[derive(Clone, Debug)]
pub struct Unavailable {
    /// The metric's name.
    pub metric: String,
    /// What is lacking, in words for the report.
    pub reason: String,
}

impl Metric for Unavailable {
    fn outputs(&self) -> Vec<String> {
        vec![self.metric.clone()]
    }

    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        Ok(vec![Measurement::not_measured(&self.metric, "unavailable", pairs, &self.reason)])
    }

    fn lacking(&self) -> Option<&str> {
        Some(&self.reason)
    }
}

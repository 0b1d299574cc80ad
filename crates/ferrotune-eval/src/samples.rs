//! The per-sample file: one JSON line per sample and metric, from which everything can be scored again.

use std::{collections::HashMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Error, Failure, LineProblem, Measurement, Pair, Result, Run, SampleScore,
    lines::{for_each_line, parse_json, write_lines},
    pairs::check_references,
};

/// One line of a per-sample file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleLine {
    /// The sample's id.
    pub id: String,
    /// The metric that scored it.
    pub metric: String,
    /// What the model was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The acceptable answers.
    pub reference: Vec<String>,
    /// What the model said; empty where choices were scored.
    pub prediction: String,
    /// Further answers to the same question, where several were drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_predictions: Vec<String>,
    /// The log-likelihood of each choice, where choices were scored; in JSON, what is not finite is a string.
    #[serde(default, with = "as_numbers", skip_serializing_if = "Vec::is_empty")]
    pub log_likelihoods: Vec<f64>,
    /// Digest of the prompt as the model read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_sha: Option<String>,
    /// How it was asked, for the replies of benchmarks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// The answer cut out of the prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extracted: Option<String>,
    /// The score, or why there is none.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What the judge wrote, word for word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_judge: Option<String>,
    /// Milliseconds the answer or the judgment took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// How often a judge or a model was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
}

/// How a benchmark's question was asked: what holds a reply to its question when it is scored again, and what the record
/// then says it was made with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Digest of the question with its examples and choices, before a template made text of them.
    pub question_sha: String,
    /// Settings that shaped the reply, such as `n_shot` and `max_new_tokens`.
    pub params: Map<String, Value>,
    /// Model, tokenizer, data, template and seed.
    pub run: Run,
}

/// Either a `score` or a `failure`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The sample's score.
    Score(f64),
    /// Why it has none.
    Failure(Failure),
}

impl Outcome {
    fn of(score: &Result<f64, Failure>) -> Self {
        match score {
            // JSON has no infinity; a sample's perplexity can overflow while its log-likelihood is fine.
            Ok(score) if !score.is_finite() => Self::Failure(Failure {
                kind: crate::FailureKind::NotFinite,
                detail: format!("the score is {score}"),
            }),
            Ok(score) => Self::Score(*score),
            Err(failure) => Self::Failure(failure.clone()),
        }
    }
}

/// Whether a file that is there already may be replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It is left alone, and writing fails.
    #[default]
    Refuse,
    /// It is replaced once the new one is complete.
    Replace,
}

/// The lines of measurements of the same pairs: for each measurement one line per pair, in order.
///
/// # Errors
/// [`Error::LengthMismatch`] if a measurement is not of these pairs.
pub fn sample_lines(pairs: &[Pair], measurements: &[Measurement]) -> Result<Vec<SampleLine>> {
    let mut lines = Vec::with_capacity(pairs.len() * measurements.len());
    for measurement in measurements {
        let same = measurement.samples.len() == pairs.len()
            && pairs.iter().zip(&measurement.samples).all(|(pair, sample)| pair.id == sample.id);
        if !same {
            return Err(Error::LengthMismatch {
                what: "samples of a measurement and pairs, compared by id",
                left: measurement.samples.len(),
                right: pairs.len(),
            });
        }
        for (i, (pair, sample)) in pairs.iter().zip(&measurement.samples).enumerate() {
            let transcript = measurement.judged.as_ref().and_then(|judged| judged.transcripts.get(i));
            lines.push(SampleLine {
                input: pair.instruction.clone(),
                reference: pair.references.clone(),
                prediction: pair.prediction.clone(),
                raw_judge: transcript.and_then(|t| t.raw.clone()),
                latency_ms: transcript.map(|t| t.latency_ms),
                attempts: transcript.map(|t| t.attempts),
                ..line_of(&measurement.metric, sample)
            });
        }
    }
    Ok(lines)
}

/// The line of a sample, without its texts.
pub(crate) fn line_of(metric: &str, sample: &SampleScore) -> SampleLine {
    SampleLine {
        id: sample.id.clone(),
        metric: metric.to_owned(),
        input: None,
        reference: Vec::new(),
        prediction: String::new(),
        other_predictions: Vec::new(),
        log_likelihoods: Vec::new(),
        prompt_sha: None,
        asked: None,
        extracted: sample.extracted.clone(),
        outcome: Outcome::of(&sample.score),
        raw_judge: None,
        latency_ms: None,
        attempts: None,
    }
}

/// Writes a per-sample file. It appears under its name only when it is complete.
///
/// # Errors
/// [`Error::Exists`] under [`Existing::Refuse`]; [`Error::Write`].
pub fn write_samples(path: &Path, lines: &[SampleLine], existing: Existing) -> Result<()> {
    if existing == Existing::Refuse && path.exists() {
        return Err(Error::Exists { path: path.to_owned() });
    }
    write_lines(path, lines)
}

/// Reads a per-sample file.
///
/// # Errors
/// [`Error::Read`], [`Error::NoRecords`], and [`Error::Line`] for a line that is no [`SampleLine`], or that scores a
/// sample by a metric that has scored it before.
pub fn read_samples(path: &Path) -> Result<Vec<SampleLine>> {
    Ok(numbered_samples(path)?.into_iter().map(|(_, line)| line).collect())
}

fn numbered_samples(path: &Path) -> Result<Vec<(usize, SampleLine)>> {
    let mut lines = Vec::new();
    let mut first_use: HashMap<(String, String), usize> = HashMap::new();
    for_each_line(path, |number, text| {
        let wrong = |problem| Error::Line { path: path.to_owned(), line: number, problem };
        let line: SampleLine = serde_json::from_value(parse_json(text).map_err(wrong)?)
            .map_err(|error| wrong(LineProblem::NotASample { detail: error.to_string() }))?;
        if let Some(first_line) = first_use.insert((line.id.clone(), line.metric.clone()), number) {
            let id = format!("{}` with metric `{}", line.id, line.metric);
            return Err(wrong(LineProblem::DuplicateId { id, first_line }));
        }
        lines.push((number, line));
        Ok(())
    })?;
    if lines.is_empty() {
        return Err(Error::NoRecords { path: path.to_owned() });
    }
    Ok(lines)
}

/// The pairs of a per-sample file, each id once, in order of first appearance: what metrics need to score again without
/// a model.
///
/// # Errors
/// As [`read_samples`]; [`Error::Line`] if two lines of one id have different texts, if a reference is empty, or for a reply
/// that is more than one text: log-likelihoods of choices, several answers.
///
/// ```
/// use ferrotune_eval::*;
/// let folder = std::env::temp_dir().join(format!("samples-{}", std::process::id()));
/// std::fs::create_dir_all(&folder)?;
/// let pairs = [Pair::new("1", "Paris", "Paris")];
/// let metrics = Registry::with_text_metrics()?.resolve("exact_match")?;
/// let measurements = metrics[0].measure(&pairs)?;
/// let path = folder.join("samples.jsonl");
/// write_samples(&path, &sample_lines(&pairs, &measurements)?, Existing::Replace)?;
/// assert_eq!(rescorable_pairs(&path)?, pairs);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn rescorable_pairs(path: &Path) -> Result<Vec<Pair>> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut seen: HashMap<String, (usize, usize)> = HashMap::new();
    for (number, line) in numbered_samples(path)? {
        let wrong = |problem| Error::Line { path: path.to_owned(), line: number, problem };
        for (holds, field) in [
            (!line.log_likelihoods.is_empty(), "log_likelihoods"),
            (!line.other_predictions.is_empty(), "other_predictions"),
        ] {
            if holds {
                return Err(wrong(LineProblem::NotOneText { id: line.id, field }));
            }
        }
        check_references(&line.reference).map_err(wrong)?;
        let pair = Pair {
            id: line.id,
            instruction: line.input,
            prediction: line.prediction,
            references: line.reference,
        };
        match seen.get(&pair.id) {
            Some(&(at, first_line)) => {
                let field = match &pairs[at] {
                    known if known.prediction != pair.prediction => Some("prediction"),
                    known if known.references != pair.references => Some("reference"),
                    _ => None,
                };
                if let Some(field) = field {
                    return Err(wrong(LineProblem::Disagreement { id: pair.id, field, first_line }));
                }
            }
            None => {
                seen.insert(pair.id.clone(), (pairs.len(), number));
                pairs.push(pair);
            }
        }
    }
    Ok(pairs)
}

/// The measurement that the lines of one metric amount to, as a mean of their scores: for metrics whose value is that
/// mean. Corpus metrics such as BLEU are scored again from [`rescorable_pairs`].
#[must_use]
pub fn mean_of_lines(metric: &str, variant: &str, lines: &[SampleLine]) -> Measurement {
    let samples = lines
        .iter()
        .filter(|line| line.metric == metric)
        .map(|line| SampleScore {
            id: line.id.clone(),
            extracted: line.extracted.clone(),
            score: match &line.outcome {
                Outcome::Score(score) => Ok(*score),
                Outcome::Failure(failure) => Err(failure.clone()),
            },
        })
        .collect();
    Measurement::of_mean(metric, variant, samples)
}

/// Numbers of which some may not be finite.
mod as_numbers {
    use ferrotune_core::extended::Extended;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(numbers: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(numbers.iter().copied().map(Extended))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        Ok(Vec::<Extended>::deserialize(deserializer)?.into_iter().map(|Extended(number)| number).collect())
    }
}

//! Answer Correctness: how much of the reference an answer states, and how much besides.

mod langchain;
mod ragas;
mod reconciled;
mod sentences;

use std::{fmt, sync::Arc};

use ferrotune_core::Embedder;
use serde::{Deserialize, Serialize};

use super::{
    answer_similarity::{EmptyText, passes, text_of, vectors},
    prompt::Prompt,
};
use crate::{
    Error, Failure, FailureKind, Measurement, Metric, Pair, Result,
    judge::{Estimate, Interview, Judging, Stop, Verdict},
    similarity::{Vectors, cosine},
};
use ragas::Class04;

/// Whose rules an Answer Correctness follows. The prompts are our own under all of them, and records say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CorrectnessRules {
    /// Ours. Statements of both texts are extracted; every one of them is classified exactly once, by its number, and a
    /// reply that leaves one out, repeats one or invents one is a failure. An empty answer has no statements and
    /// factuality 0; a reference without statements is a failure.
    #[default]
    Reconciled,
    /// ragas up to 0.1.7: one call with both texts; only the lengths of the lists count; one attempt at repair.
    Ragas017,
    /// ragas 0.1.8 and 0.1.9: statements of the sentences that end in a full stop, then a classification of which only the
    /// lengths of the lists count. Statements that cannot be parsed after one attempt at repair are taken for none, and
    /// without statements on both sides factuality is 1.
    Ragas019,
    /// The class of ragas 0.4.3 that `ragas.metrics` exports: as 0.1.9 without sentences, with F-beta, up to three
    /// attempts at repair, and no score where statements cannot be parsed.
    Ragas04Legacy,
    /// The class of ragas 0.4.3 in `ragas.metrics.collections`: factuality is 1 as soon as one side has no statements, and a
    /// vector of norm zero has similarity 0.
    Ragas04Collections,
}

impl CorrectnessRules {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Reconciled, Self::Ragas017, Self::Ragas019, Self::Ragas04Legacy, Self::Ragas04Collections];

    /// The metric's name under these rules.
    #[must_use]
    pub const fn metric(self) -> &'static str {
        match self {
            Self::Reconciled => "ragas_answer_correctness",
            Self::Ragas017 => "ragas_answer_correctness_0_1_7",
            Self::Ragas019 => "ragas_answer_correctness_0_1_9",
            Self::Ragas04Legacy => "ragas_answer_correctness_0_4_legacy",
            Self::Ragas04Collections => "ragas_answer_correctness_0_4_collections",
        }
    }

    const fn variant(self) -> &'static str {
        match self {
            Self::Reconciled => "every statement classified once and reconciled, ferrotune 1",
            Self::Ragas017 => "rules of ragas 0.1.7, own prompts 1",
            Self::Ragas019 => "rules of ragas 0.1.9, own prompts 1, own sentence segmenter 1",
            Self::Ragas04Legacy => "rules of ragas 0.4.3 (ragas.metrics), own prompts 1",
            Self::Ragas04Collections => "rules of ragas 0.4.3 (ragas.metrics.collections), own prompts 1",
        }
    }

    /// What the judge is asked under these rules, without the material; records hold the digest.
    #[must_use]
    pub fn prompts(self) -> Vec<String> {
        let prompts: &[Prompt] = match self {
            Self::Reconciled => &reconciled::PROMPTS,
            Self::Ragas017 => &ragas::PROMPTS_017,
            Self::Ragas019 => &ragas::PROMPTS_019,
            Self::Ragas04Legacy | Self::Ragas04Collections => &ragas::PROMPTS_04,
        };
        prompts.iter().map(Prompt::text).collect()
    }
}

/// Settings of [`AnswerCorrectness`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorrectnessConfig {
    /// Whose rules.
    #[serde(default)]
    pub rules: CorrectnessRules,
    /// Weights of factuality and of similarity; with a similarity of weight 0 no encoder is asked.
    pub weights: [f64; 2],
    /// Above 1 recall weighs more, below 1 precision. Only 1 under the rules of ragas 0.1.
    pub beta: f64,
    /// Turns the similarity into 1 or 0; 0 is the same as none, as in ragas.
    #[serde(default)]
    pub similarity_threshold: Option<f64>,
}

impl Default for CorrectnessConfig {
    /// Our rules, three quarters factuality, beta 1, no threshold.
    fn default() -> Self {
        Self {
            rules: CorrectnessRules::default(),
            weights: [0.75, 0.25],
            beta: 1.0,
            similarity_threshold: None,
        }
    }
}

/// Factuality and similarity of an answer to its reference, weighted; of several references the best counts.
///
/// A sample's score is `(w0·F + w1·S) / (w0 + w1)`. `F` is the F-beta of the statements that are in both texts (TP), only in
/// the answer (FP) and only in the reference (FN), as a judge finds them; `S` is the cosine of the two texts' vectors, which
/// can be negative. What a right but verbose answer says besides is FP and lowers the score; transcripts show the statements.
#[derive(Clone)]
pub struct AnswerCorrectness {
    judging: Arc<Judging>,
    encoder: Option<Arc<dyn Embedder>>,
    config: CorrectnessConfig,
}

/// How many statements are in both texts, only in the answer, only in the reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    tp: usize,
    fp: usize,
    fn_: usize,
}

/// Factuality, and where it comes from.
enum Factuality {
    Counted(Counts),
    /// No statements on one side or both, and a rule that calls this perfect.
    NothingToCompare,
}

impl AnswerCorrectness {
    /// Correctness by this judge and this encoder.
    ///
    /// # Errors
    /// [`Error::Setting`] for weights that are negative, not finite or both zero, for a similarity that weighs something
    /// without an encoder, and for a beta that is not positive, or not 1 under the rules of ragas 0.1.
    pub fn new(
        judging: Arc<Judging>,
        encoder: Option<Arc<dyn Embedder>>,
        config: CorrectnessConfig,
    ) -> Result<Self> {
        let wrong = |option, found: String, expected| Err(Error::Setting { option, found, expected });
        let [factuality, similarity] = config.weights;
        if !config.weights.iter().all(|w| w.is_finite() && *w >= 0.0) || factuality + similarity == 0.0 {
            return wrong(
                "weights",
                format!("{:?}", config.weights),
                "two numbers not below 0, one of them above",
            );
        }
        if similarity > 0.0 && encoder.is_none() {
            return wrong(
                "weights",
                format!("{:?} without a sentence encoder", config.weights),
                "an encoder, or a similarity of weight 0",
            );
        }
        let old = matches!(config.rules, CorrectnessRules::Ragas017 | CorrectnessRules::Ragas019);
        if !(config.beta.is_finite() && config.beta > 0.0) || (old && config.beta != 1.0) {
            let expected = if old { "1 under the rules of ragas 0.1" } else { "a positive number" };
            return wrong("beta", config.beta.to_string(), expected);
        }
        Ok(Self { judging, encoder, config })
    }

    fn score(
        &self,
        interview: &Interview<'_>,
        pair: &Pair,
        similarities: &Similarities,
    ) -> Result<Verdict, Stop> {
        let mut best: Option<Verdict> = None;
        for reference in &pair.references {
            let similarity = match &self.encoder {
                Some(_) if self.config.weights[1] > 0.0 => similarities.of(&pair.prediction, reference)?,
                _ => 0.0,
            };
            let factuality = match self.config.rules {
                CorrectnessRules::Reconciled => {
                    Factuality::Counted(reconciled::count(interview, pair, reference)?)
                }
                CorrectnessRules::Ragas017 => ragas::count_017(interview, pair, reference)?,
                CorrectnessRules::Ragas019 => ragas::count_019(interview, pair, reference)?,
                CorrectnessRules::Ragas04Legacy => {
                    ragas::count_04(Class04::Legacy, interview, pair, reference)?
                }
                CorrectnessRules::Ragas04Collections => {
                    ragas::count_04(Class04::Collections, interview, pair, reference)?
                }
            };
            let verdict = self.combine(&factuality, similarity);
            if best.as_ref().is_none_or(|best| verdict.score > best.score) {
                best = Some(verdict);
            }
        }
        best.ok_or_else(|| {
            Failure { kind: FailureKind::EmptyText, detail: "there is no reference".to_owned() }.into()
        })
    }

    fn combine(&self, factuality: &Factuality, similarity: f64) -> Verdict {
        let (f, counts) = match factuality {
            Factuality::NothingToCompare => (1.0, "no statements to compare".to_owned()),
            Factuality::Counted(counts) => {
                let f = match self.config.rules {
                    CorrectnessRules::Ragas017 | CorrectnessRules::Ragas019 => counts.f1_of_ragas_01(),
                    CorrectnessRules::Ragas04Collections => counts.f_beta(self.config.beta, 1.0),
                    CorrectnessRules::Reconciled | CorrectnessRules::Ragas04Legacy => {
                        counts.f_beta(self.config.beta, 0.0)
                    }
                };
                (f, format!("TP {} FP {} FN {}", counts.tp, counts.fp, counts.fn_))
            }
        };
        let [w0, w1] = self.config.weights;
        let score = (f * w0 + similarity * w1) / (w0 + w1);
        Verdict { score, extracted: format!("{counts}, factuality {f:.4}, similarity {similarity:.4}") }
    }
}

impl Counts {
    /// `tp / (tp + (fp + fn) / 2)`, 0 without a true positive.
    fn f1_of_ragas_01(self) -> f64 {
        let (tp, wrong) = (self.tp as f64, (self.fp + self.fn_) as f64);
        if self.tp > 0 { tp / (tp + 0.5 * wrong) } else { 0.0 }
    }

    /// F-beta of precision and recall, each 0 where it has no denominator; `of_nothing` where there are no statements at all.
    ///
    /// *Source*: ragas 0.4.3, `metrics/utils.py` (0) and `metrics/collections/answer_correctness` (1).
    fn f_beta(self, beta: f64, of_nothing: f64) -> f64 {
        if self == Self::default() {
            return of_nothing;
        }
        let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let precision = share(self.tp, self.tp + self.fp);
        let recall = share(self.tp, self.tp + self.fn_);
        if precision + recall == 0.0 {
            return 0.0;
        }
        let square = beta * beta;
        (1.0 + square) * (precision * recall) / (square * precision + recall)
    }
}

/// The similarities of all texts of a run.
struct Similarities {
    vectors: Vectors,
    empty: EmptyText,
    threshold: Option<f64>,
    /// What a vector of norm zero is worth; `None` for a failure.
    of_zero: Option<f64>,
}

impl Similarities {
    fn of(&self, answer: &str, reference: &str) -> Result<f64, Failure> {
        let vector = |text| self.vectors.of(text_of(text, self.empty));
        let similarity = cosine(vector(reference)?, vector(answer)?).or(self.of_zero);
        passes(similarity, self.threshold)
    }
}

impl Metric for AnswerCorrectness {
    fn outputs(&self) -> Vec<String> {
        vec![self.config.rules.metric().to_owned()]
    }

    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let rules = self.config.rules;
        let empty = match rules {
            CorrectnessRules::Ragas017 | CorrectnessRules::Ragas019 => EmptyText::AsItIs,
            _ => EmptyText::OneSpace,
        };
        let vectors = match &self.encoder {
            Some(encoder) if self.config.weights[1] > 0.0 => vectors(&**encoder, pairs, empty)?,
            _ => Vectors::default(),
        };
        let similarities = Similarities {
            vectors,
            empty,
            threshold: self.config.similarity_threshold,
            of_zero: (rules == CorrectnessRules::Ragas04Collections).then_some(0.0),
        };
        let verdicts =
            self.judging.judge_all(pairs, |interview, pair| self.score(interview, pair, &similarities))?;
        let mut measurement =
            verdicts.into_measurement(&self.judging, rules.metric(), rules.variant(), &rules.prompts());
        measurement = measurement
            .with_param("weights", self.config.weights.to_vec())
            .with_param("beta", self.config.beta)
            .with_param("similarity_threshold", self.config.similarity_threshold)
            .with_param("references", "best");
        if let Some(encoder) = &self.encoder {
            measurement = measurement.with_param("encoder", encoder.name());
        }
        Ok(vec![measurement])
    }

    fn estimate(&self, pairs: &[Pair]) -> Estimate {
        self.judging.plan(pairs, |plan, pair| {
            pair.references.iter().try_for_each(|reference| match self.config.rules {
                CorrectnessRules::Reconciled => reconciled::plan(plan, pair, reference),
                CorrectnessRules::Ragas017 => ragas::plan_017(plan, pair, reference),
                CorrectnessRules::Ragas019 => ragas::plan_019(plan, pair, reference),
                CorrectnessRules::Ragas04Legacy => ragas::plan_04(Class04::Legacy, plan, pair, reference),
                CorrectnessRules::Ragas04Collections => {
                    ragas::plan_04(Class04::Collections, plan, pair, reference)
                }
            })
        })
    }
}

impl fmt::Debug for AnswerCorrectness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerCorrectness")
            .field("judging", &self.judging)
            .field("encoder", &self.encoder.as_ref().map(|encoder| encoder.name()))
            .field("config", &self.config)
            .finish()
    }
}

/// The pieces of material that questions about a pair begin with.
fn with_question<'p>(pair: &'p Pair, pieces: &[(&'p str, &'p str)]) -> Vec<(&'p str, &'p str)> {
    let question = pair.instruction.as_deref().map(|question| ("QUESTION", question));
    question.into_iter().chain(pieces.iter().copied()).collect()
}

/// How long a question about these texts would be, roughly: they, and as much again for the rest.
fn expected_bytes(prompt: &Prompt, texts: &[&str]) -> usize {
    let rest = prompt.ask(&[]).messages.iter().map(|m| m.content.len()).sum::<usize>();
    rest + 2 * texts.iter().map(|text| text.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ragas 0.4.3, `fbeta_score`, and the two definitions of nothing.
    #[test]
    fn f_beta_equals_the_reference() {
        let counts = |tp, fp, fn_| Counts { tp, fp, fn_ };
        for (counts, beta, expected) in [
            (counts(1, 1, 5), 0.5, 0.357_142_857_142_857_15),
            (counts(1, 1, 5), 2.0, 0.192_307_692_307_692_3),
            (counts(1, 0, 1), 0.5, 0.833_333_333_333_333_4),
            (counts(1, 0, 1), 2.0, 0.555_555_555_555_555_6),
            (counts(2, 1, 1), 1.0, 0.666_666_666_666_666_6),
            (counts(0, 3, 0), 1.0, 0.0),
            (counts(0, 0, 3), 1.0, 0.0),
            (counts(3, 0, 0), 1.0, 1.0),
        ] {
            assert!((counts.f_beta(beta, 0.0) - expected).abs() < 1e-15, "{counts:?} {beta}");
            assert!((counts.f_beta(beta, 1.0) - expected).abs() < 1e-15, "{counts:?} {beta}");
        }
        assert_eq!((counts(0, 0, 0).f_beta(1.0, 0.0), counts(0, 0, 0).f_beta(1.0, 1.0)), (0.0, 1.0));
    }
}

//! RAGAS's Answer Semantic Similarity: the cosine of two vectors.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use ferrotune_core::Embedder;
use serde::{Deserialize, Serialize};

use crate::{
    Failure, FailureKind, Measurement, Metric, Pair, Result, SampleScore,
    judge::JudgeError,
    similarity::{check_vectors, cosine},
};

/// How many different texts go to the encoder at once.
const BATCH: usize = 64;

/// What an empty text is to an encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptyText {
    /// One space, as in ragas since 0.2.5: many servers refuse an empty text.
    #[default]
    OneSpace,
    /// Passed on as it is, as in ragas 0.1 and 0.2.0.
    AsItIs,
}

/// The cosine between the vectors of the answer and of the reference, as RAGAS's Answer Semantic Similarity has it; of
/// several references the closest counts.
///
/// Range -1 to 1, not clamped. A vector of norm zero has no direction: NaN in ragas, a counted failure here. The documents
/// of ragas speak of a cross-encoder; its code has none, and neither has this.
///
/// Texts that a server refuses or does not answer fail alone, with their samples.
#[derive(Clone)]
pub struct AnswerSimilarity {
    encoder: Arc<dyn Embedder>,
    threshold: Option<f64>,
    empty: EmptyText,
}

impl AnswerSimilarity {
    /// Similarity as `encoder` sees it. With a threshold a sample's score is 1 if it reaches that, else 0; a threshold of 0
    /// is the same as none, as in ragas.
    #[must_use]
    pub fn new(encoder: Arc<dyn Embedder>, threshold: Option<f64>, empty: EmptyText) -> Self {
        Self { encoder, threshold, empty }
    }
}

impl Metric for AnswerSimilarity {
    fn outputs(&self) -> Vec<String> {
        vec!["ragas_answer_semantic_similarity".to_owned()]
    }

    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let vectors = vectors(&*self.encoder, pairs, self.empty)?;
        let vector = |text: &str| match vectors.get(text_of(text, self.empty)) {
            Some(Ok(vector)) => Ok(vector.as_slice()),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(Failure { kind: FailureKind::NotMeasured, detail: "no vector".to_owned() }),
        };
        let score = |pair: &Pair| {
            let mut best =
                Err(Failure { kind: FailureKind::EmptyText, detail: "there is no reference".to_owned() });
            for reference in &pair.references {
                let score = passes(cosine(vector(reference)?, vector(&pair.prediction)?), self.threshold)?;
                best = Ok(best.map_or(score, |best: f64| best.max(score)));
            }
            best
        };
        let samples =
            pairs.iter().map(|pair| SampleScore { id: pair.id.clone(), extracted: None, score: score(pair) });
        let variant = match self.empty {
            EmptyText::OneSpace => "rules of ragas 0.2.5 to 0.4",
            EmptyText::AsItIs => "rules of ragas 0.1 and 0.2.0",
        };
        Ok(vec![
            Measurement::of_mean("ragas_answer_semantic_similarity", variant, samples.collect())
                .with_param("encoder", self.encoder.name())
                .with_param("threshold", self.threshold)
                .with_param("references", "best"),
        ])
    }
}

impl fmt::Debug for AnswerSimilarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerSimilarity")
            .field("encoder", &self.encoder.name())
            .field("threshold", &self.threshold)
            .field("empty", &self.empty)
            .finish()
    }
}

/// The text that the encoder gets.
pub(super) fn text_of(text: &str, empty: EmptyText) -> &str {
    if text.is_empty() && empty == EmptyText::OneSpace { " " } else { text }
}

/// A cosine as a score: a number, or whether it reaches the threshold.
pub(super) fn passes(cosine: Option<f64>, threshold: Option<f64>) -> Result<f64, Failure> {
    let cosine = cosine.ok_or_else(|| Failure {
        kind: FailureKind::ZeroNorm,
        detail: "the encoder gave a vector of norm zero, which has no direction; ragas gives NaN".to_owned(),
    })?;
    if !cosine.is_finite() {
        let detail = "the encoder gave a vector that is not finite".to_owned();
        return Err(Failure { kind: FailureKind::NotFinite, detail });
    }
    Ok(match threshold.filter(|&threshold| threshold != 0.0) {
        Some(threshold) => f64::from(u8::from(cosine >= threshold)),
        None => cosine,
    })
}

/// The vectors of all different texts of the pairs, each encoded once, or why there is none.
///
/// # Errors
/// Those of the encoder, but for texts that a server did not answer.
pub(super) fn vectors(
    encoder: &dyn Embedder,
    pairs: &[Pair],
    empty: EmptyText,
) -> Result<HashMap<String, Result<Vec<f32>, Failure>>> {
    let mut texts: Vec<&str> = Vec::new();
    let mut seen: HashSet<&str> = HashSet::new();
    for text in pairs.iter().flat_map(|p| p.references.iter().chain([&p.prediction])) {
        let text = text_of(text, empty);
        if seen.insert(text) {
            texts.push(text);
        }
    }
    let mut vectors = HashMap::new();
    for batch in texts.chunks(BATCH) {
        match encode(encoder, batch)? {
            Ok(found) => vectors.extend(batch.iter().map(|t| (*t).to_owned()).zip(found.into_iter().map(Ok))),
            // Refused at the first attempt: one text may be the reason, and the others need not fail with it.
            Err((_, 0)) if batch.len() > 1 => {
                for text in batch {
                    let found = encode(encoder, &[text])?.map(Vec::into_iter);
                    let found = found.map_err(|(failure, _)| failure).and_then(|mut found| {
                        found.next().ok_or_else(|| Failure {
                            kind: FailureKind::NotMeasured,
                            detail: "no vector".to_owned(),
                        })
                    });
                    vectors.insert((*text).to_owned(), found);
                }
            }
            Err((failure, _)) => {
                vectors.extend(batch.iter().map(|text| ((*text).to_owned(), Err(failure.clone()))));
            }
        }
    }
    Ok(vectors)
}

/// Vectors, or a failure and after how many retries it was given up.
type Encoded = Result<Vec<Vec<f32>>, (Failure, u32)>;

fn encode(encoder: &dyn Embedder, texts: &[&str]) -> Result<Encoded> {
    match encoder.embed(texts) {
        Ok(found) => {
            check_vectors(encoder, texts.len(), &found)?;
            Ok(Ok(found))
        }
        Err(source) => match source.downcast_ref::<JudgeError>() {
            Some(JudgeError::Unavailable { detail, retries }) => {
                let failure = Failure { kind: FailureKind::JudgeUnavailable, detail: detail.clone() };
                Ok(Err((failure, *retries)))
            }
            _ => Err(crate::Error::Encoder { encoder: encoder.name(), source }),
        },
    }
}

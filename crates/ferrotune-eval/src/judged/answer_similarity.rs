//! RAGAS's Answer Semantic Similarity: the cosine of two vectors.

use std::{fmt, sync::Arc};

use ferrotune_core::Embedder;
use serde::{Deserialize, Serialize};

use crate::{
    Failure, FailureKind, Measurement, Metric, Pair, Result, SampleScore,
    similarity::{Vectors, cosine},
};

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
        let vector = |text: &str| vectors.of(text_of(text, self.empty));
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

/// The vectors of all texts of the pairs, as the encoder gets them.
///
/// # Errors
/// Those of [`Vectors::new`].
pub(super) fn vectors(encoder: &dyn Embedder, pairs: &[Pair], empty: EmptyText) -> Result<Vectors> {
    let texts = pairs.iter().flat_map(|pair| pair.references.iter().chain([&pair.prediction]));
    Vectors::new(encoder, texts.map(|text| text_of(text, empty)))
}

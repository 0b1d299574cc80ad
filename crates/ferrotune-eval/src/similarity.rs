//! Semantic similarity: the cosine between sentence vectors.

use std::{collections::HashMap, fmt, sync::Arc};

use ferrotune_core::Embedder;

use crate::{Error, Failure, FailureKind, Measurement, Metric, Pair, Result, SampleScore};

/// How many different texts go to the encoder at once.
const BATCH: usize = 64;

/// The cosine of two vectors in double precision; `None` if one has norm zero. Range -1 to 1, not clamped, so rounding
/// can exceed it by an ulp.
///
/// ```
/// let cosine = ferrotune_eval::similarity::cosine(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.5]).unwrap();
/// assert!((cosine - 0.9992825883286348).abs() < 1e-15);
/// ```
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> Option<f64> {
    let dot =
        |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum() };
    let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
    (norms != 0.0).then(|| dot(a, b) / norms)
}

/// Semantic similarity over a sentence encoder: for each sample the cosine with its closest reference.
#[derive(Clone)]
pub struct SemanticSimilarity {
    encoder: Arc<dyn Embedder>,
}

impl SemanticSimilarity {
    /// Similarity as `encoder` sees it.
    #[must_use]
    pub fn new(encoder: Arc<dyn Embedder>) -> Self {
        Self { encoder }
    }

    /// The vectors of all different texts of the pairs, each encoded once.
    fn vectors<'p>(&self, pairs: &'p [Pair]) -> Result<HashMap<&'p str, Vec<f32>>> {
        let mut vectors: HashMap<&str, Vec<f32>> = HashMap::new();
        let mut texts: Vec<&str> = Vec::new();
        for text in pairs.iter().flat_map(|p| p.references.iter().chain([&p.prediction])) {
            if vectors.insert(text, Vec::new()).is_none() {
                texts.push(text);
            }
        }
        for batch in texts.chunks(BATCH) {
            let encoded = self
                .encoder
                .embed(batch)
                .map_err(|source| Error::Encoder { encoder: self.encoder.name(), source })?;
            check_vectors(&*self.encoder, batch.len(), &encoded)?;
            vectors.extend(batch.iter().copied().zip(encoded));
        }
        Ok(vectors)
    }
}

/// Refuses vectors of the wrong number or length.
pub(crate) fn check_vectors(encoder: &dyn Embedder, texts: usize, vectors: &[Vec<f32>]) -> Result<()> {
    let wrong =
        |found: String, expected: String| Error::EncoderShape { encoder: encoder.name(), found, expected };
    if vectors.len() != texts {
        return Err(wrong(format!("{} vectors", vectors.len()), format!("{texts}, one per text")));
    }
    let dimension = encoder.dimension();
    match vectors.iter().find(|vector| vector.len() != dimension) {
        Some(vector) => Err(wrong(format!("a vector of length {}", vector.len()), dimension.to_string())),
        None => Ok(()),
    }
}

impl fmt::Debug for SemanticSimilarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemanticSimilarity").field("encoder", &self.encoder.name()).finish()
    }
}

impl Metric for SemanticSimilarity {
    fn outputs(&self) -> Vec<String> {
        vec!["semantic_similarity".to_owned()]
    }

    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let vectors = self.vectors(pairs)?;
        let samples = pairs
            .iter()
            .map(|pair| {
                let prediction = &vectors[pair.prediction.as_str()];
                SampleScore {
                    id: pair.id.clone(),
                    extracted: None,
                    score: best_cosine(
                        prediction,
                        pair.references.iter().map(|r| vectors[r.as_str()].as_slice()),
                    ),
                }
            })
            .collect();
        Ok(vec![
            Measurement::of_mean(
                "semantic_similarity",
                "cosine of sentence vectors, best reference",
                samples,
            )
            .with_param("encoder", self.encoder.name())
            .with_param("dimension", self.encoder.dimension()),
        ])
    }
}

fn best_cosine<'v>(prediction: &[f32], references: impl Iterator<Item = &'v [f32]>) -> Result<f64, Failure> {
    let mut best: Option<f64> = None;
    for reference in references {
        let score = cosine(prediction, reference).ok_or_else(|| Failure {
            kind: FailureKind::ZeroNorm,
            detail: "the encoder gave a vector of norm zero, which has no direction".to_owned(),
        })?;
        if !score.is_finite() {
            return Err(Failure {
                kind: FailureKind::NotFinite,
                detail: "the encoder gave a vector that is not finite".to_owned(),
            });
        }
        best = Some(best.map_or(score, |best: f64| best.max(score)));
    }
    best.ok_or_else(|| Failure { kind: FailureKind::EmptyText, detail: "there is no reference".to_owned() })
}

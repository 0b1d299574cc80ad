//! Semantic similarity: the cosine between sentence vectors.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use ferrotune_core::Embedder;

use crate::{Error, Failure, FailureKind, Measurement, Metric, Pair, Result, SampleScore, judge::JudgeError};

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
}

/// The vectors of texts, or why a text has none.
#[derive(Default)]
pub(crate) struct Vectors(HashMap<String, Result<Vec<f32>, Failure>>);

impl Vectors {
    /// Encodes every different text once. A text that a server refuses or does not answer fails alone.
    ///
    /// # Errors
    /// [`Error::Encoder`], [`Error::EncoderShape`].
    pub(crate) fn new<'t>(encoder: &dyn Embedder, texts: impl IntoIterator<Item = &'t str>) -> Result<Self> {
        let mut seen: HashSet<&str> = HashSet::new();
        let texts: Vec<&str> = texts.into_iter().filter(|text| seen.insert(text)).collect();
        let mut vectors = HashMap::new();
        for batch in texts.chunks(BATCH) {
            match encode(encoder, batch)? {
                Ok(found) => {
                    vectors.extend(batch.iter().map(|t| (*t).to_owned()).zip(found.into_iter().map(Ok)));
                }
                // Refused at the first attempt: one text may be the reason, and the others need not fail with it.
                Err((_, 0)) if batch.len() > 1 => {
                    for text in batch {
                        let found = encode(encoder, &[text])?.map_err(|(failure, _)| failure);
                        let found = found.and_then(|mut found| found.pop().ok_or_else(no_vector));
                        vectors.insert((*text).to_owned(), found);
                    }
                }
                Err((failure, _)) => {
                    vectors.extend(batch.iter().map(|text| ((*text).to_owned(), Err(failure.clone()))));
                }
            }
        }
        Ok(Self(vectors))
    }

    /// The vector of a text that was encoded.
    pub(crate) fn of(&self, text: &str) -> Result<&[f32], Failure> {
        match self.0.get(text) {
            Some(Ok(vector)) => Ok(vector),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(no_vector()),
        }
    }
}

fn no_vector() -> Failure {
    Failure { kind: FailureKind::NotMeasured, detail: "no vector".to_owned() }
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
            Some(JudgeError::Unavailable { detail, retries, .. }) => {
                let failure = Failure { kind: FailureKind::JudgeUnavailable, detail: detail.clone() };
                Ok(Err((failure, *retries)))
            }
            _ => Err(Error::Encoder { encoder: encoder.name(), source }),
        },
    }
}

/// Refuses vectors of the wrong number or length.
fn check_vectors(encoder: &dyn Embedder, texts: usize, vectors: &[Vec<f32>]) -> Result<()> {
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
        let texts = pairs.iter().flat_map(|pair| pair.references.iter().chain([&pair.prediction]));
        let vectors = Vectors::new(&*self.encoder, texts.map(String::as_str))?;
        let samples = pairs.iter().map(|pair| SampleScore {
            id: pair.id.clone(),
            extracted: None,
            score: best_cosine(&vectors, pair),
        });
        let samples = samples.collect();
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

fn best_cosine(vectors: &Vectors, pair: &Pair) -> Result<f64, Failure> {
    let prediction = vectors.of(&pair.prediction)?;
    let mut best: Option<f64> = None;
    for reference in &pair.references {
        let score = cosine(prediction, vectors.of(reference)?).ok_or_else(|| Failure {
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

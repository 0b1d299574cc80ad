//! BERTScore: precision and recall of tokens matched by the cosine of their contextual vectors.
//!
//! *Source*: Zhang et al. 2020; `bert_score/utils.py` of the package bert-score 0.3.13. Unlike it, the result of a pair
//! does not depend on the pairs beside it (there, padding takes part in the maximum as a cosine of 0).

use std::{collections::HashMap, fmt, sync::Arc};

use ferrotune_core::{TokenEmbedder, TokenVectors};
use rayon::prelude::*;

use crate::{Error, Failure, FailureKind, Measurement, Metric, Pair, Result, SampleScore, rouge::Prf};

/// How many different texts go to the encoder at once.
const BATCH: usize = 32;

/// How many pairs are encoded before they are scored: bounds the memory that token vectors take.
const PAIRS: usize = 256;

/// A text with one token fewer than this is empty: all it has are the encoder's begin and end marks.
const MARKS: usize = 2;

/// How much a token weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenWeights {
    /// All alike, marks nothing.
    #[default]
    Equal,
    /// ln((N+1) / (df+1)) over the references of the pairs scored together. Scores then depend on the whole file.
    InverseDocumentFrequency,
}

/// Precision, recall and F of the baseline that scores are rescaled by: 0 stands for it, 1 for 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Baseline {
    /// Of precision, below 1.
    pub precision: f64,
    /// Of recall, below 1.
    pub recall: f64,
    /// Of F, below 1.
    pub f_measure: f64,
}

/// BERTScore over an encoder.
#[derive(Clone)]
pub struct BertScore {
    encoder: Arc<dyn TokenEmbedder>,
    weights: TokenWeights,
    baseline: Option<Baseline>,
}

impl BertScore {
    /// BERTScore as `encoder` sees it, not rescaled.
    #[must_use]
    pub fn new(encoder: Arc<dyn TokenEmbedder>, weights: TokenWeights) -> Self {
        Self { encoder, weights, baseline: None }
    }

    /// The same score, rescaled: (x - b) / (1 - b).
    #[must_use]
    pub fn rescaled(mut self, baseline: Baseline) -> Self {
        self.baseline = Some(baseline);
        self
    }

    /// The scores of every pair; with several references the best precision, recall and F, each for itself.
    ///
    /// # Errors
    /// [`Error::Encoder`] and [`Error::EncoderShape`].
    pub fn score_pairs(&self, pairs: &[Pair]) -> Result<Vec<Result<Prf, Failure>>> {
        Ok(self.score(pairs)?.0)
    }

    /// The scores, and in how many pairs the encoder cut a text.
    fn score(&self, pairs: &[Pair]) -> Result<(Vec<Result<Prf, Failure>>, usize)> {
        let together = match self.weights {
            TokenWeights::Equal => PAIRS,
            // How rare a token is depends on all references.
            TokenWeights::InverseDocumentFrequency => pairs.len().max(1),
        };
        let (mut scores, mut truncated) = (Vec::with_capacity(pairs.len()), 0);
        for pairs in pairs.chunks(together) {
            let encoded = self.encode(pairs)?;
            let weights = self.weights_of(pairs, &encoded);
            scores.par_extend(pairs.par_iter().map(|pair| self.best_of_references(pair, &encoded, &weights)));
            let is_cut = |text: &String| encoded[text.trim()].is_truncated;
            truncated +=
                pairs.iter().filter(|p| is_cut(&p.prediction) || p.references.iter().any(is_cut)).count();
        }
        Ok((scores, truncated))
    }

    fn best_of_references(
        &self,
        pair: &Pair,
        encoded: &HashMap<&str, TokenVectors>,
        weights: &Weights,
    ) -> Result<Prf, Failure> {
        let prediction = &encoded[pair.prediction.trim()];
        let mut best: Option<Prf> = None;
        for reference in &pair.references {
            let score = self.match_tokens(prediction, &encoded[reference.trim()], weights);
            if ![score.precision, score.recall].iter().all(|x| x.is_finite()) {
                let is_weightless =
                    [prediction, &encoded[reference.trim()]].iter().any(|text| weights.sum(&text.ids) == 0.0);
                let detail = if is_weightless {
                    "idf gives every token of a text the weight 0, because all references hold it"
                } else {
                    "a token's vector is zero or not finite"
                };
                return Err(Failure { kind: FailureKind::NotFinite, detail: detail.to_owned() });
            }
            let score = self.rescale(score);
            best = Some(best.map_or(score, |best| Prf {
                precision: best.precision.max(score.precision),
                recall: best.recall.max(score.recall),
                f_measure: best.f_measure.max(score.f_measure),
            }));
        }
        best.ok_or_else(|| Failure {
            kind: FailureKind::EmptyText,
            detail: "there is no reference".to_owned(),
        })
    }

    fn rescale(&self, score: Prf) -> Prf {
        let Some(baseline) = self.baseline else { return score };
        let rescale = |x: f64, b: f64| (x - b) / (1.0 - b);
        Prf {
            precision: rescale(score.precision, baseline.precision),
            recall: rescale(score.recall, baseline.recall),
            f_measure: rescale(score.f_measure, baseline.f_measure),
        }
    }

    /// Greedy matching: every token of one side finds its closest one on the other, marks included; the closeness is
    /// averaged by weight, in which marks count nothing.
    fn match_tokens(&self, prediction: &TokenVectors, reference: &TokenVectors, weights: &Weights) -> Prf {
        if prediction.ids.len() <= MARKS || reference.ids.len() <= MARKS {
            return Prf::default();
        }
        let dimension = self.encoder.dimension().max(1);
        let mut closest_to_prediction = vec![f64::NEG_INFINITY; prediction.ids.len()];
        let mut closest_to_reference = vec![f64::NEG_INFINITY; reference.ids.len()];
        for (p, vector) in closest_to_prediction.iter_mut().zip(prediction.vectors.chunks_exact(dimension)) {
            for (r, other) in closest_to_reference.iter_mut().zip(reference.vectors.chunks_exact(dimension)) {
                let cosine = dot(vector, other);
                *p = p.max(cosine);
                *r = r.max(cosine);
                if cosine.is_nan() {
                    return Prf { precision: f64::NAN, recall: f64::NAN, f_measure: f64::NAN };
                }
            }
        }
        let average = |closest: &[f64], ids: &[u32]| {
            let weighted: f64 = closest.iter().zip(ids).map(|(x, &id)| x * weights.of(id)).sum();
            weighted / weights.sum(ids)
        };
        let precision = average(&closest_to_prediction, &prediction.ids);
        let recall = average(&closest_to_reference, &reference.ids);
        // Cosines can be negative, so the harmonic mean is taken as it is; 0/0 counts as 0.
        let f_measure = 2.0 * precision * recall / (precision + recall);
        Prf { precision, recall, f_measure: if f_measure.is_nan() { 0.0 } else { f_measure } }
    }

    fn encode<'p>(&self, pairs: &'p [Pair]) -> Result<HashMap<&'p str, TokenVectors>> {
        let mut texts: Vec<&str> = pairs
            .iter()
            .flat_map(|p| p.references.iter().chain([&p.prediction]))
            .map(|text| text.trim())
            .collect();
        texts.sort_unstable();
        texts.dedup();
        let mut encoded = HashMap::with_capacity(texts.len());
        for batch in texts.chunks(BATCH) {
            let vectors = self
                .encoder
                .embed_tokens(batch)
                .map_err(|source| Error::Encoder { encoder: self.encoder.name(), source })?;
            let dimension = self.encoder.dimension();
            let wrong = vectors.iter().find(|of_text| of_text.ids.len() * dimension != of_text.vectors.len());
            if vectors.len() != batch.len() || wrong.is_some() {
                return Err(Error::EncoderShape {
                    encoder: self.encoder.name(),
                    found: match wrong {
                        Some(text) => format!("{} numbers for {} tokens", text.vectors.len(), text.ids.len()),
                        None => format!("{} texts", vectors.len()),
                    },
                    expected: format!("{} texts with {dimension} numbers for every token", batch.len()),
                });
            }
            let normalized = vectors.into_iter().map(|text| normalize(text, dimension));
            encoded.extend(batch.iter().copied().zip(normalized));
        }
        Ok(encoded)
    }

    fn weights_of(&self, pairs: &[Pair], encoded: &HashMap<&str, TokenVectors>) -> Weights {
        let mut weights = Weights { of_id: HashMap::new(), otherwise: 1.0 };
        match self.weights {
            TokenWeights::Equal => weights.of_id.extend(self.encoder.mark_ids().map(|id| (id, 0.0))),
            TokenWeights::InverseDocumentFrequency => {
                let mut documents = 0.0;
                for reference in pairs.iter().flat_map(|pair| &pair.references) {
                    let mut ids = encoded[reference.trim()].ids.clone();
                    ids.sort_unstable();
                    ids.dedup();
                    ids.into_iter().for_each(|id| *weights.of_id.entry(id).or_default() += 1.0);
                    documents += 1.0;
                }
                weights.of_id.values_mut().for_each(|df| *df = ((documents + 1.0) / (*df + 1.0)).ln());
                weights.otherwise = (documents + 1.0_f64).ln();
            }
        }
        weights
    }
}

struct Weights {
    of_id: HashMap<u32, f64>,
    otherwise: f64,
}

impl Weights {
    fn of(&self, id: u32) -> f64 {
        self.of_id.get(&id).copied().unwrap_or(self.otherwise)
    }

    fn sum(&self, ids: &[u32]) -> f64 {
        ids.iter().map(|&id| self.of(id)).sum()
    }
}

fn normalize(mut text: TokenVectors, dimension: usize) -> TokenVectors {
    for vector in text.vectors.chunks_exact_mut(dimension.max(1)) {
        let norm = dot(vector, vector).sqrt() as f32;
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    text
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

impl fmt::Debug for BertScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BertScore")
            .field("encoder", &self.encoder.name())
            .field("weights", &self.weights)
            .field("baseline", &self.baseline)
            .finish()
    }
}

impl Metric for BertScore {
    fn outputs(&self) -> Vec<String> {
        let name = match self.weights {
            TokenWeights::Equal => "bert_score",
            TokenWeights::InverseDocumentFrequency => "bert_score_idf",
        };
        vec![format!("{name}_precision"), format!("{name}_recall"), name.to_owned()]
    }

    /// In the parameter `samples_truncated` stands how many samples have a text that is longer than the encoder reads.
    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let (scores, truncated) = self.score(pairs)?;
        let parts: [fn(&Prf) -> f64; 3] = [|s| s.precision, |s| s.recall, |s| s.f_measure];
        let weights = match self.weights {
            TokenWeights::Equal => "equal weights",
            TokenWeights::InverseDocumentFrequency => "idf weights",
        };
        let scale = if self.baseline.is_some() { "rescaled" } else { "not rescaled" };
        let of_part = |(name, part): (String, fn(&Prf) -> f64)| {
            let samples = pairs.iter().zip(&scores).map(|(pair, score)| SampleScore {
                id: pair.id.clone(),
                extracted: None,
                score: score.as_ref().map(part).map_err(Clone::clone),
            });
            Measurement::of_mean(name, format!("{weights}, {scale}, best reference"), samples.collect())
                .with_param("encoder", self.encoder.name())
                .with_param("samples_truncated", truncated)
        };
        Ok(self.outputs().into_iter().zip(parts).map(of_part).collect())
    }
}

//! METEOR: by the rules of nltk 3.10.4, and corrected, as the metric's papers define it.
//!
//! [`Meteor`] equals nltk: matching is greedy from the last word, and synonyms are looked up by stem. [`CorrectedMeteor`]
//! keeps nltk's weights and finds the alignment that the definition asks for, phrases of a user's [`Paraphrases`]
//! included. Neither is the authors' Java program: tokens are whatever the caller cuts (whitespace, for [`Metric`]s), and
//! function words count like all others.
//!
//! *Source*: Banerjee and Lavie 2005; Lavie and Agarwal 2007; Denkowski and Lavie 2010 for phrases;
//! `nltk/translate/meteor_score.py`.

mod alignment;
mod components;
mod corrected;
mod greedy;
mod paraphrases;
mod search;
mod wordnet;

use std::sync::Arc;

use rayon::prelude::*;

pub use alignment::{Alignment, Match, Module, ModuleWeights};
pub use corrected::CorrectedMeteor;
pub use paraphrases::Paraphrases;
pub use wordnet::WordNet;

use crate::{Error, Measurement, Metric, Pair, Result, SampleScore, python_text};

/// The version of nltk whose scores these are.
pub const NLTK_VERSION: &str = "3.10.4";

/// What METEOR knows of a language beyond its words; both may be absent.
#[derive(Clone, Debug, Default)]
pub struct Lexicon {
    /// Synonyms.
    pub wordnet: Option<Arc<WordNet>>,
    /// Phrases that mean the same; [`CorrectedMeteor`] alone uses them.
    pub paraphrases: Option<Arc<Paraphrases>>,
}

/// Weights of METEOR. The default is nltk's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeteorConfig {
    /// The weight of precision in the mean: P·R / (α·P + (1-α)·R). Range 0 to 1.
    pub alpha: f64,
    /// The exponent of the fragmentation, not negative.
    pub beta: f64,
    /// The most that fragmentation can take away. Range 0 to 1.
    pub gamma: f64,
}

impl Default for MeteorConfig {
    fn default() -> Self {
        Self { alpha: 0.9, beta: 3.0, gamma: 0.5 }
    }
}

impl MeteorConfig {
    fn check(&self) -> Result<()> {
        for (option, value, high) in
            [("alpha", self.alpha, 1.0), ("beta", self.beta, f64::MAX), ("gamma", self.gamma, 1.0)]
        {
            if !(0.0..=high).contains(&value) {
                return Err(Error::Setting {
                    option,
                    found: value.to_string(),
                    expected: "0 to 1 (beta: not negative)",
                });
            }
        }
        Ok(())
    }

    /// The mean of precision and recall, less the penalty for `chunks` among `matched` words.
    fn score(&self, precision: f64, recall: f64, chunks: usize, matched: f64) -> f64 {
        let mean = (precision * recall) / (self.alpha * precision + (1.0 - self.alpha) * recall);
        let penalty = self.gamma * (chunks as f64 / matched).powf(self.beta);
        (1.0 - penalty) * mean
    }
}

/// METEOR as nltk computes it, with its weights and, where there is one, a dictionary of synonyms.
///
/// ```
/// use ferrotune_eval::meteor::{Meteor, MeteorConfig};
/// let meteor = Meteor::new(MeteorConfig::default(), None)?;
/// let score = meteor.score(&["the", "cat", "sat", "on", "the", "mat"], &["on", "the", "mat", "sat", "the", "cat"]);
/// assert_eq!(score, 0.5);
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Meteor {
    config: MeteorConfig,
    wordnet: Option<Arc<WordNet>>,
}

impl Meteor {
    /// METEOR with these weights. Without a dictionary the synonym stage matches nothing new, and the variant is named
    /// so.
    ///
    /// # Errors
    /// [`Error::Setting`] for a weight outside its range.
    pub fn new(config: MeteorConfig, wordnet: Option<Arc<WordNet>>) -> Result<Self> {
        config.check()?;
        Ok(Self { config, wordnet })
    }

    /// The score of a tokenized prediction against one tokenized reference, 0 to 1; identical texts of one word reach
    /// only 0.5, since the penalty counts their one chunk.
    #[must_use]
    pub fn score(&self, reference: &[impl AsRef<str>], prediction: &[impl AsRef<str>]) -> f64 {
        let alignment = greedy::align(reference, prediction, self.wordnet.as_deref());
        if alignment.is_empty() {
            return 0.0;
        }
        let matched = alignment.len() as f64;
        let (precision, recall) = (matched / prediction.len() as f64, matched / reference.len() as f64);
        self.config.score(precision, recall, greedy::chunks(&alignment), matched)
    }

    fn variant(&self) -> String {
        let synonyms = match &self.wordnet {
            None => "without wordnet: exact and stem stages only",
            Some(_) => "wordnet looked up by stem, as nltk does",
        };
        format!("nltk {NLTK_VERSION} rules, whitespace tokens, {synonyms}, best reference, mean over samples")
    }
}

impl Metric for Meteor {
    fn outputs(&self) -> Vec<String> {
        vec!["meteor".to_owned()]
    }

    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let words = |text| python_text::split(text).collect::<Vec<&str>>();
        let samples = pairs
            .par_iter()
            .map(|pair| {
                let prediction = words(&pair.prediction);
                let scores =
                    pair.references.iter().map(|reference| self.score(&words(reference), &prediction));
                SampleScore { id: pair.id.clone(), extracted: None, score: Ok(scores.fold(0.0, f64::max)) }
            })
            .collect();
        Ok(vec![with_weights(Measurement::of_mean("meteor", self.variant(), samples), &self.config)])
    }
}

fn with_weights(measurement: Measurement, config: &MeteorConfig) -> Measurement {
    measurement
        .with_param("alpha", config.alpha)
        .with_param("beta", config.beta)
        .with_param("gamma", config.gamma)
}

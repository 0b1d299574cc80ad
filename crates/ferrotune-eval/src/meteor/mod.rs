//! METEOR by the rules of nltk 3.10.4, and a variant without its quirk.
//!
//! *Source*: Lavie and Agarwal 2007; `nltk/translate/meteor_score.py`. It is not the authors' Java program: matching is
//! greedy from the last word, there is no paraphrase table, and tokens are whatever the caller cuts.

mod wordnet;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use rayon::prelude::*;
pub use wordnet::WordNet;

use crate::{Error, Measurement, Metric, Pair, Result, SampleScore, porter_stem, python_text};

/// The version of nltk whose scores these are.
pub const NLTK_VERSION: &str = "3.10.4";

/// Which words the synonym stage looks up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynonymLookup {
    /// The stems that the stem stage left behind, as nltk does it: `automobile` is looked up as `automobil`, which no
    /// dictionary has.
    #[default]
    Stems,
    /// The words themselves, as the metric's definition has it. Not nltk's numbers.
    Words,
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
    /// Which words the synonym stage looks up.
    pub lookup: SynonymLookup,
}

impl Default for MeteorConfig {
    fn default() -> Self {
        Self { alpha: 0.9, beta: 3.0, gamma: 0.5, lookup: SynonymLookup::Stems }
    }
}

/// METEOR with its weights and, where there is one, a dictionary of synonyms.
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

/// A word that is still free, with its place in the sentence.
#[derive(Clone, Debug)]
struct Free {
    place: usize,
    form: String,
    /// The word before stemming.
    word: String,
}

impl Meteor {
    /// METEOR with these weights. Without a dictionary the synonym stage matches nothing new, and the variant is named
    /// so.
    ///
    /// # Errors
    /// [`Error::Setting`] for a weight outside its range.
    pub fn new(config: MeteorConfig, wordnet: Option<Arc<WordNet>>) -> Result<Self> {
        for (option, value, high) in
            [("alpha", config.alpha, 1.0), ("beta", config.beta, f64::MAX), ("gamma", config.gamma, 1.0)]
        {
            if !(0.0..=high).contains(&value) {
                return Err(Error::Setting {
                    option,
                    found: value.to_string(),
                    expected: "0 to 1 (beta: not negative)",
                });
            }
        }
        Ok(Self { config, wordnet })
    }

    /// The score of a tokenized prediction against one tokenized reference, 0 to 1; identical texts of one word reach
    /// only 0.5, since the penalty counts their one chunk.
    #[must_use]
    pub fn score(&self, reference: &[impl AsRef<str>], prediction: &[impl AsRef<str>]) -> f64 {
        let alignment = self.align(free(reference), free(prediction));
        let matched = alignment.len() as f64;
        if alignment.is_empty() {
            return 0.0;
        }
        let precision = matched / prediction.len() as f64;
        let recall = matched / reference.len() as f64;
        let MeteorConfig { alpha, beta, gamma, .. } = self.config;
        let mean = (precision * recall) / (alpha * precision + (1.0 - alpha) * recall);
        let penalty = gamma * (chunks(&alignment) as f64 / matched).powf(beta);
        (1.0 - penalty) * mean
    }

    /// Pairs of places (prediction, reference) that match, sorted by the prediction's.
    fn align(&self, mut reference: Vec<Free>, mut prediction: Vec<Free>) -> Vec<(usize, usize)> {
        let mut alignment = Vec::new();
        match_equal(&mut reference, &mut prediction, &mut alignment);
        for word in reference.iter_mut().chain(&mut prediction) {
            word.form = porter_stem(&word.form);
        }
        match_equal(&mut reference, &mut prediction, &mut alignment);
        if let Some(wordnet) = &self.wordnet {
            if self.config.lookup == SynonymLookup::Words {
                for word in reference.iter_mut().chain(&mut prediction) {
                    word.form = std::mem::take(&mut word.word);
                }
            }
            match_by(&mut reference, &mut prediction, &mut alignment, |form| {
                let mut forms: HashSet<String> = wordnet.synonyms(form);
                forms.insert(form.to_owned());
                forms.into_iter().collect()
            });
        }
        alignment.sort_unstable();
        alignment
    }

    fn name(&self) -> &'static str {
        match self.config.lookup {
            SynonymLookup::Stems => "meteor",
            SynonymLookup::Words => "meteor_corrected",
        }
    }

    fn variant(&self) -> String {
        let synonyms = match (&self.wordnet, self.config.lookup) {
            (None, _) => "without wordnet: exact and stem stages only",
            (Some(_), SynonymLookup::Stems) => "wordnet looked up by stem, as nltk does",
            (Some(_), SynonymLookup::Words) => "wordnet looked up by word, corrected, not nltk's numbers",
        };
        format!("nltk {NLTK_VERSION} rules, whitespace tokens, {synonyms}, best reference, mean over samples")
    }
}

fn free(words: &[impl AsRef<str>]) -> Vec<Free> {
    let of_word = |(place, word): (usize, &_)| {
        let form = AsRef::<str>::as_ref(word).to_lowercase();
        Free { place, word: form.clone(), form }
    };
    words.iter().enumerate().map(of_word).collect()
}

fn match_equal(reference: &mut Vec<Free>, prediction: &mut Vec<Free>, alignment: &mut Vec<(usize, usize)>) {
    match_by(reference, prediction, alignment, |form| vec![form.to_owned()]);
}

/// Takes the predicted words from the last to the first, gives each the last free reference word among its acceptable
/// forms, and removes both from what is free.
fn match_by(
    reference: &mut Vec<Free>,
    prediction: &mut Vec<Free>,
    alignment: &mut Vec<(usize, usize)>,
    acceptable: impl Fn(&str) -> Vec<String>,
) {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, word) in reference.iter().enumerate() {
        places.entry(&word.form).or_default().push(at);
    }
    let mut taken = (vec![false; reference.len()], vec![false; prediction.len()]);
    for (at, word) in prediction.iter().enumerate().rev() {
        let forms = acceptable(&word.form);
        let last_of = |form: &String| places.get(form.as_str()).and_then(|free| free.last().copied());
        if let Some((found, form)) = forms.iter().filter_map(|form| Some((last_of(form)?, form))).max()
            && let Some(free) = places.get_mut(form.as_str())
        {
            free.pop();
            taken.0[found] = true;
            taken.1[at] = true;
            alignment.push((word.place, reference[found].place));
        }
    }
    retain_free(reference, &taken.0);
    retain_free(prediction, &taken.1);
}

fn retain_free(words: &mut Vec<Free>, taken: &[bool]) {
    let mut taken = taken.iter();
    words.retain(|_| taken.next() == Some(&false));
}

/// Runs of matches that are adjacent and in the same order on both sides.
fn chunks(alignment: &[(usize, usize)]) -> usize {
    1 + alignment.windows(2).filter(|pair| pair[1] != (pair[0].0 + 1, pair[0].1 + 1)).count()
}

impl Metric for Meteor {
    fn outputs(&self) -> Vec<String> {
        vec![self.name().to_owned()]
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
        Ok(vec![
            Measurement::of_mean(self.name(), self.variant(), samples)
                .with_param("alpha", self.config.alpha)
                .with_param("beta", self.config.beta)
                .with_param("gamma", self.config.gamma),
        ])
    }
}

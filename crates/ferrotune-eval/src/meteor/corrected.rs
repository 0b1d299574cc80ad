//! METEOR as its papers define it.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{
    Alignment, Lexicon, Match, MeteorConfig, Module, ModuleWeights, WordNet,
    search::{BEAM, best},
    with_weights,
};
use crate::{Error, Measurement, Metric, Pair, Result, SampleScore, porter_stem, python_text};

/// METEOR with the alignment of its definition, where [`Meteor`](super::Meteor) repeats nltk's. Not nltk's numbers.
///
/// Words match if they are equal, have one Porter stem, or share a synset; phrases match if the user's table pairs them.
/// A pair of words that several modules match belongs to the one that weighs most. The alignment covers the most words,
/// then has the largest weight, the fewest crossings, the fewest chunks, the least distance.
///
/// ```
/// use ferrotune_eval::meteor::{CorrectedMeteor, Lexicon, MeteorConfig, ModuleWeights};
/// let meteor = CorrectedMeteor::new(MeteorConfig::default(), ModuleWeights::default(), Lexicon::default())?;
/// // nltk takes the second `a`, and so has the two words cross.
/// let alignment = meteor.align(&["a", "b", "a"], &["a", "b"]);
/// assert_eq!((alignment.crossings(), alignment.chunks()), (0, 1));
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CorrectedMeteor {
    config: MeteorConfig,
    weights: ModuleWeights,
    lexicon: Lexicon,
}

impl CorrectedMeteor {
    /// METEOR with these weights and what there is of a lexicon.
    ///
    /// # Errors
    /// [`Error::Setting`] for a weight outside its range.
    pub fn new(config: MeteorConfig, weights: ModuleWeights, lexicon: Lexicon) -> Result<Self> {
        config.check()?;
        for (option, weight) in [
            ("weight of exact matches", weights.exact),
            ("weight of stem matches", weights.stem),
            ("weight of synonym matches", weights.synonym),
            ("weight of paraphrase matches", weights.paraphrase),
        ] {
            if !(0.0..=1.0).contains(&weight) {
                return Err(Error::Setting { option, found: weight.to_string(), expected: "0 to 1" });
            }
        }
        Ok(Self { config, weights, lexicon })
    }

    /// The best alignment of a tokenized prediction with one tokenized reference.
    #[must_use]
    pub fn align(&self, reference: &[impl AsRef<str>], prediction: &[impl AsRef<str>]) -> Alignment {
        let (reference, prediction) = (lower_all(reference), lower_all(prediction));
        let matches = self.matches(&reference, &prediction);
        best((prediction.len(), reference.len()), &matches, &self.weights, BEAM)
    }

    /// The score of a tokenized prediction against one tokenized reference, 0 to 1.
    #[must_use]
    pub fn score(&self, reference: &[impl AsRef<str>], prediction: &[impl AsRef<str>]) -> f64 {
        self.score_of(&self.align(reference, prediction), reference.len(), prediction.len())
    }

    /// Precision and recall count the matched words of their side, each with its module's weight; the penalty is for
    /// the chunks among the matched words, averaged over both sides.
    fn score_of(&self, alignment: &Alignment, reference: usize, prediction: usize) -> f64 {
        let weighted = |length: fn(&Match) -> usize| -> f64 {
            alignment.matches.iter().map(|found| self.weights.of(found.module) * length(found) as f64).sum()
        };
        let precision = weighted(|found| found.prediction.len()) / prediction as f64;
        let recall = weighted(|found| found.reference.len()) / reference as f64;
        let words: usize =
            alignment.matches.iter().map(|found| found.prediction.len() + found.reference.len()).sum();
        // Without a match, or with none that weighs anything, there is nothing to divide by.
        if !(precision > 0.0 && recall > 0.0) {
            return 0.0;
        }
        self.config.score(precision, recall, alignment.chunks(), words as f64 / 2.0)
    }

    /// Every match there is between two texts in lower case, one for each pair of places.
    fn matches(&self, reference: &[String], prediction: &[String]) -> Vec<Match> {
        let mut found: HashMap<(usize, usize, usize, usize), Module> = HashMap::new();
        let mut add = |(i, m): (usize, usize), (j, n): (usize, usize), module: Module| {
            let known = found.entry((i, m, j, n)).or_insert(module);
            if self.weights.rank(module) > self.weights.rank(*known) {
                *known = module;
            }
        };
        let forms = |words: &[String]| words.iter().map(|word| porter_stem(word)).collect::<Vec<_>>();
        for_equal(prediction, reference, |i, j| add((i, 1), (j, 1), Module::Exact));
        for_equal(&forms(prediction), &forms(reference), |i, j| add((i, 1), (j, 1), Module::Stem));
        if let Some(wordnet) = &self.lexicon.wordnet {
            for_synonyms(wordnet, prediction, reference, |i, j| add((i, 1), (j, 1), Module::Synonym));
        }
        if let Some(paraphrases) = &self.lexicon.paraphrases {
            for i in 0..prediction.len() {
                for m in 1..=paraphrases.longest().min(prediction.len() - i) {
                    for other in paraphrases.of(&prediction[i..i + m]) {
                        let places = reference.windows(other.len()).enumerate();
                        for (j, _) in places.filter(|(_, words)| words == other) {
                            add((i, m), (j, other.len()), Module::Paraphrase);
                        }
                    }
                }
            }
        }
        let of_places = |((i, m, j, n), module)| Match { prediction: i..i + m, reference: j..j + n, module };
        let mut matches: Vec<Match> = found.into_iter().map(of_places).collect();
        matches.sort_by_key(|found| {
            let (prediction, reference) = (&found.prediction, &found.reference);
            (prediction.start, prediction.end, reference.start, reference.end)
        });
        matches
    }

    fn variant(&self) -> String {
        let wordnet = if self.lexicon.wordnet.is_some() { "synonyms of wordnet" } else { "without wordnet" };
        let paraphrases = match &self.lexicon.paraphrases {
            None => "without paraphrases".to_owned(),
            Some(table) => format!("a table of {} paraphrases", table.len()),
        };
        format!(
            "corrected, not nltk's numbers: most words, fewest crossings, {wordnet}, {paraphrases}, whitespace tokens, \
             best reference, mean over samples"
        )
    }
}

impl Metric for CorrectedMeteor {
    fn outputs(&self) -> Vec<String> {
        vec!["meteor_corrected".to_owned()]
    }

    /// The number of samples with an alignment that could not be proven to be the best is the parameter
    /// `alignments_not_proven`.
    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let words = |text| python_text::split(text).collect::<Vec<&str>>();
        let scores: Vec<(f64, bool)> = pairs
            .par_iter()
            .map(|pair| {
                let prediction = words(&pair.prediction);
                pair.references.iter().fold((0.0, true), |(score, exact), reference| {
                    let reference = words(reference);
                    let alignment = self.align(&reference, &prediction);
                    let found = self.score_of(&alignment, reference.len(), prediction.len());
                    (found.max(score), exact && alignment.is_exact)
                })
            })
            .collect();
        let sample = |(pair, &(score, _)): (&Pair, &(f64, bool))| SampleScore {
            id: pair.id.clone(),
            extracted: None,
            score: Ok(score),
        };
        let samples = pairs.iter().zip(&scores).map(sample).collect();
        let not_proven = scores.iter().filter(|(_, exact)| !exact).count();
        let measurement =
            with_weights(Measurement::of_mean("meteor_corrected", self.variant(), samples), &self.config)
                .with_param("weight_exact", self.weights.exact)
                .with_param("weight_stem", self.weights.stem)
                .with_param("weight_synonym", self.weights.synonym)
                .with_param("weight_paraphrase", self.weights.paraphrase)
                .with_param("alignments_not_proven", not_proven);
        Ok(vec![match &self.lexicon.paraphrases {
            None => measurement,
            Some(table) => measurement.with_param("paraphrases_sha256", table.fingerprint()),
        }])
    }
}

fn lower_all(words: &[impl AsRef<str>]) -> Vec<String> {
    words.iter().map(|word| word.as_ref().to_lowercase()).collect()
}

/// Calls `with` for the places of all equal words.
fn for_equal(prediction: &[String], reference: &[String], mut with: impl FnMut(usize, usize)) {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (j, word) in reference.iter().enumerate() {
        places.entry(word).or_default().push(j);
    }
    for (i, word) in prediction.iter().enumerate() {
        places.get(word.as_str()).into_iter().flatten().for_each(|&j| with(i, j));
    }
}

/// Calls `with` for the places of all words that share a synset.
fn for_synonyms(
    wordnet: &WordNet,
    prediction: &[String],
    reference: &[String],
    mut with: impl FnMut(usize, usize),
) {
    let mut places: HashMap<_, Vec<usize>> = HashMap::new();
    for (j, word) in reference.iter().enumerate() {
        wordnet.synsets(word).into_iter().for_each(|synset| places.entry(synset).or_default().push(j));
    }
    for (i, word) in prediction.iter().enumerate() {
        for synset in wordnet.synsets(word) {
            places.get(&synset).into_iter().flatten().for_each(|&j| with(i, j));
        }
    }
}

//! chrF and chrF++ as sacrebleu 2.6.0 computes them.
//!
//! *Source*: Popović 2015, 2017; `sacrebleu/metrics/chrf.py`.

use ndarray::Array2;
use rayon::prelude::*;

use crate::{
    Error, Measurement, Metric, Pair, Result, SampleScore, Tally,
    bleu::references_per_segment,
    ngram::{Interner, Overlap, gram_count},
    python_text,
    sacrebleu::{Rounding, SACREBLEU_VERSION, SegmentStatistics},
};

/// Precision and recall of an order that one side is too short for, under epsilon smoothing.
const EPSILON: f64 = 1e-16;

/// Settings of chrF. The default is sacrebleu's chrF2: character n-grams up to 6, no words, recall weighted twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChrfConfig {
    /// The longest character n-grams, at least 1.
    pub char_order: usize,
    /// The longest word n-grams; 2 makes it chrF++.
    pub word_order: usize,
    /// How much more recall weighs than precision, at least 1.
    pub beta: u32,
    /// Whether texts are put into lower case first.
    pub lowercase: bool,
    /// Whether whitespace takes part in character n-grams.
    pub whitespace: bool,
    /// Whether orders that a text is too short for count with a tiny value, as in the authors' script, instead of being
    /// left out of the mean.
    pub eps_smoothing: bool,
}

impl Default for ChrfConfig {
    fn default() -> Self {
        Self {
            char_order: 6,
            word_order: 0,
            beta: 2,
            lowercase: false,
            whitespace: false,
            eps_smoothing: false,
        }
    }
}

/// chrF with its settings.
///
/// ```
/// use ferrotune_eval::chrf::{Chrf, ChrfConfig};
/// let chrf = Chrf::new(ChrfConfig::default())?;
/// assert_eq!(chrf.sentence("the cat", &["the cat"]), 100.0);
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chrf {
    config: ChrfConfig,
}

#[derive(Debug, Default)]
struct Scratch {
    ids: Ids,
    overlap: Overlap,
}

#[derive(Debug, Default)]
struct Ids {
    chars: Interner,
    words: Interner,
}

/// A text as ids: its characters, and its words.
struct Parts {
    chars: Vec<u32>,
    words: Vec<u32>,
}

impl Chrf {
    /// chrF with the given settings.
    ///
    /// # Errors
    /// [`Error::Setting`] for a character order or a beta of 0.
    pub fn new(config: ChrfConfig) -> Result<Self> {
        for (option, value) in [("char_order", config.char_order), ("beta", config.beta as usize)] {
            if value == 0 {
                return Err(Error::Setting { option, found: "0".to_owned(), expected: "at least 1" });
            }
        }
        Ok(Self { config })
    }

    /// The score of one segment against its best reference, 0 to 100.
    #[must_use]
    pub fn sentence(&self, hypothesis: &str, references: &[impl AsRef<str>]) -> f64 {
        let references = references.iter().map(AsRef::as_ref);
        self.score_row(&self.row(&mut Scratch::default(), hypothesis, references), Rounding::Double)
    }

    /// sacrebleu's name of this variant: `chrF2`, `chrF2++`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("chrF{}{}", self.config.beta, "+".repeat(self.config.word_order))
    }

    /// sacrebleu's reproducibility signature for a number of references per segment; `None` if it varies.
    #[must_use]
    pub fn signature(&self, references: Option<usize>) -> String {
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        format!(
            "nrefs:{}|case:{}|eff:{}|nc:{}|nw:{}|space:{}|version:{SACREBLEU_VERSION}",
            references.map_or_else(|| "var".to_owned(), |n| n.to_string()),
            if self.config.lowercase { "lc" } else { "mixed" },
            yes(!self.config.eps_smoothing),
            self.config.char_order,
            self.config.word_order,
            yes(self.config.whitespace),
        )
    }

    fn orders(&self) -> usize {
        self.config.char_order + self.config.word_order
    }

    /// For each order n-grams of the hypothesis, of the best reference, and of both; the first of equally good
    /// references. Without a reference all are 0.
    fn row<'t>(
        &self,
        scratch: &mut Scratch,
        hypothesis: &str,
        references: impl Iterator<Item = &'t str>,
    ) -> Vec<f64> {
        scratch.ids.chars.clear();
        scratch.ids.words.clear();
        let hypothesis = self.parts(&mut scratch.ids, hypothesis);
        let mut best: Option<(f64, Vec<f64>)> = None;
        for reference in references {
            let reference = self.parts(&mut scratch.ids, reference);
            let row = self.statistics(&mut scratch.overlap, &hypothesis, &reference);
            let score = self.score_row(&row, Rounding::Double);
            if best.as_ref().is_none_or(|(best, _)| score > *best) {
                best = Some((score, row));
            }
        }
        best.map_or_else(|| vec![0.0; 3 * self.orders()], |(_, row)| row)
    }

    fn parts(&self, ids: &mut Ids, text: &str) -> Parts {
        let lower = self.config.lowercase.then(|| text.to_lowercase());
        let text = lower.as_deref().unwrap_or(text);
        let chars = text.chars().filter(|&c| self.config.whitespace || !python_text::is_space(c));
        let chars = chars.map(|c| ids.chars.id(c.encode_utf8(&mut [0; 4]).as_bytes())).collect();
        let mut parts = Parts { chars, words: Vec::new() };
        if self.config.word_order > 0 {
            separate_punctuation(text, |word| parts.words.push(ids.words.id(word.as_bytes())));
        }
        parts
    }

    fn statistics(&self, overlap: &mut Overlap, hypothesis: &Parts, reference: &Parts) -> Vec<f64> {
        let mut row = Vec::with_capacity(3 * self.orders());
        for (hypothesis, reference, orders) in [
            (&hypothesis.chars, &reference.chars, self.config.char_order),
            (&hypothesis.words, &reference.words, self.config.word_order),
        ] {
            let mut matches = vec![0; orders];
            overlap.clipped_matches(&[reference], hypothesis, &mut matches);
            for (order, matched) in (1..).zip(matches) {
                let expected = gram_count(reference.len(), order);
                let predicted = if expected > 0 { gram_count(hypothesis.len(), order) } else { 0 };
                row.extend([predicted, expected, matched].map(|count| count as f64));
            }
        }
        row
    }
}

/// Splits a mark off the end of a word, or else off its beginning. Marks are ASCII punctuation.
fn separate_punctuation(text: &str, mut with: impl FnMut(&str)) {
    for word in python_text::split(text) {
        let is_single = word.chars().nth(1).is_none();
        let split = if is_single {
            0
        } else if word.ends_with(|c: char| c.is_ascii_punctuation()) {
            word.len() - 1
        } else if word.starts_with(|c: char| c.is_ascii_punctuation()) {
            1
        } else {
            0
        };
        let (before, after) = word.split_at(split);
        if !before.is_empty() {
            with(before);
        }
        with(after);
    }
}

impl SegmentStatistics for Chrf {
    fn rows(&self, pairs: &[Pair]) -> Array2<f64> {
        let rows: Vec<Vec<f64>> = pairs
            .par_iter()
            .map_init(Scratch::default, |scratch, pair| {
                self.row(scratch, &pair.prediction, pair.references.iter().map(String::as_str))
            })
            .collect();
        Array2::from_shape_fn((pairs.len(), 3 * self.orders()), |(i, j)| rows[i][j])
    }

    fn score_row(&self, row: &[f64], rounding: Rounding) -> f64 {
        let round = |x: f64| rounding.apply(x);
        let factor = f64::from(self.config.beta).powi(2);
        let (mut score, mut precisions, mut recalls, mut effective) = (0.0, 0.0, 0.0, 0.0);
        for counts in row.chunks_exact(3) {
            let (predicted, expected, matched) = (counts[0], counts[1], counts[2]);
            let precision = if predicted > 0.0 { round(matched / predicted) } else { EPSILON };
            let recall = if expected > 0.0 { round(matched / expected) } else { EPSILON };
            let denominator = round(round(factor * precision) + recall);
            score += if denominator > 0.0 {
                round(round(round((1.0 + factor) * precision) * recall) / denominator)
            } else {
                EPSILON
            };
            score = round(score);
            if predicted > 0.0 && expected > 0.0 {
                precisions = round(precisions + precision);
                recalls = round(recalls + recall);
                effective += 1.0;
            }
        }
        if self.config.eps_smoothing {
            return round(round(100.0 * score) / self.orders() as f64);
        }
        if effective > 0.0 {
            precisions = round(precisions / effective);
            recalls = round(recalls / effective);
        }
        if precisions + recalls == 0.0 {
            return 0.0;
        }
        let score = round(round((1.0 + factor) * precisions) * recalls);
        round(100.0 * round(score / round(round(factor * precisions) + recalls)))
    }
}

impl Metric for Chrf {
    fn outputs(&self) -> Vec<String> {
        vec!["chrf".to_owned()]
    }

    /// Corpus chrF; a sample's own score is its sentence chrF.
    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let rows = self.rows(pairs);
        let samples = pairs
            .iter()
            .zip(rows.rows())
            .map(|(pair, row)| SampleScore {
                id: pair.id.clone(),
                extracted: None,
                score: Ok(self.score_row(&row.to_vec(), Rounding::Double)),
            })
            .collect();
        let chrf = self.clone();
        let tally = Tally::new(rows, move |sums| chrf.score_row(sums, Rounding::Double));
        let variant = format!("{} {}", self.name(), self.signature(references_per_segment(pairs)));
        Ok(vec![Measurement::of_tally("chrf", variant, samples, tally).with_param("scale", 100)])
    }
}

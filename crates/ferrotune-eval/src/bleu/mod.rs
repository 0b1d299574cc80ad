//! BLEU as sacrebleu 2.6.0 computes it, down to the last bit of the score.
//!
//! *Source*: Papineni et al. 2002; Post 2018; smoothing: Chen and Cherry 2014; `sacrebleu/metrics/bleu.py`.

mod tokenizer;

use ndarray::Array2;
use rayon::prelude::*;

pub use tokenizer::Tokenizer;

use crate::{
    Error, Measurement, Metric, Pair, Result, SampleScore, Tally,
    ngram::{Interner, Overlap, gram_count},
    python_text,
    sacrebleu::{Rounding, SACREBLEU_VERSION, SegmentStatistics},
};

/// What stands for the logarithm of zero.
const LOG_OF_ZERO: f64 = -9_999_999_999.0;

/// What happens to an n-gram order without matches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Smoothing {
    /// Nothing: the score becomes zero.
    None,
    /// The matches of such an order are taken to be this number; sacrebleu's default is 0.1.
    Floor(f64),
    /// This number is added to matches and totals of the orders above 1; sacrebleu's default is 1.
    AddK(f64),
    /// The k-th such order gets the precision 100 / (2^k · total), as in NIST's mteval.
    #[default]
    Exp,
}

/// Settings of BLEU. The default is sacrebleu's: mixed case, tokenizer 13a, exponential smoothing, four orders.
#[derive(Clone, Debug, PartialEq)]
pub struct BleuConfig {
    /// Whether texts are put into lower case first.
    pub lowercase: bool,
    /// How texts are cut into tokens.
    pub tokenizer: Tokenizer,
    /// What happens to orders without matches.
    pub smoothing: Smoothing,
    /// The longest n-grams, at least 1.
    pub max_order: usize,
    /// Whether orders beyond the last one that the predictions are long enough for are left out of the mean. Off for a
    /// corpus; the right choice for single sentences.
    pub effective_order: bool,
}

impl Default for BleuConfig {
    fn default() -> Self {
        Self {
            lowercase: false,
            tokenizer: Tokenizer::V13a,
            smoothing: Smoothing::Exp,
            max_order: 4,
            effective_order: false,
        }
    }
}

/// BLEU with its settings.
///
/// ```
/// use ferrotune_eval::bleu::{Bleu, BleuConfig};
/// let bleu = Bleu::new(BleuConfig::default())?;
/// let statistics = bleu.statistics("the cat sat on mat", &["the cat is on the mat"]);
/// assert!((bleu.score(&statistics).score - 20.80119537801062).abs() < 1e-12);
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Bleu {
    config: BleuConfig,
    cutter: tokenizer::Cutter,
}

/// What BLEU needs to know of a segment; of a corpus it is the sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BleuStatistics {
    /// Tokens of the prediction.
    pub hypothesis_length: u64,
    /// Tokens of the reference whose length is closest, the shorter one of two.
    pub reference_length: u64,
    /// For each order from 1: matched n-grams.
    pub matches: Vec<u64>,
    /// For each order from 1: n-grams of the prediction.
    pub totals: Vec<u64>,
}

/// A BLEU score with what it was made from.
#[derive(Clone, Debug, PartialEq)]
pub struct BleuScore {
    /// The score, 0 to 100 (identical texts give 100.00000000000004, as in the reference).
    pub score: f64,
    /// Precision of each order after smoothing, 0 to 100.
    pub precisions: Vec<f64>,
    /// The penalty for predictions shorter than their references, 0 to 1.
    pub brevity_penalty: f64,
}

/// Buffers that one thread uses for all its segments.
#[derive(Debug, Default)]
struct Scratch {
    text: tokenizer::Buffers,
    words: Interner,
    overlap: Overlap,
    hypothesis: Vec<u32>,
    references: Vec<Vec<u32>>,
}

impl Bleu {
    /// BLEU with the given settings.
    ///
    /// # Errors
    /// [`Error::Setting`] for an order of 0, or for a negative or infinite smoothing value.
    pub fn new(config: BleuConfig) -> Result<Self> {
        if config.max_order == 0 {
            return Err(Error::Setting {
                option: "max_order",
                found: "0".to_owned(),
                expected: "at least 1",
            });
        }
        if let Smoothing::Floor(value) | Smoothing::AddK(value) = config.smoothing
            && !(value.is_finite() && value >= 0.0)
        {
            return Err(Error::Setting {
                option: "smoothing",
                found: value.to_string(),
                expected: "a finite value, not negative",
            });
        }
        let cutter = tokenizer::Cutter::new(config.tokenizer);
        Ok(Self { config, cutter })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &BleuConfig {
        &self.config
    }

    /// The statistics of one segment. Without any reference nothing matches and the reference length is 0.
    #[must_use]
    pub fn statistics(&self, hypothesis: &str, references: &[impl AsRef<str>]) -> BleuStatistics {
        self.statistics_with(&mut Scratch::default(), hypothesis, references.iter().map(AsRef::as_ref))
    }

    /// The score that statistics stand for, of a segment or summed over a corpus.
    #[must_use]
    pub fn score(&self, statistics: &BleuStatistics) -> BleuScore {
        self.score_of_counts(&statistics.to_row(), self.config.effective_order, Rounding::Double)
    }

    /// The statistics of every pair, in order, computed in parallel.
    #[must_use]
    pub fn statistics_of_pairs(&self, pairs: &[Pair]) -> Vec<BleuStatistics> {
        pairs
            .par_iter()
            .map_init(Scratch::default, |scratch, pair| {
                self.statistics_with(scratch, &pair.prediction, pair.references.iter().map(String::as_str))
            })
            .collect()
    }

    /// Corpus BLEU of predictions against reference streams as sacrebleu takes them: `streams[k][i]` is the k-th
    /// reference of segment i, `None` where that segment has fewer.
    ///
    /// # Errors
    /// [`Error::ReferenceShape`] if a stream is not as long as the predictions, saying so if the streams look
    /// transposed; [`Error::NoReference`] if a segment has none.
    pub fn corpus_of_streams(
        &self,
        hypotheses: &[&str],
        streams: &[Vec<Option<&str>>],
    ) -> Result<(BleuScore, BleuStatistics)> {
        check_streams(hypotheses.len(), streams)?;
        let mut scratch = Scratch::default();
        let mut sum = BleuStatistics::default();
        for (i, hypothesis) in hypotheses.iter().enumerate() {
            sum.add(&self.statistics_with(&mut scratch, hypothesis, streams.iter().filter_map(|s| s[i])));
        }
        Ok((self.score(&sum), sum))
    }

    /// sacrebleu's reproducibility signature for a number of references per segment; `None` if it varies.
    #[must_use]
    pub fn signature(&self, references: Option<usize>) -> String {
        let smoothing = match self.config.smoothing {
            Smoothing::None => "none".to_owned(),
            Smoothing::Exp => "exp".to_owned(),
            Smoothing::Floor(value) => format!("floor[{value:.2}]"),
            Smoothing::AddK(value) => format!("add-k[{value:.2}]"),
        };
        format!(
            "nrefs:{}|case:{}|eff:{}|tok:{}|smooth:{smoothing}|version:{SACREBLEU_VERSION}",
            references.map_or_else(|| "var".to_owned(), |n| n.to_string()),
            if self.config.lowercase { "lc" } else { "mixed" },
            if self.config.effective_order { "yes" } else { "no" },
            self.config.tokenizer.name(),
        )
    }

    fn statistics_with<'t>(
        &self,
        scratch: &mut Scratch,
        hypothesis: &str,
        references: impl Iterator<Item = &'t str>,
    ) -> BleuStatistics {
        let Scratch { text, words, overlap, hypothesis: hypothesis_ids, references: reference_ids } = scratch;
        words.clear();
        let mut cut = |source: &str, ids: &mut Vec<u32>| {
            ids.clear();
            self.cutter
                .for_each_token(source, self.config.lowercase, text, |token| ids.push(words.id_of(token)));
        };
        cut(hypothesis, hypothesis_ids);
        let mut count = 0;
        for reference in references {
            if reference_ids.len() == count {
                reference_ids.push(Vec::new());
            }
            cut(reference, &mut reference_ids[count]);
            count += 1;
        }
        let references: Vec<&[u32]> = reference_ids[..count].iter().map(Vec::as_slice).collect();
        let length = hypothesis_ids.len();
        let mut matches = vec![0; self.config.max_order];
        overlap.clipped_matches(&references, hypothesis_ids, &mut matches);
        BleuStatistics {
            hypothesis_length: length as u64,
            reference_length: references
                .iter()
                .map(|r| r.len())
                .min_by_key(|&r| (r.abs_diff(length), r))
                .unwrap_or_default() as u64,
            matches,
            totals: (1..=self.config.max_order).map(|n| gram_count(length, n)).collect(),
        }
    }

    fn score_of_counts(&self, row: &[f64], effective_order: bool, rounding: Rounding) -> BleuScore {
        let round = |x: f64| rounding.apply(x);
        let orders = self.config.max_order;
        let (hypothesis_length, reference_length) = (row[0], row[1]);
        let (matches, totals) = (&row[2..2 + orders], &row[2 + orders..]);
        let brevity_penalty = if hypothesis_length >= reference_length {
            1.0
        } else if hypothesis_length > 0.0 {
            (1.0 - reference_length / hypothesis_length).exp()
        } else {
            0.0
        };
        let mut precisions = vec![0.0; orders];
        if matches.iter().all(|&m| m == 0.0) {
            return BleuScore { score: 0.0, precisions, brevity_penalty };
        }
        let mut zero_orders = 1.0;
        let mut averaged = orders;
        for n in 0..orders {
            let (mut matched, mut total) = (matches[n], totals[n]);
            if let Smoothing::AddK(k) = self.config.smoothing
                && n > 0
            {
                matched = round(matched + k);
                total = round(total + k);
            }
            if total == 0.0 {
                break;
            }
            if effective_order {
                averaged = n + 1;
            }
            precisions[n] = match self.config.smoothing {
                _ if matched != 0.0 => round(round(100.0 * matched) / total),
                Smoothing::Exp => {
                    zero_orders *= 2.0;
                    round(100.0 / round(zero_orders * total))
                }
                Smoothing::Floor(value) => round(round(100.0 * value) / total),
                Smoothing::None | Smoothing::AddK(_) => 0.0,
            };
        }
        let logs: f64 =
            precisions[..averaged].iter().map(|&p| if p == 0.0 { LOG_OF_ZERO } else { p.ln() }).sum();
        BleuScore { score: brevity_penalty * (logs / averaged as f64).exp(), precisions, brevity_penalty }
    }
}

impl BleuStatistics {
    /// Adds the statistics of another segment.
    pub fn add(&mut self, other: &Self) {
        self.hypothesis_length += other.hypothesis_length;
        self.reference_length += other.reference_length;
        self.matches.resize(other.matches.len(), 0);
        self.totals.resize(other.totals.len(), 0);
        self.matches.iter_mut().zip(&other.matches).for_each(|(sum, x)| *sum += x);
        self.totals.iter_mut().zip(&other.totals).for_each(|(sum, x)| *sum += x);
    }

    /// Lengths, matches, totals, in this order.
    fn to_row(&self) -> Vec<f64> {
        let lengths = [self.hypothesis_length, self.reference_length];
        lengths.iter().chain(&self.matches).chain(&self.totals).map(|&count| count as f64).collect()
    }
}

impl Metric for Bleu {
    fn outputs(&self) -> Vec<String> {
        vec!["bleu".to_owned()]
    }

    /// Corpus BLEU; a sample's own score is its sentence BLEU with effective order.
    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let rows = self.rows(pairs);
        let samples = pairs
            .iter()
            .zip(rows.rows())
            .map(|(pair, row)| SampleScore {
                id: pair.id.clone(),
                extracted: None,
                score: Ok(self.score_of_counts(&row.to_vec(), true, Rounding::Double).score),
            })
            .collect();
        let bleu = self.clone();
        let tally = Tally::new(rows, move |sums| bleu.score_row(sums, Rounding::Double));
        let signature = self.signature(references_per_segment(pairs));
        Ok(vec![
            Measurement::of_tally("bleu", signature, samples, tally)
                .with_param("scale", 100)
                .with_param("sample_score", "sentence bleu with effective order"),
        ])
    }
}

impl SegmentStatistics for Bleu {
    fn rows(&self, pairs: &[Pair]) -> Array2<f64> {
        let width = 2 + 2 * self.config.max_order;
        let rows: Vec<f64> =
            self.statistics_of_pairs(pairs).iter().flat_map(BleuStatistics::to_row).collect();
        Array2::from_shape_fn((pairs.len(), width), |(i, j)| rows[i * width + j])
    }

    fn score_row(&self, row: &[f64], rounding: Rounding) -> f64 {
        self.score_of_counts(row, self.config.effective_order, rounding).score
    }
}

/// The number of references that every pair has; `None` if it varies.
pub(crate) fn references_per_segment(pairs: &[Pair]) -> Option<usize> {
    let first = pairs.first()?.references.len();
    pairs.iter().all(|pair| pair.references.len() == first).then_some(first)
}

pub(crate) fn check_streams(segments: usize, streams: &[Vec<Option<&str>>]) -> Result<()> {
    for (stream, references) in streams.iter().enumerate() {
        if references.len() != segments {
            return Err(Error::ReferenceShape {
                stream,
                found: references.len(),
                expected: segments,
                transposed: streams.len() == segments,
            });
        }
    }
    match (0..segments).find(|&segment| streams.iter().all(|stream| stream[segment].is_none())) {
        Some(segment) => Err(Error::NoReference { segment }),
        None => Ok(()),
    }
}

/// sacrebleu cuts whitespace off the end before it tokenizes, which decides whether a final `-\n` is joined.
fn without_trailing_space(text: &str) -> &str {
    python_text::trim_end(text)
}

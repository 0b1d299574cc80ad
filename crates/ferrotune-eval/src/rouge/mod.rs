//! ROUGE as rouge-score 0.1.2 computes it, and skip-bigrams as Lin 2004 defines them.
//!
//! *Source*: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004; `rouge_score/rouge_scorer.py`.
//!
//! The reference aggregates by the median of unseeded bootstrap means; this crate reports the plain mean.

mod lcs;
mod skip_bigram;
mod tokens;

use std::fmt;

use rayon::prelude::*;

pub use tokens::{Alphabet, Stemming};

use crate::{
    Error, Measurement, Metric, Pair, Result, SampleScore,
    ngram::{Interner, Overlap, gram_count},
};

/// The version of rouge-score whose scores these are.
pub const ROUGE_SCORE_VERSION: &str = "0.1.2";

/// Which of the ROUGE scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RougeKind {
    /// n-grams of this order, 1 to 9.
    N(u8),
    /// The longest common subsequence of the whole texts.
    L,
    /// The union of longest common subsequences over sentences, which are separated by `\n`.
    Lsum,
    /// Pairs of words in order with at most `skip` words between them; `None` is any distance.
    S {
        /// The most words between the two.
        skip: Option<usize>,
    },
    /// [`S`](Self::S) and single words counted together.
    Su {
        /// The most words between the two.
        skip: Option<usize>,
    },
}

impl fmt::Display for RougeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::N(n) => write!(f, "rouge{n}"),
            Self::L => f.write_str("rougeL"),
            Self::Lsum => f.write_str("rougeLsum"),
            Self::S { skip: None } => f.write_str("rougeS"),
            Self::S { skip: Some(skip) } => write!(f, "rougeS{skip}"),
            Self::Su { skip: None } => f.write_str("rougeSU"),
            Self::Su { skip: Some(skip) } => write!(f, "rougeSU{skip}"),
        }
    }
}

/// Precision, recall and their harmonic mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prf {
    /// Shared parts over parts of the prediction, 0 to 1.
    pub precision: f64,
    /// Shared parts over parts of the reference, 0 to 1.
    pub recall: f64,
    /// 2PR / (P + R), or 0 where both are 0.
    pub f_measure: f64,
}

impl Prf {
    /// From precision and recall.
    #[must_use]
    pub fn new(precision: f64, recall: f64) -> Self {
        let sum = precision + recall;
        let f_measure = if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 };
        Self { precision, recall, f_measure }
    }

    /// From counts, where a count of zero parts divides as one.
    fn of_counts(shared: u64, of_prediction: u64, of_reference: u64) -> Self {
        let shared = shared as f64;
        Self::new(shared / of_prediction.max(1) as f64, shared / of_reference.max(1) as f64)
    }
}

/// ROUGE with its settings; scores several kinds from one tokenization.
///
/// ```
/// use ferrotune_eval::rouge::{Rouge, RougeKind, Stemming};
/// let rouge = Rouge::new(vec![RougeKind::N(1), RougeKind::L], Stemming::None)?;
/// let scores = rouge.score("the cat was found under the bed", "the cat was under the bed");
/// assert!((scores[0].f_measure - 12.0 / 13.0).abs() < 1e-12);
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rouge {
    kinds: Vec<RougeKind>,
    stemming: Stemming,
    alphabet: Alphabet,
}

/// A tokenized text.
#[derive(Debug, Default)]
struct Text {
    ids: Vec<u32>,
    /// Where each sentence ends in `ids`; filled only if a kind needs sentences.
    sentence_ends: Vec<usize>,
}

impl Text {
    fn sentences(&self) -> impl Iterator<Item = &[u32]> + Clone {
        let starts = std::iter::once(0).chain(self.sentence_ends.iter().copied());
        starts.zip(&self.sentence_ends).map(|(start, &end)| &self.ids[start..end])
    }
}

/// Buffers that one thread uses for all its pairs.
#[derive(Debug, Default)]
struct Scratch {
    tokens: tokens::Buffer,
    words: Interner,
    overlap: Overlap,
    lcs: lcs::Buffers,
    prediction: Text,
    reference: Text,
    matches: Vec<u64>,
}

impl Rouge {
    /// Scores of these kinds, over the reference's alphabet (ASCII letters and digits).
    ///
    /// # Errors
    /// [`Error::Setting`] for an n-gram order outside 1 to 9.
    pub fn new(kinds: Vec<RougeKind>, stemming: Stemming) -> Result<Self> {
        for kind in &kinds {
            if let RougeKind::N(n) = kind
                && !(1..=9).contains(n)
            {
                return Err(Error::Setting {
                    option: "rouge order",
                    found: n.to_string(),
                    expected: "1 to 9",
                });
            }
        }
        Ok(Self { kinds, stemming, alphabet: Alphabet::Ascii })
    }

    /// The same scores over another alphabet. With [`Alphabet::Unicode`] the variant is named so, since the reference
    /// scores text without ASCII letters as 0.
    #[must_use]
    pub fn with_alphabet(mut self, alphabet: Alphabet) -> Self {
        self.alphabet = alphabet;
        self
    }

    /// The kinds scored, in order.
    #[must_use]
    pub fn kinds(&self) -> &[RougeKind] {
        &self.kinds
    }

    /// One score per kind of a prediction against one reference.
    #[must_use]
    pub fn score(&self, reference: &str, prediction: &str) -> Vec<Prf> {
        self.score_multi(&[reference], prediction)
    }

    /// One score per kind: that of the reference with the highest F-measure, the first of equals.
    #[must_use]
    pub fn score_multi(&self, references: &[impl AsRef<str>], prediction: &str) -> Vec<Prf> {
        self.score_with(&mut Scratch::default(), references.iter().map(AsRef::as_ref), prediction)
    }

    /// The scores of every pair, in order, computed in parallel.
    #[must_use]
    pub fn score_pairs(&self, pairs: &[Pair]) -> Vec<Vec<Prf>> {
        pairs
            .par_iter()
            .map_init(Scratch::default, |scratch, pair| {
                self.score_with(scratch, pair.references.iter().map(String::as_str), &pair.prediction)
            })
            .collect()
    }

    fn score_with<'t>(
        &self,
        scratch: &mut Scratch,
        references: impl Iterator<Item = &'t str>,
        prediction: &str,
    ) -> Vec<Prf> {
        scratch.words.clear();
        let mut text = std::mem::take(&mut scratch.prediction);
        self.tokenize(scratch, prediction, &mut text);
        scratch.prediction = text;
        let mut best: Vec<Prf> = Vec::new();
        for reference in references {
            let mut text = std::mem::take(&mut scratch.reference);
            self.tokenize(scratch, reference, &mut text);
            scratch.reference = text;
            let scores = self.score_tokens(scratch);
            if best.is_empty() {
                best = scores;
            } else {
                for (best, score) in best.iter_mut().zip(scores) {
                    if score.f_measure > best.f_measure {
                        *best = score;
                    }
                }
            }
        }
        best.resize(self.kinds.len(), Prf::default());
        best
    }

    fn tokenize(&self, scratch: &mut Scratch, source: &str, text: &mut Text) {
        text.ids.clear();
        text.sentence_ends.clear();
        let Scratch { tokens, words, .. } = scratch;
        let mut cut = |source: &str, ids: &mut Vec<u32>| {
            tokens.for_each_token(source, self.alphabet, self.stemming, |token| ids.push(words.id(token)));
        };
        if self.kinds.contains(&RougeKind::Lsum) {
            // A line break is no part of a token, so cutting line by line gives the tokens of the whole text too.
            for line in source.split('\n').filter(|line| !line.is_empty()) {
                cut(line, &mut text.ids);
                text.sentence_ends.push(text.ids.len());
            }
        } else {
            cut(source, &mut text.ids);
        }
    }

    fn score_tokens(&self, scratch: &mut Scratch) -> Vec<Prf> {
        let Scratch { overlap, lcs, prediction, reference, matches, words, .. } = scratch;
        let (predicted, expected) = (prediction.ids.as_slice(), reference.ids.as_slice());
        let highest =
            self.kinds.iter().map(|kind| if let RougeKind::N(n) = kind { usize::from(*n) } else { 0 });
        matches.clear();
        matches.resize(highest.max().unwrap_or_default(), 0);
        overlap.clipped_matches(&[expected], predicted, matches);
        let of_kind = |kind: &RougeKind| match *kind {
            RougeKind::N(n) => {
                let n = usize::from(n);
                let counts = (gram_count(predicted.len(), n), gram_count(expected.len(), n));
                Prf::of_counts(matches[n - 1], counts.0, counts.1)
            }
            RougeKind::L => {
                let shared = lcs.length(expected, predicted, words.len());
                Prf::of_counts(shared as u64, predicted.len() as u64, expected.len() as u64)
            }
            RougeKind::Lsum => {
                let shared = lcs.summary_hits(reference.sentences(), prediction.sentences(), words.len());
                Prf::of_counts(shared as u64, predicted.len() as u64, expected.len() as u64)
            }
            RougeKind::S { skip } => {
                skip_bigram::score(expected, predicted, skip, skip_bigram::Unigrams::Ignored)
            }
            RougeKind::Su { skip } => {
                skip_bigram::score(expected, predicted, skip, skip_bigram::Unigrams::Counted)
            }
        };
        self.kinds.iter().map(of_kind).collect()
    }

    fn variant(&self) -> String {
        let alphabet = match self.alphabet {
            Alphabet::Ascii => format!("rouge-score {ROUGE_SCORE_VERSION}"),
            Alphabet::Unicode => "rouge over unicode letters".to_owned(),
        };
        let stemmer = match self.stemming {
            Stemming::None => "no stemmer",
            Stemming::Porter => "porter stemmer",
        };
        format!("{alphabet}, {stemmer}, f-measure, mean over samples")
    }
}

impl Metric for Rouge {
    fn outputs(&self) -> Vec<String> {
        self.kinds.iter().map(ToString::to_string).collect()
    }

    /// For each kind the mean of the samples' F-measures.
    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let scores = self.score_pairs(pairs);
        let of_kind = |(k, kind): (usize, &RougeKind)| {
            let samples = pairs
                .iter()
                .zip(&scores)
                .map(|(pair, scores)| SampleScore {
                    id: pair.id.clone(),
                    extracted: None,
                    score: Ok(scores[k].f_measure),
                })
                .collect();
            Measurement::of_mean(kind.to_string(), self.variant(), samples)
                .with_param("stemmer", self.stemming == Stemming::Porter)
        };
        Ok(self.kinds.iter().enumerate().map(of_kind).collect())
    }
}

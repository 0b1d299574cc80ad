//! Exact Match and token F1, in the definitions that are in use; each names itself.

use std::collections::HashMap;

use regex::Regex;

use crate::{Error, Failure, Measurement, Metric, Pair, Result, SampleScore, python_text::CharSet};

/// Compares answers after SQuAD's normalization: lower case, no ASCII punctuation, no articles, single spaces.
///
/// Punctuation includes sign and decimal point, so `-5` equals `5` and `18.00` differs from `18`: for numbers use a
/// numeric comparison. *Source*: the evaluation script of SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018).
///
/// ```
/// use ferrotune_eval::exact_match::{EmptyAnswers, Squad};
/// let squad = Squad::new();
/// assert!(squad.exact_match("The Cat!", "cat"));
/// assert_eq!(squad.token_f1("dog cat", "cat dog", EmptyAnswers::ScoreZero), 1.0);
/// ```
#[derive(Clone, Debug)]
pub struct Squad {
    word: CharSet,
}

/// The F1 of two answers of which one is empty after normalization.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyAnswers {
    /// 0, even if both are: SQuAD 1.1.
    ScoreZero,
    /// 1 if both are, else 0: SQuAD 2.0.
    #[default]
    ScoreEquality,
}

impl Default for Squad {
    fn default() -> Self {
        Self::new()
    }
}

impl Squad {
    /// The normalization with its character table.
    #[must_use]
    pub fn new() -> Self {
        // `\w` of Python's `re`: no combining marks, unlike `\w` of the `regex` crate.
        Self { word: CharSet::new(r"[\p{L}\p{N}_]") }
    }

    /// A text in SQuAD's normal form.
    #[must_use]
    pub fn normalize(&self, text: &str) -> String {
        let bare: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
        let mut spaced = String::with_capacity(bare.len());
        let mut rest = bare.as_str();
        while let Some(c) = rest.chars().next() {
            let inside = self.word.contains(c);
            let end = rest.find(|c| self.word.contains(c) != inside).unwrap_or(rest.len());
            let (run, after) = rest.split_at(end);
            spaced.push_str(if inside && matches!(run, "a" | "an" | "the") { " " } else { run });
            rest = after;
        }
        crate::python_text::split(&spaced).collect::<Vec<_>>().join(" ")
    }

    /// Whether two answers have the same normal form.
    #[must_use]
    pub fn exact_match(&self, prediction: &str, reference: &str) -> bool {
        self.normalize(prediction) == self.normalize(reference)
    }

    /// F1 of the words that two normalized answers share, each counted as often as it occurs in both. Range 0 to 1.
    #[must_use]
    pub fn token_f1(&self, prediction: &str, reference: &str, empty: EmptyAnswers) -> f64 {
        let (prediction, reference) = (self.normalize(prediction), self.normalize(reference));
        let mut left: HashMap<&str, usize> = HashMap::new();
        reference.split(' ').filter(|w| !w.is_empty()).for_each(|word| *left.entry(word).or_default() += 1);
        let expected: usize = left.values().sum();
        let (mut predicted, mut shared) = (0_usize, 0_usize);
        for word in prediction.split(' ').filter(|w| !w.is_empty()) {
            predicted += 1;
            if let Some(n) = left.get_mut(word).filter(|n| **n > 0) {
                *n -= 1;
                shared += 1;
            }
        }
        if empty == EmptyAnswers::ScoreEquality && (predicted == 0 || expected == 0) {
            return f64::from(u8::from(predicted == expected));
        }
        if shared == 0 {
            return 0.0;
        }
        let precision = shared as f64 / predicted as f64;
        let recall = shared as f64 / expected as f64;
        2.0 * precision * recall / (precision + recall)
    }
}

/// SQuAD's Exact Match as a metric: 1 if any reference matches.
#[derive(Clone, Debug, Default)]
pub struct SquadExactMatch(Squad);

impl Metric for SquadExactMatch {
    fn outputs(&self) -> Vec<String> {
        vec!["squad_em".to_owned()]
    }

    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let matches = |prediction: &str, reference: &str| self.0.exact_match(prediction, reference);
        let variant = "squad normalization, any reference, 0 to 1";
        Ok(vec![Measurement::of_share("squad_em", variant, any_reference(pairs, matches))])
    }
}

/// SQuAD's token F1 as a metric: that of the best reference.
#[derive(Clone, Debug, Default)]
pub struct TokenF1 {
    squad: Squad,
    empty: EmptyAnswers,
}

impl TokenF1 {
    /// Token F1 with a rule for empty answers.
    #[must_use]
    pub fn new(empty: EmptyAnswers) -> Self {
        Self { squad: Squad::new(), empty }
    }
}

impl Metric for TokenF1 {
    fn outputs(&self) -> Vec<String> {
        vec!["token_f1".to_owned()]
    }

    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let best = |pair: &Pair| {
            let scores = pair.references.iter().map(|r| self.squad.token_f1(&pair.prediction, r, self.empty));
            SampleScore { id: pair.id.clone(), extracted: None, score: Ok(scores.fold(0.0, f64::max)) }
        };
        let samples = pairs.iter().map(best).collect();
        let variant = match self.empty {
            EmptyAnswers::ScoreZero => "squad 1.1 token f1 (two empty answers: 0), best reference, 0 to 1",
            EmptyAnswers::ScoreEquality => {
                "squad 2.0 token f1 (two empty answers: 1), best reference, 0 to 1"
            }
        };
        Ok(vec![Measurement::of_mean("token_f1", variant, samples)])
    }
}

/// What is changed in both texts before they are compared as they are. Applied in the order of the fields; nothing is
/// trimmed. *Source*: `exact_match` of Hugging Face evaluate, which lm-evaluation-harness uses too.
#[derive(Clone, Debug, Default)]
pub struct RawExactMatch {
    /// Every match is removed, pattern by pattern.
    pub remove: Vec<Regex>,
    /// Whether to compare in lower case.
    pub ignore_case: bool,
    /// Whether to remove the 32 ASCII punctuation characters.
    pub ignore_punctuation: bool,
    /// Whether to remove the digits 0 to 9.
    pub ignore_numbers: bool,
}

impl RawExactMatch {
    /// Adds a pattern to be removed.
    ///
    /// # Errors
    /// [`Error::Pattern`] if it does not compile.
    pub fn removing(mut self, pattern: &str) -> Result<Self> {
        let compiled =
            Regex::new(pattern).map_err(|source| Error::Pattern { pattern: pattern.to_owned(), source })?;
        self.remove.push(compiled);
        Ok(self)
    }

    /// Whether two texts are equal after the changes.
    #[must_use]
    pub fn matches(&self, prediction: &str, reference: &str) -> bool {
        self.change(prediction) == self.change(reference)
    }

    fn change(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for pattern in &self.remove {
            text = pattern.replace_all(&text, "").into_owned();
        }
        if self.ignore_case {
            text = text.to_lowercase();
        }
        text.retain(|c| {
            !(self.ignore_punctuation && c.is_ascii_punctuation()
                || self.ignore_numbers && c.is_ascii_digit())
        });
        text
    }
}

impl Metric for RawExactMatch {
    fn outputs(&self) -> Vec<String> {
        vec!["exact_match".to_owned()]
    }

    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let outcomes = any_reference(pairs, |prediction, reference| self.matches(prediction, reference));
        let patterns: Vec<&str> = self.remove.iter().map(Regex::as_str).collect();
        Ok(vec![
            Measurement::of_share("exact_match", "raw equality, any reference, 0 to 1", outcomes)
                .with_param("remove", patterns)
                .with_param("ignore_case", self.ignore_case)
                .with_param("ignore_punctuation", self.ignore_punctuation)
                .with_param("ignore_numbers", self.ignore_numbers),
        ])
    }
}

fn any_reference(
    pairs: &[Pair],
    matches: impl Fn(&str, &str) -> bool,
) -> impl Iterator<Item = (String, Result<bool, Failure>)> {
    pairs.iter().map(move |pair| {
        let found = pair.references.iter().any(|reference| matches(&pair.prediction, reference));
        (pair.id.clone(), Ok(found))
    })
}

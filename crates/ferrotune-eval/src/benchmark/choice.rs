//! The letter of a multiple-choice answer.

use regex::Regex;

use crate::{Error, Result};

/// The words for "answer" that simple-evals tries, in its order, as regular expressions.
///
/// *Source*: `common.py` of openai/simple-evals, 2025-07-09; its one repetition is left out.
const ANSWER_WORDS: &[&str] = &[
    "Answer\\s*:",
    "Answer\\s*:\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}",
    "উত্তর\\s*:",
    "उत्तर\\s*:",
    "উত্তরঃ",
    "Antwort\\s*:",
    "답변\\s*:",
    "정답\\s*:",
    "답\\s*:",
    "答案\\s*：",
    "答案\\s*:",
    "答\\s*：",
    "答\\s*:",
    "答复\\s*：",
    "答曰\\s*：",
    "الإجابة:",
    "الجواب:",
    "إجابة:",
    "الإجابة النهائية:",
    "الإجابة الصحيحة:",
    "الإجابة الصحيحة هي:",
    "الإجابة هي:",
    "الجواب النهائي:",
    "Respuesta\\s*:",
    "Risposta\\s*:",
    "答え\\s*:",
    "答え\\s*：",
    "回答\\s*:",
    "回答\\s*：",
    "解答\\s*:",
    "Jawaban\\s*:",
    "Réponse\\s*:",
    "Resposta\\s*:",
    "Jibu\\s*:",
    "Idahun\\s*:",
    "Ìdáhùn\\s*:",
    "Idáhùn\\s*:",
    "Àmọ̀nà\\s*:",
    "Àdáhùn\\s*:",
    "Ànúgọ\\s*:",
    "Àṣàyàn\\s*:",
];

/// What simple-evals accepts as a letter behind the word.
const LETTERS: &str = "([A-D]|[أ-د]|[অ]|[ব]|[ড]|[ঢ]|[Ａ]|[Ｂ]|[Ｃ]|[Ｄ])";

/// Markup that simple-evals removes first, in its order.
const MARKUP: [&str; 13] = [
    "**",
    r"$\boxed{",
    "}$",
    r"\$",
    r"$\text{",
    "$",
    r"\mathrm{",
    r"\{",
    r"\text",
    r"\(",
    r"\mathbf{",
    "{",
    r"\boxed",
];

/// Letters of other scripts and widths, and what they stand for.
const LETTER_VALUES: [(char, char); 12] = [
    ('أ', 'A'),
    ('ب', 'B'),
    ('ج', 'C'),
    ('د', 'D'),
    ('অ', 'A'),
    ('ব', 'B'),
    ('ড', 'C'),
    ('ঢ', 'D'),
    ('Ａ', 'A'),
    ('Ｂ', 'B'),
    ('Ｃ', 'C'),
    ('Ｄ', 'D'),
];

/// What the log-likelihood of a choice is divided by before the largest is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChoiceScore {
    /// Nothing: lm-evaluation-harness' `acc`.
    #[default]
    Sum,
    /// The number of Unicode code points of the choice, without the delimiter before it: its `acc_norm`.
    PerCharacter,
    /// The length of the choice in UTF-8: its `acc_bytes`.
    PerByte,
}

/// The choice that a model finds most likely, the first of equals; `None` without choices, with another number of
/// log-likelihoods, or if one is not a number.
///
/// ```
/// use ferrotune_eval::benchmark::{ChoiceScore, most_likely_choice};
/// let (likelihoods, choices) = ([-3.2, -5.0, -4.1, -9.0], ["yes", "absolutely not", "naïve", "四"]);
/// assert_eq!(most_likely_choice(&likelihoods, &choices, ChoiceScore::Sum), Some(0));
/// assert_eq!(most_likely_choice(&likelihoods, &choices, ChoiceScore::PerCharacter), Some(1));
/// ```
#[must_use]
pub fn most_likely_choice(
    log_likelihoods: &[f64],
    choices: &[impl AsRef<str>],
    score: ChoiceScore,
) -> Option<usize> {
    if log_likelihoods.len() != choices.len() || log_likelihoods.iter().any(|x| x.is_nan()) {
        return None;
    }
    let scores = log_likelihoods.iter().zip(choices).map(|(log_likelihood, choice)| {
        let choice = choice.as_ref();
        log_likelihood
            / match score {
                ChoiceScore::Sum => 1.0,
                ChoiceScore::PerCharacter => choice.chars().count() as f64,
                ChoiceScore::PerByte => choice.len() as f64,
            }
    });
    let mut best: Option<(usize, f64)> = None;
    for (i, score) in scores.enumerate() {
        if best.is_none_or(|(_, best)| score > best) {
            best = Some((i, score));
        }
    }
    best.map(|(i, _)| i)
}

/// simple-evals' ways to find the letter in a response. It differs per benchmark, on purpose.
///
/// ```
/// use ferrotune_eval::benchmark::ChoiceExtractor;
/// let extractor = ChoiceExtractor::new()?;
/// assert_eq!(extractor.mmlu("**Answer:** D").as_deref(), Some("D"));
/// assert_eq!(extractor.gpqa("**Answer:** D"), None);
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ChoiceExtractor {
    multilingual: Vec<Regex>,
    plain: Regex,
}

impl ChoiceExtractor {
    /// The compiled expressions; make one and keep it.
    ///
    /// # Errors
    /// [`Error::Pattern`], which does not happen with the expressions compiled here.
    pub fn new() -> Result<Self> {
        let compile =
            |pattern: String| Regex::new(&pattern).map_err(|source| Error::Pattern { pattern, source });
        let multilingual = ANSWER_WORDS.iter().map(|word| compile(format!("(?i){word}[ \t]*{LETTERS}")));
        Ok(Self {
            multilingual: multilingual.collect::<Result<_>>()?,
            plain: compile(r"(?i)Answer[ \t]*:[ \t]*\$?([A-D])\$?".to_owned())?,
        })
    }

    /// The letter of an MMLU response: markup removed, then the first word that has a letter behind it, the first place
    /// of that word. The letter keeps its case, so `answer: b` is not `B`, as in the reference.
    #[must_use]
    pub fn mmlu(&self, response: &str) -> Option<String> {
        let mut text = response.to_owned();
        for markup in MARKUP {
            text = text.replace(markup, "");
        }
        let found = self.multilingual.iter().find_map(|word| word.captures(&text))?;
        let letter = found[1].chars().next()?;
        let known = LETTER_VALUES.iter().find(|(other, _)| *other == letter);
        Some(known.map_or(letter, |(_, value)| *value).to_string())
    }

    /// The letter of a GPQA response: the first `Answer: X`, with or without dollar signs, markup in the way is not
    /// removed.
    #[must_use]
    pub fn gpqa(&self, response: &str) -> Option<String> {
        self.plain.captures(response).map(|found| found[1].to_owned())
    }
}

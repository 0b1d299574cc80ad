//! Perplexity, in the definitions that are in use. They give different numbers for the same model and texts, so each
//! is a metric of its own name.

mod windows;

use std::path::Path;

use ferrotune_core::{Continuation, LanguageModel, Likelihood};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
pub use windows::{Window, disjoint, rolling_windows};

use crate::{
    Error, Failure, FailureKind, Measurement, Result, SampleScore, Tally, lines::write_lines, python_text,
};

/// What a model thought of one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextLikelihood {
    /// The text's id.
    pub id: String,
    /// Sum of natural-log probabilities of the scored tokens, not positive.
    pub log_likelihood: f64,
    /// How many tokens were scored.
    pub tokens: u64,
    /// The size of the original text, for the definitions that divide by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<TextSize>,
}

/// The size of a text before tokenization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSize {
    /// Pieces between runs of whitespace, as `re.split(r"\s+", text)` of Python counts them.
    pub words: u64,
    /// Length in UTF-8.
    pub bytes: u64,
}

impl TextSize {
    /// The size of `text` as lm-evaluation-harness counts it.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self { words: python_text::whitespace_pieces(text) as u64, bytes: text.len() as u64 }
    }
}

/// Writes likelihoods as JSON Lines in place of what was there: every definition of perplexity, and every paired comparison of
/// two models in it, can be computed from them again. The file appears under its name only when it is complete.
///
/// # Errors
/// [`Error::Write`].
pub fn write_likelihoods(path: &Path, texts: &[TextLikelihood]) -> Result<()> {
    write_lines(path, texts)
}

/// What a model thinks of texts, each after nothing but BOS, with the sizes that every definition needs.
///
/// Each item is an id and a text.
///
/// # Errors
/// [`Error::Model`]; [`Error::LengthMismatch`] if it answers for more or fewer texts.
pub fn text_likelihoods(
    model: &mut dyn LanguageModel,
    texts: &[(&str, &str)],
) -> Result<Vec<TextLikelihood>> {
    let requests: Vec<Continuation> = texts
        .iter()
        .map(|(_, text)| Continuation { context: String::new(), text: (*text).to_owned() })
        .collect();
    let found = model.log_likelihoods(&requests).map_err(|source| Error::Model { source })?;
    if found.len() != texts.len() {
        return Err(Error::LengthMismatch {
            what: "log-likelihoods and texts",
            left: found.len(),
            right: texts.len(),
        });
    }
    let of_text = |((id, text), likelihood): (&(&str, &str), Likelihood)| TextLikelihood {
        id: (*id).to_owned(),
        log_likelihood: likelihood.log_likelihood,
        tokens: likelihood.tokens as u64,
        size: Some(TextSize::of(text)),
    };
    Ok(texts.iter().zip(found).map(of_text).collect())
}

/// The definitions of perplexity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Perplexity {
    /// exp of the negative log-likelihood per token over all texts: the principal one, exp of the token-weighted loss.
    TokenWeighted,
    /// The mean of the texts' own perplexities, as Hugging Face evaluate reports it.
    MeanOfTexts,
    /// exp of the negative mean log-likelihood *of a text*, lm-evaluation-harness' `perplexity`.
    PerText,
    /// exp of the negative log-likelihood per word of the original texts.
    Word,
    /// exp of the negative log-likelihood per byte of the original texts.
    Byte,
    /// Negative log-likelihood per byte of the original texts, in bits.
    BitsPerByte,
}

impl Perplexity {
    /// All definitions, the principal one first.
    pub const ALL: [Self; 6] =
        [Self::TokenWeighted, Self::MeanOfTexts, Self::PerText, Self::Word, Self::Byte, Self::BitsPerByte];

    /// The metric's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenWeighted => "perplexity",
            Self::MeanOfTexts => "perplexity_mean_of_texts",
            Self::PerText => "perplexity_per_text",
            Self::Word => "word_perplexity",
            Self::Byte => "byte_perplexity",
            Self::BitsPerByte => "bits_per_byte",
        }
    }

    fn variant(self) -> &'static str {
        match self {
            Self::TokenWeighted => "exp of the negative log-likelihood per token, over all texts",
            Self::MeanOfTexts => "mean of the texts' perplexities (hugging face evaluate)",
            Self::PerText => "exp of the negative mean log-likelihood of a text (lm-evaluation-harness)",
            Self::Word => {
                "exp of the negative log-likelihood per whitespace-separated word (lm-evaluation-harness)"
            }
            Self::Byte => "exp of the negative log-likelihood per byte of utf-8 (lm-evaluation-harness)",
            Self::BitsPerByte => "negative log-likelihood per byte of utf-8, in bits (lm-evaluation-harness)",
        }
    }

    /// What a text's log-likelihood is divided by; `None` if its size is not known.
    fn divisor(self, text: &TextLikelihood) -> Option<u64> {
        match self {
            Self::TokenWeighted | Self::MeanOfTexts => Some(text.tokens),
            Self::PerText => Some(1),
            Self::Word => text.size.map(|size| size.words),
            Self::Byte | Self::BitsPerByte => text.size.map(|size| size.bytes),
        }
    }

    /// The statistics of one text, summed over texts and then given to [`finish`](Self::finish).
    fn row(self, negative: f64, divisor: f64) -> [f64; 2] {
        match self {
            Self::MeanOfTexts => [(negative / divisor).exp(), 1.0],
            _ => [negative, divisor],
        }
    }

    fn finish(self, sums: &[f64]) -> f64 {
        let ratio = sums[0] / sums[1];
        match self {
            Self::MeanOfTexts => ratio,
            Self::BitsPerByte => ratio / std::f64::consts::LN_2,
            _ => ratio.exp(),
        }
    }

    /// This definition's value over texts, with each text's own value as its score.
    ///
    /// A text without tokens (or words, or bytes) is a counted failure, never a division by zero. A loss beyond about
    /// 709 overflows to an infinite perplexity, which is reported as such; the log-likelihoods stay with the caller.
    ///
    /// # Errors
    /// [`Error::Setting`] if a log-likelihood is not a number, or is infinite.
    pub fn measure(self, texts: &[TextLikelihood]) -> Result<Measurement> {
        let mut rows = Vec::with_capacity(2 * texts.len());
        let mut samples = Vec::with_capacity(texts.len());
        for text in texts {
            if !text.log_likelihood.is_finite() {
                return Err(Error::Setting {
                    option: "log_likelihood",
                    found: format!("{} for text `{}`", text.log_likelihood, text.id),
                    expected: "a finite number",
                });
            }
            let score = match self.divisor(text) {
                Some(divisor) if divisor > 0 && text.tokens > 0 => {
                    let row = self.row(-text.log_likelihood, divisor as f64);
                    rows.extend(row);
                    Ok(self.finish(&row))
                }
                Some(_) => Err(Failure {
                    kind: FailureKind::EmptyText,
                    detail: "the text has no tokens to score".to_owned(),
                }),
                None => Err(Failure {
                    kind: FailureKind::NotMeasured,
                    detail: "the size of the original text is not known".to_owned(),
                }),
            };
            samples.push(SampleScore { id: text.id.clone(), extracted: None, score });
        }
        let rows = Array2::from_shape_vec((rows.len() / 2, 2), rows).unwrap_or_default();
        let tally = Tally::new(rows, move |sums| self.finish(sums));
        Ok(Measurement::of_tally(self.name(), self.variant(), samples, tally))
    }
}

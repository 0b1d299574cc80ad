//! Choices labelled `(A)`, `(B)`, … in free text, by lm-evaluation-harness' rules.

use regex::Regex;

use crate::{Error, Result, python_text::CharSet};

/// lm-evaluation-harness' `multi_choice_regex` with the settings that MMLU's and GPQA's chain-of-thought tasks give it:
/// the last `(X)`; else the last occurrence of a choice's text, case and punctuation aside; else the last letter after a
/// colon.
///
/// ```
/// use ferrotune_eval::benchmark::LabelExtractor;
/// let extractor = LabelExtractor::new()?;
/// let choices = ["red fox", "blue", "Green!", "x"];
/// assert_eq!(extractor.last_label("the answer is Red Fox.", &choices).as_deref(), Some("(A)"));
/// assert_eq!(extractor.last_label("D", &choices), None);
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LabelExtractor {
    label: Regex,
    punctuation: CharSet,
}

impl LabelExtractor {
    /// The compiled expression; make one and keep it.
    ///
    /// # Errors
    /// [`Error::Pattern`], which does not happen with the expression compiled here.
    pub fn new() -> Result<Self> {
        Ok(Self { label: compile(r"\([A-Z]\)".to_owned())?, punctuation: CharSet::new(r"\p{P}") })
    }

    /// The label of the answer, with its parentheses; `None` where the reference has `[invalid]`.
    #[must_use]
    pub fn last_label(&self, response: &str, choices: &[impl AsRef<str>]) -> Option<String> {
        if let Some(found) = self.label.find_iter(response).last() {
            return Some(found.as_str().to_owned());
        }
        self.last_text(response, choices).or_else(|| last_letter(response, choices.len()))
    }

    /// The label of the choice whose text comes last. Where several begin at one place, the longest counts.
    fn last_text(&self, response: &str, choices: &[impl AsRef<str>]) -> Option<String> {
        let plain = |text: &str| -> String {
            text.to_lowercase().chars().filter(|&c| !self.punctuation.contains(c)).collect()
        };
        let texts: Vec<String> = choices.iter().map(|choice| plain(choice.as_ref().trim())).collect();
        // A choice of punctuation alone matches nothing at the end of every response, and the reference finds that.
        if texts.iter().any(String::is_empty) {
            return None;
        }
        let mut longest_first: Vec<&str> = texts.iter().map(String::as_str).collect();
        longest_first.sort_by_key(|text| std::cmp::Reverse(text.chars().count()));
        let patterns: Vec<String> = longest_first.into_iter().map(regex::escape).collect();
        let any = compile(patterns.join("|")).ok()?;
        let response = plain(response);
        let found = any.find_iter(&response).last()?.as_str().trim();
        // Of equal texts the reference's table keeps the last.
        match texts.iter().rposition(|text| text == found) {
            Some(place) => Some(label(place)),
            None => Some(found.to_owned()),
        }
    }
}

/// The letter of a choice after the last colon that has one.
fn last_letter(response: &str, choices: usize) -> Option<String> {
    response.rmatch_indices(':').find_map(|(at, _)| {
        let letter = response[at + 1..].trim_start_matches(crate::python_text::is_space).chars().next()?;
        (0..choices).map(label).find(|label| label.chars().nth(1) == Some(letter))
    })
}

/// `(A)` for the first choice, and so on.
fn label(place: usize) -> String {
    let letter = u8::try_from(place).ok().and_then(|place| b'A'.checked_add(place)).unwrap_or(b'?');
    format!("({})", char::from(letter))
}

/// What lm-evaluation-harness' expressions `(?<=The answer is )(.*)(?=.)` and the like find first: the rest of the line
/// after one of `words`, without its last character. `None` where that is empty.
///
/// ```
/// use ferrotune_eval::benchmark::rest_of_line;
/// assert_eq!(rest_of_line("So the answer is (B).", &["answer is "]).as_deref(), Some("(B)"));
/// ```
#[must_use]
pub fn rest_of_line(response: &str, words: &[&str]) -> Option<String> {
    let rest = |at: usize| response[at..].split('\n').next().unwrap_or_default();
    let ends = words.iter().flat_map(|word| response.match_indices(word).map(|(at, word)| at + word.len()));
    let first = ends.filter(|&end| !rest(end).is_empty()).min()?;
    let mut line = rest(first).to_owned();
    line.pop();
    let line = line.trim_matches(crate::python_text::is_space);
    (!line.is_empty()).then(|| line.to_owned())
}

fn compile(pattern: String) -> Result<Regex> {
    Regex::new(&pattern).map_err(|source| Error::Pattern { pattern, source })
}

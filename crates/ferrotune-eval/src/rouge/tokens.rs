use unicode_normalization::char::is_combining_mark;

use crate::porter;

/// Whether words are reduced to their stems.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stemming {
    /// Words are compared as they are; rouge-score's default.
    #[default]
    None,
    /// Words longer than three letters are stemmed as NLTK's Porter stemmer does it.
    Porter,
}

/// Which characters make words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alphabet {
    /// `a` to `z` and `0` to `9`, after lowering: rouge-score's rule. Text in other scripts has no words.
    #[default]
    Ascii,
    /// All letters, marks and digits of Unicode; not the reference's rule.
    Unicode,
}

/// The word under construction.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    word: Vec<u8>,
}

/// Its lower-case form is the ASCII letter `k`.
const KELVIN_SIGN: char = '\u{212a}';
/// Its lower-case form is the ASCII letter `i` and a combining dot, which is no letter.
const I_WITH_DOT: char = '\u{130}';

/// Words up to this many characters are not stemmed.
const SHORT_WORD: usize = 3;

impl Buffer {
    /// Calls `with` for every token of a text, in order.
    pub(super) fn for_each_token(
        &mut self,
        text: &str,
        alphabet: Alphabet,
        stemming: Stemming,
        mut with: impl FnMut(&[u8]),
    ) {
        self.word.clear();
        match alphabet {
            Alphabet::Ascii => {
                for c in text.chars() {
                    match c {
                        'a'..='z' | '0'..='9' => self.word.push(c as u8),
                        'A'..='Z' => self.word.push(c as u8 | 0x20),
                        KELVIN_SIGN => self.word.push(b'k'),
                        I_WITH_DOT => {
                            self.word.push(b'i');
                            self.finish(stemming, &mut with);
                        }
                        _ => self.finish(stemming, &mut with),
                    }
                }
            }
            Alphabet::Unicode => {
                for c in text.chars().flat_map(char::to_lowercase) {
                    if c.is_alphanumeric() || is_combining_mark(c) {
                        self.word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    } else {
                        self.finish(stemming, &mut with);
                    }
                }
            }
        }
        self.finish(stemming, &mut with);
    }

    fn finish(&mut self, stemming: Stemming, with: &mut impl FnMut(&[u8])) {
        if self.word.is_empty() {
            return;
        }
        if stemming == Stemming::Porter && self.word.len() > SHORT_WORD {
            porter::stem_in_place(&mut self.word, 0);
        }
        with(&self.word);
        self.word.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_characters_outside_ascii_have_ascii_in_their_lower_case() {
        let found: Vec<char> = ('\u{80}'..=char::MAX)
            .filter(|c| c.to_lowercase().any(|lower| lower.is_ascii_alphanumeric()))
            .collect();
        assert_eq!(found, [I_WITH_DOT, KELVIN_SIGN]);
    }
}

//! The string rules of Python that the reference implementations rely on without saying so.
//!
//! They differ from Rust's in small ways that move scores: Python's whitespace has four control characters more, and
//! its word characters exclude combining marks.

use regex_syntax::hir::{Class, HirKind};

/// `str.isspace` for one character: Unicode White_Space and the separators U+001C to U+001F.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.split()` without arguments.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `str.rstrip()` without arguments.
pub(crate) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// How many pieces `re.split(r"\s+", text)` gives: one more than there are runs of whitespace.
pub(crate) fn whitespace_pieces(text: &str) -> usize {
    let mut pieces = 1;
    let mut inside = false;
    for c in text.chars() {
        let space = is_space(c);
        pieces += usize::from(space && !inside);
        inside = space;
    }
    pieces
}

/// The characters of some Unicode general categories, as sorted ranges with a table for ASCII.
///
/// The categories are those of Unicode 16. Compared over all code points, sacrebleu's international tokenizer (Unicode
/// 17) and SQuAD's normalization under Python 3.11 (Unicode 14) differ from ours only on characters that one of the
/// versions does not assign.
#[derive(Clone, Debug)]
pub(crate) struct CharSet {
    ascii: [bool; 128],
    ranges: Vec<(char, char)>,
}

impl CharSet {
    /// `class` is one bracketed or escaped class in the syntax of the `regex` crate, such as `\p{P}`.
    pub(crate) fn new(class: &str) -> Self {
        let ranges: Vec<(char, char)> =
            match regex_syntax::parse(class).map(regex_syntax::hir::Hir::into_kind) {
                Ok(HirKind::Class(Class::Unicode(set))) => set.iter().map(|r| (r.start(), r.end())).collect(),
                _ => Vec::new(),
            };
        let mut ascii = [false; 128];
        for (byte, slot) in ascii.iter_mut().enumerate() {
            let c = char::from(byte as u8);
            *slot = ranges.iter().any(|&(low, high)| low <= c && c <= high);
        }
        Self { ascii, ranges }
    }

    pub(crate) fn contains(&self, c: char) -> bool {
        if c.is_ascii() {
            return self.ascii[c as usize];
        }
        let after = self.ranges.partition_point(|&(low, _)| low <= c);
        after > 0 && c <= self.ranges[after - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitespace_is_pythons() {
        // `len([c for c in map(chr, range(0x110000)) if c.isspace()])` is 29 in Python 3.11.
        assert_eq!((0..=0x10_ffff).filter_map(char::from_u32).filter(|&c| is_space(c)).count(), 29);
        assert_eq!(split(" a\u{1c}b\u{a0}c\n").collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn pieces_count_leading_and_trailing_runs() {
        for (text, pieces) in [("", 1), ("a b", 2), (" a  b ", 4), ("a\n\nb", 2)] {
            assert_eq!(whitespace_pieces(text), pieces, "{text:?}");
        }
    }

    #[test]
    fn general_categories_are_parsed() {
        let punctuation = CharSet::new(r"\p{P}");
        assert!(punctuation.contains('.') && punctuation.contains('。') && punctuation.contains('“'));
        assert!(!punctuation.contains('$') && !punctuation.contains('a') && !punctuation.contains('é'));
        let symbol = CharSet::new(r"\p{S}");
        assert!(symbol.contains('$') && symbol.contains('€') && !symbol.contains('%'));
    }
}

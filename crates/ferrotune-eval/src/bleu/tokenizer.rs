use std::borrow::Cow;

use super::without_trailing_space;
use crate::python_text::{self, CharSet};

/// How BLEU cuts a text into tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tokenizer {
    /// NIST's mteval-v13a, sacrebleu's default: knows ASCII only.
    #[default]
    V13a,
    /// NIST's mteval-v14 for international texts: Unicode punctuation and symbols.
    International,
    /// Every character is a token; whitespace is none.
    Character,
    /// Whitespace separates; for texts that are tokenized already.
    None,
}

impl Tokenizer {
    /// Its name in sacrebleu's options and signatures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V13a => "13a",
            Self::International => "intl",
            Self::Character => "char",
            Self::None => "none",
        }
    }

    /// The tokens of a text, without lowering it.
    #[must_use]
    pub fn tokenize(self, text: &str) -> Vec<String> {
        let mut tokens = Vec::new();
        Cutter::new(self).for_each_token(text, false, &mut Buffers::default(), |token| {
            tokens.push(String::from_utf8_lossy(token).into_owned());
        });
        tokens
    }
}

/// Buffers for the passes over a text.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    bytes: [Vec<u8>; 2],
    text: [String; 2],
}

/// A tokenizer with its character tables.
#[derive(Clone, Debug)]
pub(super) struct Cutter {
    kind: Tokenizer,
    number: CharSet,
    punctuation: CharSet,
    symbol: CharSet,
}

impl Cutter {
    pub(super) fn new(kind: Tokenizer) -> Self {
        Self {
            kind,
            number: CharSet::new(r"\p{N}"),
            punctuation: CharSet::new(r"\p{P}"),
            symbol: CharSet::new(r"\p{S}"),
        }
    }

    /// Calls `with` for every token of a text, in order.
    pub(super) fn for_each_token(
        &self,
        text: &str,
        lowercase: bool,
        buffers: &mut Buffers,
        mut with: impl FnMut(&[u8]),
    ) {
        let text = if lowercase { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) };
        let text = without_trailing_space(&text);
        match self.kind {
            Tokenizer::None => python_text::split(text).for_each(|token| with(token.as_bytes())),
            Tokenizer::Character => {
                let mut bytes = [0; 4];
                for c in text.chars().filter(|&c| !python_text::is_space(c)) {
                    with(c.encode_utf8(&mut bytes).as_bytes());
                }
            }
            Tokenizer::V13a => for_each_token_13a(text, &mut buffers.bytes, with),
            Tokenizer::International => {
                let spaced = self.space_international(text, &mut buffers.text);
                python_text::split(spaced).for_each(|token| with(token.as_bytes()));
            }
        }
    }

    /// The three substitutions of mteval-v14, each over the whole text and without overlap, as regular expressions do
    /// it. Unlike 13a there is no space at the ends, so a full stop after a final number stays with it.
    fn space_international<'b>(&self, text: &str, [a, b]: &'b mut [String; 2]) -> &'b str {
        a.clear();
        // (\P{N})(\p{P}) -> \1 \2 + space
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            a.push(c);
            if !self.number.contains(c)
                && let Some(mark) = chars.next_if(|&next| self.punctuation.contains(next))
            {
                a.extend([' ', mark, ' ']);
            }
        }
        b.clear();
        // (\p{P})(\P{N}) -> space + \1 \2
        let mut chars = a.chars().peekable();
        while let Some(c) = chars.next() {
            if self.punctuation.contains(c)
                && let Some(other) = chars.next_if(|&next| !self.number.contains(next))
            {
                b.extend([' ', c, ' ', other]);
            } else {
                b.push(c);
            }
        }
        a.clear();
        for c in b.chars() {
            if self.symbol.contains(c) {
                a.extend([' ', c, ' ']);
            } else {
                a.push(c);
            }
        }
        a
    }
}

/// mteval-v13a, chunk by chunk between ASCII whitespace. Its substitutions look at a character and its neighbour, and
/// whitespace is no digit and no mark, so a chunk's tokens do not depend on what stands around it.
fn for_each_token_13a(text: &str, buffers: &mut [Vec<u8>; 2], mut with: impl FnMut(&[u8])) {
    let text = unescape(text);
    let mut rest = text.as_bytes();
    let class = |byte: u8| CLASS[usize::from(byte)];
    while let Some(start) = rest.iter().position(|&byte| class(byte) != Class::Space) {
        rest = &rest[start..];
        let mut plain = 0;
        let mut bits = 0;
        while let Some(&byte) = rest.get(plain).filter(|&&byte| class(byte) == Class::Plain) {
            bits |= byte;
            plain += 1;
        }
        let mut word = |word: &[u8]| match word {
            [] => {}
            word if bits < 0x80 => with(word),
            word => for_each_word(word, &mut with),
        };
        match rest.get(plain..) {
            None | Some([]) => {
                word(rest);
                return;
            }
            Some([next, ..]) if class(*next) == Class::Space => {
                word(&rest[..plain]);
                rest = &rest[plain..];
            }
            // A single mark at the end of a word is split off, whether a digit precedes it or not.
            Some([b'.' | b',', after @ ..])
                if after.first().is_none_or(|&after| class(after) == Class::Space) =>
            {
                word(&rest[..plain]);
                with(&rest[plain..=plain]);
                rest = after;
            }
            Some(_) => {
                let end = rest.iter().position(|&byte| class(byte) == Class::Space).unwrap_or(rest.len());
                for_each_word(space_13a(&rest[..end], buffers), &mut with);
                rest = &rest[end..];
            }
        }
    }
}

/// What a byte can do to a chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Ends it.
    Space,
    /// Takes part in a substitution.
    Mark,
    /// Nothing: letters, digits, the apostrophe, all bytes of longer characters.
    Plain,
}

const CLASS: [Class; 256] = {
    let mut class = [Class::Plain; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            0x09..=0x0d | 0x1c..=0x20 => Class::Space,
            b'.' | b',' | b'-' => Class::Mark,
            byte if is_always_apart(byte) => Class::Mark,
            _ => Class::Plain,
        };
        byte += 1;
    }
    class
};

/// The marks that are tokens of their own wherever they stand.
const fn is_always_apart(byte: u8) -> bool {
    matches!(byte, b'{'..=b'~' | b'['..=b'`' | b' '..=b'&' | b'('..=b'+' | b':'..=b'@' | b'/')
}

/// The substitutions, each over the whole chunk and without overlap, as regular expressions do it. They look at ASCII
/// only, so they run on bytes: a byte of a longer character is neither digit nor mark, and counts as a non-digit
/// neighbour just as its character would.
fn space_13a<'b>(chunk: &[u8], [a, b]: &'b mut [Vec<u8>; 2]) -> &'b [u8] {
    a.clear();
    a.push(b' ');
    for &byte in chunk {
        if is_always_apart(byte) {
            a.extend([b' ', byte, b' ']);
        } else {
            a.push(byte);
        }
    }
    a.push(b' ');
    let mark = |byte: u8| matches!(byte, b'.' | b',');
    // ([^0-9])([.,]) -> \1 \2 + space
    b.clear();
    let mut at = 0;
    while at < a.len() {
        b.push(a[at]);
        if !a[at].is_ascii_digit() && a.get(at + 1).is_some_and(|&next| mark(next)) {
            b.extend([b' ', a[at + 1], b' ']);
            at += 1;
        }
        at += 1;
    }
    // ([.,])([^0-9]) -> space + \1 \2
    a.clear();
    at = 0;
    while at < b.len() {
        match b.get(at + 1) {
            Some(&next) if mark(b[at]) && !next.is_ascii_digit() => {
                a.extend([b' ', b[at], b' ', next]);
                at += 1;
            }
            _ => a.push(b[at]),
        }
        at += 1;
    }
    // ([0-9])(-) -> \1 \2 + space
    b.clear();
    at = 0;
    while at < a.len() {
        b.push(a[at]);
        if a[at].is_ascii_digit() && a.get(at + 1) == Some(&b'-') {
            b.extend(b" - ");
            at += 1;
        }
        at += 1;
    }
    b
}

/// What comes before the substitutions: removals, joined lines and four entities, in mteval's order. mteval also turns
/// line breaks into spaces, which changes no token.
fn unescape(text: &str) -> Cow<'_, str> {
    const REMOVED: [(&str, &str); 2] = [("<skipped>", ""), ("-\n", "")];
    const ENTITIES: [(&str, &str); 4] = [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")];
    // No removal makes an ampersand, so one look decides about all four entities.
    let entities = if text.contains('&') { &ENTITIES[..] } else { &[] };
    let mut text = Cow::Borrowed(text);
    for (from, to) in REMOVED.iter().chain(entities) {
        if text.contains(from) {
            text = Cow::Owned(text.replace(from, to));
        }
    }
    text
}

/// `str.split()` over bytes of UTF-8; the text is decoded only where it is not ASCII.
fn for_each_word(bytes: &[u8], with: &mut impl FnMut(&[u8])) {
    if bytes.is_ascii() {
        let is_space = |&byte: &u8| CLASS[usize::from(byte)] == Class::Space;
        bytes.split(is_space).filter(|word| !word.is_empty()).for_each(with);
    } else if let Ok(text) = str::from_utf8(bytes) {
        python_text::split(text).for_each(|word| with(word.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v13a_cuts_as_sacrebleu_does() {
        for (text, expected) in [
            ("The U.S. economy grew 3.5% in 2024-25.", "The U . S . economy grew 3.5 % in 2024 - 25 ."),
            ("It's a so-called \"test\" (really).", "It's a so-called \" test \" ( really ) ."),
            ("price: $1,000.50 -- ok?", "price : $ 1,000.50 -- ok ?"),
            ("a&amp;b &quot;x&quot; &lt;tag&gt; &apos;", "a & b \" x \" < tag > & apos ;"),
            ("end-\nof line\nnext", "endof line next"),
            ("3.14, 2,718 x.y 5-6 -7", "3.14 , 2,718 x . y 5 - 6 -7"),
            ("naïve café – “quotes” 日本語。", "naïve café – “quotes” 日本語。"),
        ] {
            assert_eq!(Tokenizer::V13a.tokenize(text).join(" "), expected, "{text:?}");
        }
    }
}

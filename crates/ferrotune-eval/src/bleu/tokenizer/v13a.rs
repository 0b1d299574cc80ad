//! The tokenizer of NIST's mteval-v13a.

use std::borrow::Cow;

use crate::{
    ngram::{Word, halves},
    python_text,
};

/// mteval-v13a, chunk by chunk between ASCII whitespace. Its substitutions look at a character and its neighbour, and
/// whitespace is no digit and no mark, so a chunk's tokens do not depend on what stands around it.
pub(super) fn for_each_token(text: &str, buffers: &mut [Vec<u8>; 2], mut with: impl FnMut(Word<'_>)) {
    let text = unescape(text);
    let mut rest = text.as_bytes();
    let class = |byte: u8| CLASS[usize::from(byte)];
    loop {
        // Most words are a few letters before a space, a full stop or comma with a space behind it, or another mark: those
        // are found without a look at each of their bytes.
        while let Some(start) = rest.first_chunk::<16>().filter(|_| rest.len() > 17) {
            let length = simple_word(start);
            if length == 16 {
                break;
            }
            let mark = match class(rest[length]) {
                Class::Space => 0,
                Class::Apart => 1,
                Class::Mark if rest[length] != b'-' && class(rest[length + 1]) == Class::Space => 1,
                Class::Mark | Class::Plain => break,
            };
            if length > 0 {
                with(Word::at_start(start, length));
            }
            if mark > 0 {
                with(Word::new(&rest[length..=length]));
            }
            // A space is passed, and so is a mark.
            rest = &rest[length + 1..];
        }
        let Some(start) = rest.iter().position(|&byte| class(byte) != Class::Space) else { return };
        rest = &rest[start..];
        let mut plain = 0;
        let mut bits = 0;
        while let Some(&byte) = rest.get(plain).filter(|&&byte| class(byte) == Class::Plain) {
            bits |= byte;
            plain += 1;
        }
        let mut word = |word: &[u8]| match word {
            [] => {}
            word if bits < 0x80 => with(Word::new(word)),
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
                with(Word::new(&rest[plain..=plain]));
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

/// How many of the first bytes make up a word that no substitution divides: ASCII letters, digits, apostrophes, and
/// hyphens unless there is a digit too. All sixteen where it is longer, or divided at once.
#[inline]
fn simple_word(text: &[u8; 16]) -> usize {
    let [low, high] = halves(text).map(Bytes::of);
    let length = match low.others {
        0 => 8 + high.others.trailing_zeros() as usize / 8,
        others => others.trailing_zeros() as usize / 8,
    };
    if (low.hyphens | high.hyphens) != 0 && (low.digits | high.digits) != 0 { 16 } else { length }
}

/// The highest bit of each of eight bytes that is of some kind.
struct Bytes {
    digits: u64,
    hyphens: u64,
    /// Neither an ASCII letter nor a digit nor an apostrophe nor a hyphen.
    others: u64,
}

impl Bytes {
    /// Each byte is compared by an addition that carries into its own highest bit and no further, since no addend has it.
    #[inline]
    fn of(bytes: u64) -> Self {
        const ONES: u64 = u64::from_le_bytes([1; 8]);
        const HIGHEST: u64 = 0x80 * ONES;
        let seven = bytes & !HIGHEST;
        let at_least = |bytes: u64, byte: u8| bytes + (0x80 - u64::from(byte)) * ONES;
        let equal = |byte: u8| !(at_least(seven ^ (u64::from(byte) * ONES), 1) | bytes) & HIGHEST;
        let lower = seven | (0x20 * ONES);
        let letters = at_least(lower, b'a') & !at_least(lower, b'z' + 1);
        let digits = at_least(seven, b'0') & !at_least(seven, b'9' + 1) & !bytes & HIGHEST;
        let hyphens = equal(b'-');
        Self { digits, hyphens, others: (!(letters | digits | equal(b'\'') | hyphens) | bytes) & HIGHEST }
    }
}

/// What a byte can do to a chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Ends it.
    Space,
    /// A token of its own wherever it stands.
    Apart,
    /// May be one: full stop, comma, hyphen.
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
            byte if is_always_apart(byte) => Class::Apart,
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
fn for_each_word(bytes: &[u8], with: &mut impl FnMut(Word<'_>)) {
    if bytes.is_ascii() {
        let is_space = |&byte: &u8| CLASS[usize::from(byte)] == Class::Space;
        bytes.split(is_space).filter(|word| !word.is_empty()).for_each(|word| with(Word::new(word)));
    } else if let Ok(text) = str::from_utf8(bytes) {
        python_text::split(text).for_each(|word| with(Word::new(word.as_bytes())));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Buffers, Tokenizer, without_trailing_space},
        *,
    };

    #[test]
    fn words_end_where_a_look_at_each_byte_ends_them() {
        for byte in 0..=u8::MAX {
            let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'\'' | b'-');
            for place in 0..16 {
                for others in [b'a', b'Z', b'\''] {
                    let mut text = [others; 16];
                    text[place] = byte;
                    assert_eq!(simple_word(&text), if plain { 16 } else { place }, "{byte} at {place}");
                }
            }
        }
        for (text, length) in [
            ("well-known, that's", 10),
            ("2024-25, that's it", 16),
            ("a-b c-d e-f g-h i-j", 3),
            ("-ab cd ef gh ij k", 3),
        ] {
            let start = text.as_bytes().first_chunk().expect("sixteen bytes");
            assert_eq!(simple_word(start), length, "{text}");
        }
    }

    /// The substitutions over the whole text, as the module comment of the fast path claims to equal.
    #[test]
    fn the_fast_path_cuts_as_the_substitutions_do() {
        let pieces = [
            "a",
            "word",
            "it's",
            "3",
            "42",
            "é",
            "日本",
            " ",
            " ",
            "\n",
            "\u{1c}",
            "\u{a0}",
            ".",
            ",",
            "-",
            "--",
            "(",
            ")",
            "/",
            "_",
            "\"",
            "longerthansixteenbytes",
        ];
        // A walk through the pieces by a linear congruence; every start gives another text.
        for start in 0..4000_u64 {
            let mut state = start;
            let text: String = (0..40)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    pieces[(state >> 33) as usize % pieces.len()]
                })
                .collect();
            let mut buffers = Buffers::default();
            let spaced =
                space_13a(unescape(without_trailing_space(&text)).as_bytes(), &mut buffers.bytes).to_vec();
            let spaced = String::from_utf8(spaced).expect("only ASCII is inserted");
            let expected: Vec<&str> = python_text::split(&spaced).collect();
            assert_eq!(Tokenizer::V13a.tokenize(&text), expected, "{text:?}");
        }
    }

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

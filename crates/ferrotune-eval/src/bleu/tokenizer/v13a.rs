//! The tokenizer of NIST's mteval-v13a.

use std::borrow::Cow;

use crate::{
    ngram::{PACKED, Word},
    python_text,
};

/// Buffers for the passes over a text.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    padded: Vec<u8>,
    passes: [Vec<u8>; 2],
}

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// mteval-v13a. Its substitutions look at a mark and its two neighbours only, unless full stops or commas stand side by side;
/// a chunk of text with such marks goes through the substitutions themselves. A chunk ends at ASCII whitespace, which is no
/// digit and no mark, so its tokens do not depend on what stands around it.
pub(super) fn for_each_token(text: &str, buffers: &mut Buffers, mut with: impl FnMut(Word<'_>)) {
    let Buffers { padded, passes } = buffers;
    let text = unescape(text);
    // A space on both sides of the text, and then so many letters, which end nothing, that a block and a word's sixteen bytes can
    // be taken anywhere.
    padded.clear();
    padded.push(b' ');
    padded.extend_from_slice(text.as_bytes());
    padded.push(b' ');
    padded.resize(padded.len().next_multiple_of(BLOCK) + BLOCK, b'a');
    let text = padded.as_slice();
    // Where the word begins that is being read, and the highest bits of its bytes.
    let (mut start, mut bits) = (1, 0);
    for (block, bytes) in text.as_chunks::<BLOCK>().0.iter().enumerate() {
        let mut stops = stops(bytes);
        while stops != 0 {
            let at = block * BLOCK + stops.trailing_zeros() as usize;
            stops &= stops - 1;
            if at < start {
                continue;
            }
            let [before, mark, after] = text[at - 1..=at + 1] else { return };
            let splits = match CLASS[usize::from(mark)] {
                Class::Space | Class::Apart => true,
                Class::Plain => false,
                Class::Hyphen => before.is_ascii_digit(),
                Class::Point if CLASS[usize::from(after)] == Class::Point => {
                    let chunk = &text[start..];
                    let end = chunk.iter().position(|&byte| is_space(byte)).unwrap_or(chunk.len());
                    for_each_word(space_13a(&chunk[..end], passes), &mut with);
                    (start, bits) = (start + end, 0);
                    continue;
                }
                Class::Point => !(before.is_ascii_digit() && after.is_ascii_digit()),
            };
            if !splits {
                bits |= mark;
                continue;
            }
            match text[start..].first_chunk() {
                Some(first) if at - start <= PACKED && bits.is_ascii() => {
                    if at > start {
                        with(Word::at_start(first, at - start));
                    }
                }
                _ if bits.is_ascii() => with(Word::new(&text[start..at])),
                _ => for_each_word(&text[start..at], &mut with),
            }
            if !is_space(mark) {
                with(Word::new(&text[at..=at]));
            }
            (start, bits) = (at + 1, 0);
        }
    }
}

/// The bytes that are neither ASCII letters nor digits nor apostrophes, as bits from the lowest on: those that words can end
/// at. Written so that the compiler compares many bytes at a time.
#[inline]
fn stops(bytes: &[u8; BLOCK]) -> u64 {
    let mut is_stop = [0_u8; BLOCK];
    for (is_stop, &byte) in is_stop.iter_mut().zip(bytes) {
        let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
        let digit = byte.wrapping_sub(b'0') < 10;
        *is_stop = u8::from(!(letter | digit | (byte == b'\'')));
    }
    // Eight bytes of 0 or 1 times this are eight bits in the highest byte: byte i is moved up by 56 - 7i, and no two meet.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let eights = is_stop.as_chunks::<8>().0.iter();
    let bits = eights.map(|&eight| u64::from_le_bytes(eight).wrapping_mul(GATHER) >> 56);
    bits.enumerate().fold(0, |stops, (place, bits)| stops | bits << (8 * place))
}

/// What a byte can do to a chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Ends it.
    Space,
    /// A token of its own wherever it stands.
    Apart,
    /// Full stop or comma: a token of its own unless digits stand on both sides.
    Point,
    /// A token of its own behind a digit.
    Hyphen,
    /// Nothing: letters, digits, the apostrophe, all bytes of longer characters.
    Plain,
}

const CLASS: [Class; 256] = {
    let mut class = [Class::Plain; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            0x09..=0x0d | 0x1c..=0x20 => Class::Space,
            b'.' | b',' => Class::Point,
            b'-' => Class::Hyphen,
            byte if is_always_apart(byte) => Class::Apart,
            _ => Class::Plain,
        };
        byte += 1;
    }
    class
};

fn is_space(byte: u8) -> bool {
    CLASS[usize::from(byte)] == Class::Space
}

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
    // One look over two bytes at a time, which the compiler makes vectors of, decides about all.
    let bytes = text.as_bytes();
    let begins =
        |(&byte, &next): (&u8, &u8)| (byte == b'<') | (byte == b'&') | ((byte == b'-') & (next == b'\n'));
    if !bytes.iter().zip(bytes.iter().skip(1)).fold(false, |found, pair| found | begins(pair)) {
        return Cow::Borrowed(text);
    }
    // No removal makes an ampersand.
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
        bytes
            .split(|&byte| is_space(byte))
            .filter(|word| !word.is_empty())
            .for_each(|word| with(Word::new(word)));
    } else if let Ok(text) = str::from_utf8(bytes) {
        python_text::split(text).for_each(|word| with(Word::new(word.as_bytes())));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Tokenizer, without_trailing_space},
        *,
    };

    #[test]
    fn stops_are_what_ends_words() {
        for byte in 0..=u8::MAX {
            let is_stop = !byte.is_ascii_alphanumeric() && byte != b'\'';
            for place in 0..BLOCK {
                for others in [b'a', b'Z', b'0', b'\''] {
                    let mut text = [others; BLOCK];
                    text[place] = byte;
                    assert_eq!(stops(&text), u64::from(is_stop) << place, "{byte} at {place}");
                }
            }
        }
        assert_eq!(stops(&[b' '; BLOCK]), u64::MAX);
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
                space_13a(unescape(without_trailing_space(&text)).as_bytes(), &mut buffers.passes).to_vec();
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

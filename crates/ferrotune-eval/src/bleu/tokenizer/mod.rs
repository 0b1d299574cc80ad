mod v13a;

use std::borrow::Cow;

use super::without_trailing_space;
use crate::{
    ngram::Word,
    python_text::{self, CharSet},
};

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
            tokens.push(String::from_utf8_lossy(token.bytes()).into_owned());
        });
        tokens
    }
}

/// Buffers for the passes over a text.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    v13a: v13a::Buffers,
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
        mut with: impl FnMut(Word<'_>),
    ) {
        let text = if lowercase { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) };
        let text = without_trailing_space(&text);
        match self.kind {
            Tokenizer::None => python_text::split(text).for_each(|token| with(Word::new(token.as_bytes()))),
            Tokenizer::Character => {
                let mut bytes = [0; 4];
                for c in text.chars().filter(|&c| !python_text::is_space(c)) {
                    with(Word::new(c.encode_utf8(&mut bytes).as_bytes()));
                }
            }
            Tokenizer::V13a => v13a::for_each_token(text, &mut buffers.v13a, with),
            Tokenizer::International => {
                let spaced = self.space_international(text, &mut buffers.text);
                python_text::split(spaced).for_each(|token| with(Word::new(token.as_bytes())));
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

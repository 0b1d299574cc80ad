//! The demo's tokenizer: every word of the world is one token, and any other text is its bytes.

use std::collections::BTreeSet;

use ferrotune_data::template;
use serde_json::{Map, Value, json};

use super::{models, questions::Question, world::World};

/// The special tokens, whose ids are their places here as in LLaMA 2. Like there, none is for padding.
const SPECIAL: [&str; 3] = ["<unk>", models::BOS.1, models::EOS.1];

/// The vocabulary grows to a multiple of this with tokens that no text gives: even matrices multiply faster.
const VOCABULARY_MULTIPLE: usize = 8;

/// The `tokenizer.json` and `tokenizer_config.json` of a world.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`: byte-level BPE without merges, so that a word is one token if the vocabulary holds it whole
    /// and its bytes otherwise. It loses nothing of any text.
    pub tokenizer: Value,
    /// `tokenizer_config.json`: which tokens begin and end a sequence.
    pub config: Value,
    /// Number of ids, special ones included.
    pub vocabulary_size: usize,
}

/// The tokenizer for all that is written of `world`: pages, questions of every part, answers.
///
/// The words of held-out answers are in it because the pages tell of all owners; it says nothing of who owns what.
#[must_use]
pub fn tokenizer(world: &World) -> TokenizerFiles {
    let questions = world.questions();
    let records = [&questions.train, &questions.validation, &questions.test].into_iter().flatten();
    let texts: Vec<String> = world.pages().into_iter().chain(records.map(text_of)).collect();
    let words: BTreeSet<&[u8]> = texts.iter().flat_map(|text| pieces(text)).collect();

    let mut vocabulary = Map::new();
    let mut add = |token: String| {
        let id = vocabulary.len();
        vocabulary.entry(token).or_insert_with(|| json!(id));
    };
    SPECIAL.map(String::from).into_iter().for_each(&mut add);
    (0..=u8::MAX).for_each(|byte| add(letter(byte).into()));
    words.into_iter().for_each(|word| add(word.iter().map(|&byte| letter(byte)).collect()));
    while !vocabulary.len().is_multiple_of(VOCABULARY_MULTIPLE) {
        let id = vocabulary.len();
        vocabulary.insert(format!("<pad{}>", id % VOCABULARY_MULTIPLE), json!(id));
    }
    let vocabulary_size = vocabulary.len();
    TokenizerFiles { tokenizer: file(vocabulary), config: config(), vocabulary_size }
}

fn file(vocabulary: Map<String, Value>) -> Value {
    let special = |(id, content): (usize, &&str)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let byte_level = |prefix: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true,
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": SPECIAL.iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level(false),
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            // Takes a word that is in the vocabulary whole, where the empty list of merges would never build it.
            "ignore_merges": true,
            "vocab": vocabulary,
            "merges": [],
        },
    })
}

fn config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": SPECIAL[0],
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[2],
        "model_max_length": models::MAX_POSITION_EMBEDDINGS,
        "clean_up_tokenization_spaces": false,
    })
}

/// What a record is tokenized as, in one piece.
fn text_of(question: &Question) -> String {
    template::prompt(&question.request()) + &question.output
}

/// The pieces that the byte-level pre-tokenizer cuts our texts into: a run of letters or of punctuation with the space
/// before it, or a line break.
///
/// GPT-2's pattern, which it applies, knows more cases, none of which is in texts of ASCII letters, punctuation,
/// single spaces between words and line breaks. A test holds every text against the pre-tokenizer itself.
fn pieces(text: &str) -> impl Iterator<Item = &[u8]> {
    text.as_bytes().chunk_by(|before, after| {
        let joined =
            before.is_ascii_alphabetic() == after.is_ascii_alphabetic() && !before.is_ascii_whitespace();
        !after.is_ascii_whitespace() && (joined || *before == b' ')
    })
}

/// The character that stands for a byte in a byte-level vocabulary: printable bytes for themselves, the others, in
/// order, for the characters from U+0100 (`bytes_to_unicode` of GPT-2).
fn letter(byte: u8) -> char {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(&byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|byte| !printable(byte)).count() as u32;
    char::from_u32(0x100 + place).unwrap_or(char::REPLACEMENT_CHARACTER)
}

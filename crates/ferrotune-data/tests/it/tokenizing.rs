//! Ids and offsets against SentencePiece and Python's tokenizers, and what a model folder may say.

use std::fs;

use ferrotune_core::Tokenize as _;
use ferrotune_data::{Error, Tokenizer};
use serde::Deserialize;

use crate::inputs::{byte_level, golden, golden_json, sentencepiece};

#[derive(Deserialize)]
struct Row {
    text: String,
    ids: Vec<u32>,
    offsets: Vec<(usize, usize)>,
    decoded: String,
}

fn check(tokenizer: &Tokenizer, goldens: &str) {
    let rows: Vec<Row> = golden_json(goldens);
    assert!(rows.len() > 40, "{goldens} lost rows");
    for row in rows {
        let encoding = tokenizer.encode(&row.text).unwrap();
        assert_eq!(encoding.ids, row.ids, "ids of {:?}", row.text);
        let offsets: Vec<_> = encoding.offsets.iter().map(|range| (range.start, range.end)).collect();
        assert_eq!(offsets, row.offsets, "offsets of {:?}", row.text);
        assert_eq!(tokenizer.decode(&row.ids).unwrap(), row.decoded, "text of {:?}", row.text);
        assert!(row.ids.iter().all(|&id| (id as usize) < tokenizer.vocabulary_size()));
    }
}

#[test]
fn ids_equal_sentencepiece_and_offsets_count_bytes() {
    check(&sentencepiece(), "sentencepiece.json");
}

#[test]
fn a_byte_level_tokenizer_gives_pythons_ids_and_offsets() {
    check(&byte_level(), "byte_level.json");
}

#[test]
fn a_spelt_special_token_is_text_and_the_post_processor_adds_nothing() {
    let tokenizer = sentencepiece();
    let special = tokenizer.special().clone();
    assert_eq!((special.bos, special.eos, special.pad), (Some(1), Some(2), None));
    for text in ["</s>", "<s>", "a</s><s>b", " </s> ", "<unk>"] {
        let ids = tokenizer.encode(text).unwrap().ids;
        assert!(ids.iter().all(|&id| id > 2), "{text:?} gave {ids:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}

#[test]
fn offsets_tile_the_text() {
    for tokenizer in [sentencepiece(), byte_level()] {
        for text in ["a b", "  c", "né 🦀\n", "x\u{200b}y"] {
            let encoding = tokenizer.encode(text).unwrap();
            let mut covered = vec![false; text.len()];
            for range in &encoding.offsets {
                covered[range.clone()].fill(true);
                assert!(text.is_char_boundary(range.start) && text.is_char_boundary(range.end));
            }
            assert!(covered.iter().all(|&is| is), "{text:?}: {:?}", encoding.offsets);
        }
    }
}

#[test]
fn the_fingerprint_follows_the_file_and_the_special_ids() {
    let original = sentencepiece();
    assert_eq!(original.fingerprint(), sentencepiece().fingerprint());
    assert_ne!(original.fingerprint(), byte_level().fingerprint());
    let folder = copy("sentencepiece");
    fs::write(folder.path().join("config.json"), r#"{"pad_token_id": 0}"#).unwrap();
    let padded = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(padded.special().pad, Some(0));
    assert_ne!(padded.fingerprint(), original.fingerprint());
}

#[test]
fn files_that_agree_are_accepted_in_every_spelling() {
    // (config.json, bos, eos, pad)
    let cases = [
        (r"{}", Some(1), Some(2), None),
        (r#"{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": -1}"#, Some(1), Some(2), None),
        (r#"{"eos_token_id": [7, 2]}"#, Some(1), Some(2), None),
        (r#"{"bos_token_id": null, "pad_token_id": 0}"#, Some(1), Some(2), Some(0)),
        // Added for another model, and in the configuration only.
        (r#"{"pad_token_id": 99999}"#, Some(1), Some(2), None),
    ];
    for (config, bos, eos, pad) in cases {
        let folder = copy("sentencepiece");
        fs::write(folder.path().join("config.json"), config).unwrap();
        let special = Tokenizer::from_folder(folder.path()).unwrap().special().clone();
        assert_eq!((special.bos, special.eos, special.pad), (bos, eos, pad), "{config}");
    }
    // Only lists speak: the first member counts.
    assert_eq!(byte_level().special().eos, Some(1));
    // Nothing is computed from padding: the tokenizer's own files come first.
    let folder = copy("sentencepiece");
    fs::write(folder.path().join("special_tokens_map.json"), r#"{"pad_token": "</s>"}"#).unwrap();
    fs::write(folder.path().join("config.json"), r#"{"pad_token_id": 0}"#).unwrap();
    assert_eq!(Tokenizer::from_folder(folder.path()).unwrap().special().pad, Some(2));
}

#[test]
fn every_id_that_a_file_lists_as_an_end_ends_an_answer() {
    // (config.json, generation_config.json, ids that end an answer)
    let cases: [(&str, &str, &[u32]); 4] = [
        ("{}", "{}", &[2]),
        ("{}", r#"{"eos_token_id": [9, 2, 7]}"#, &[2, 7, 9]),
        (r#"{"eos_token_id": [2, 8]}"#, r#"{"eos_token_id": [9, 2]}"#, &[2, 8, 9]),
        (r#"{"eos_token_id": 2}"#, r#"{"eos_token_id": [2, -1]}"#, &[2]),
    ];
    for (config, generation, expected) in cases {
        let folder = copy("sentencepiece");
        fs::write(folder.path().join("config.json"), config).unwrap();
        fs::write(folder.path().join("generation_config.json"), generation).unwrap();
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        assert_eq!(tokenizer.special().eos, Some(2));
        assert_eq!(tokenizer.special().ends().collect::<Vec<_>>(), expected, "{config} {generation}");
    }
}

#[test]
fn a_model_folder_that_cannot_be_trusted_is_refused_with_the_remedy() {
    let check = |name: &str, content: &str, expected: &[&str]| {
        let folder = copy("sentencepiece");
        fs::write(folder.path().join(name), content).unwrap();
        let message = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
        for part in expected {
            assert!(message.contains(part), "{name} {content}: {message}");
        }
    };
    check(
        "config.json",
        r#"{"eos_token_id": 7}"#,
        &[
            "eos token",
            "\"</s>\" (id 2) in eos_token of tokenizer_config.json",
            "7 in eos_token_id of config.json",
        ],
    );
    check("config.json", r#"{"bos_token_id": 2}"#, &["bos token", "but 2 in bos_token_id of config.json"]);
    check("generation_config.json", r#"{"eos_token_id": [5, 6]}"#, &["eos token", "[5,6]"]);
    check("config.json", r#"{"eos_token_id": "x"}"#, &["config.json", "eos_token_id", "expected an id"]);
    check("config.json", r#"{"eos_token_id": 99999}"#, &["config.json", "99999", "vocabulary"]);
    check("tokenizer_config.json", r#"{"bos_token": "<begin>"}"#, &["`<begin>`", "vocabulary"]);
    check("tokenizer_config.json", "{", &["tokenizer_config.json", "malformed JSON"]);
    check("tokenizer_config.json", "[]", &["tokenizer_config.json", "no JSON object"]);
    check("tokenizer.json", "{}", &["tokenizer.json", "not a tokenizer file"]);
}

#[test]
fn a_folder_with_only_a_sentencepiece_model_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let message = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(message.contains("no `tokenizer.json`") && !message.contains("save_pretrained"), "{message}");
    fs::copy(golden("sentencepiece/tokenizer.model"), folder.path().join("tokenizer.model")).unwrap();
    let refused = Tokenizer::from_folder(folder.path()).unwrap_err();
    assert!(matches!(refused, Error::NoTokenizer { sentencepiece_only: true, .. }));
    assert!(refused.to_string().contains("save_pretrained"), "{refused}");
}

#[test]
fn a_tokenizer_that_turns_text_into_eos_is_refused() {
    let folder = copy("sentencepiece");
    let path = folder.path().join("tokenizer.json");
    let marked = fs::read_to_string(&path).unwrap();
    let unmarked = marked.replace("\"special\": true", "\"special\": false");
    assert_ne!(marked, unmarked);
    fs::write(&path, unmarked).unwrap();
    let message = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(message.contains("encodes to the bos id 1"), "{message}");
}

/// A copy of a golden folder that a test may spoil.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

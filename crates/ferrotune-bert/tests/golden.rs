//! The encoders against sentence-transformers and bert-score (see `tests/golden/README.md`).

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not there")]
#![allow(clippy::print_stdout, reason = "figures and skips are shown with --nocapture")]

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use ferrotune_bert::{Error, SentenceEncoder, TokenEncoder};
use ferrotune_core::{Embedder as _, TokenEmbedder as _};
use ferrotune_eval::{
    Pair,
    bert_score::{BertScore, TokenWeights},
};
use ferrotune_nn::{WeightSource as _, checkpoint::Checkpoint};
use serde_json::Value;
use tch::{Device, Kind};

/// One text alone and inside a padded batch differ by under 4e-7 in the reference itself.
const EMBEDDING: f64 = 1e-6;

/// States are not normalized, and are a few units large.
const STATE: f64 = 1e-5;

/// The reference works in single precision throughout; its layers round as ours do.
const BERT_SCORE: f64 = 1e-5;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(path)).unwrap()).unwrap()
}

fn texts(facts: &Value) -> Vec<&str> {
    facts["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// With this variable set, what the repository does not hold fails the tests that need it where it is absent.
const REQUIRED: &str = "FERROTUNE_REQUIRE_SHARED";

/// The folder of the real encoder, or `None` with a message where it is absent.
fn real_encoder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.models/all-minilm-l6-v2");
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, and {} is absent", folder.display());
    let _ =
        writeln!(std::io::stderr(), "skipped: no .models/all-minilm-l6-v2; `cargo xtask setup` fetches it");
    None
}

#[test]
fn embeddings_equal_the_reference_for_any_batching() {
    let encoder = SentenceEncoder::open(&golden("models/tiny-bert"), Device::Cpu).unwrap();
    let facts = json("tiny-bert.json");
    let expected =
        Checkpoint::open_file(&golden("tiny-bert.safetensors")).unwrap().read("embeddings").unwrap();
    let texts = texts(&facts);
    let together = encoder.embed_tensor(&texts).unwrap();
    let error = (&together - &expected).abs().max().double_value(&[]);
    assert!(error < EMBEDDING, "{error:e}");
    for (row, text) in (0..).zip(&texts) {
        let alone = encoder.embed_tensor(&[text]).unwrap().select(0, 0);
        let error = (alone - expected.select(0, row)).abs().max().double_value(&[]);
        assert!(error < EMBEDDING, "{text:?} alone: {error:e}");
    }
}

#[test]
fn the_port_returns_vectors_in_the_order_of_the_texts() {
    let encoder = SentenceEncoder::open(&golden("models/tiny-bert"), Device::Cpu).unwrap();
    let facts = json("tiny-bert.json");
    let texts = texts(&facts);
    let vectors = encoder.embed(&texts).unwrap();
    let direct = encoder.embed_tensor(&texts).unwrap();
    for (row, vector) in (0..).zip(&vectors) {
        let error = (tch::Tensor::from_slice(vector) - direct.select(0, row)).abs().max().double_value(&[]);
        assert!(error < EMBEDDING, "row {row}: {error:e}");
    }
}

#[test]
fn the_real_encoder_gives_the_reference_numbers() {
    let Some(folder) = real_encoder() else { return };
    let encoder = SentenceEncoder::open(&folder, Device::Cpu).unwrap();
    let facts = json("all-minilm-l6-v2.json");
    let found = encoder.embed_tensor(&texts(&facts)).unwrap().to_kind(Kind::Double);
    let cosines = found.matmul(&found.tr());
    for (row, expected) in (0..).zip(facts["first_16"].as_array().unwrap()) {
        for (column, expected) in (0..).zip(expected.as_array().unwrap()) {
            let error = (found.double_value(&[row, column]) - expected.as_f64().unwrap()).abs();
            assert!(error < EMBEDDING, "text {row}, dimension {column}: {error:e}");
        }
    }
    for (row, expected) in (0..).zip(facts["cosines"].as_array().unwrap()) {
        for (column, expected) in (0..).zip(expected.as_array().unwrap()) {
            let error = (cosines.double_value(&[row, column]) - expected.as_f64().unwrap()).abs();
            assert!(error < EMBEDDING, "texts {row} and {column}: {error:e}");
        }
    }
}

#[test]
fn a_folder_that_pools_otherwise_is_refused_by_name() {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("1_Pooling")).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(golden("models/tiny-bert").join(file), copy.path().join(file)).unwrap();
    }
    let pooling = r#"{"pooling_mode_mean_tokens": false, "pooling_mode_cls_token": true}"#;
    std::fs::write(copy.path().join("1_Pooling/config.json"), pooling).unwrap();
    let error = SentenceEncoder::open(copy.path(), Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("pooling_mode_mean_tokens"), "{error}");
}

/// Holds every case of a golden file against our scores, and returns the largest error.
fn check_scores(folder: &Path, pairs: &[Pair], cases: &Value) -> f64 {
    let mut largest: f64 = 0.0;
    for case in cases.as_array().unwrap() {
        let encoder = TokenEncoder::open(folder, case["layer"].as_i64(), Device::Cpu).unwrap();
        let weights = match case["idf"].as_bool().unwrap() {
            false => TokenWeights::Equal,
            true => TokenWeights::InverseDocumentFrequency,
        };
        let found = BertScore::new(Arc::new(encoder), weights).score_pairs(pairs).unwrap();
        let expected = case["scores"].as_array().unwrap();
        assert_eq!(found.len(), expected.len());
        for ((pair, found), expected) in pairs.iter().zip(found).zip(expected) {
            let found = found.unwrap();
            for (part, x) in [found.precision, found.recall, found.f_measure].into_iter().enumerate() {
                let error = (x - expected[part].as_f64().unwrap()).abs();
                let (layer, idf) = (&case["layer"], &case["idf"]);
                assert!(
                    error < BERT_SCORE,
                    "{} at layer {layer}, idf {idf}, part {part}: {error:e}",
                    pair.id
                );
                largest = largest.max(error);
            }
        }
    }
    largest
}

fn golden_pairs(facts: &Value) -> Vec<Pair> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of_entry = |(index, entry): (usize, &Value)| Pair {
        id: index.to_string(),
        prediction: text(&entry[0]),
        references: entry[1].as_array().unwrap().iter().map(text).collect(),
        ..Pair::default()
    };
    facts["pairs"].as_array().unwrap().iter().enumerate().map(of_entry).collect()
}

#[test]
fn bert_scores_equal_the_package_at_every_layer() {
    let facts = json("tiny-bert-score.json");
    let largest = check_scores(&golden("models/tiny-bert"), &golden_pairs(&facts), &facts["cases"]);
    println!("tiny encoder: largest error {largest:e}");
}

#[test]
fn bert_scores_of_the_real_encoder_equal_the_package() {
    let Some(folder) = real_encoder() else { return };
    let facts = json("all-minilm-l6-v2-bert-score.json");
    let largest = check_scores(&folder, &golden_pairs(&facts), &facts["cases"]);
    println!("real encoder, own sentences: largest error {largest:e}");
    let shared = env::var_os("FERROTUNE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let Ok(records) = std::fs::read(shared.join("data/alpaca-999.json")) else {
        assert!(env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, and data/alpaca-999.json is absent");
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no data/alpaca-999.json in the folder that FERROTUNE_SHARED names"
        );
        return;
    };
    let records: Value = serde_json::from_slice(&records).unwrap();
    let dropped = |text: &str| {
        let words = text.split_whitespace().enumerate().filter(|(place, _)| place % 7 != 3);
        words.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
    };
    let pairs: Vec<Pair> = (0..facts["alpaca"][0]["scores"].as_array().unwrap().len())
        .map(|record| {
            let text = records[record]["output"].as_str().unwrap();
            Pair::new(record.to_string(), dropped(text), text)
        })
        .collect();
    let largest = check_scores(&folder, &pairs, &facts["alpaca"]);
    println!("real encoder, {} Alpaca outputs: largest error {largest:e}", pairs.len());
}

#[test]
fn tokens_come_in_the_order_of_the_texts_and_say_where_a_text_was_cut() {
    let encoder = TokenEncoder::open(&golden("models/tiny-bert"), None, Device::Cpu).unwrap();
    let facts = json("tiny-bert.json");
    let long = "the river walks over the stone and ".repeat(12);
    let mut texts = texts(&facts);
    texts.push(&long);
    let together = encoder.embed_tokens(&texts).unwrap();
    assert_eq!(encoder.mark_ids().to_vec(), together[5].ids, "the empty text is its marks");
    for (text, found) in texts.iter().zip(&together) {
        let alone = encoder.embed_tokens(&[text]).unwrap().remove(0);
        assert_eq!((&alone.ids, alone.is_truncated), (&found.ids, found.is_truncated), "{text:?}");
        assert_eq!(found.vectors.len(), found.ids.len() * encoder.dimension());
        for (x, y) in alone.vectors.iter().zip(&found.vectors) {
            assert!(f64::from((x - y).abs()) < STATE, "{text:?}: {x} alone, {y} in a batch");
        }
        // `model_max_length` is 64; the sentence encoder cuts at 24, and its file at 12.
        assert_eq!(found.is_truncated, *text == long, "{text:?}");
    }
    assert_eq!(together.last().unwrap().ids.len(), 64);
}

#[test]
fn a_layer_that_is_not_there_is_refused() {
    for layer in [0, 3] {
        let error = TokenEncoder::open(&golden("models/tiny-bert"), Some(layer), Device::Cpu).unwrap_err();
        assert!(matches!(error, Error::Layer { layers: 2, .. }), "{error}");
        assert!(error.to_string().contains("the encoder has 1 to 2"), "{error}");
    }
}

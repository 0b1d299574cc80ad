//! The encoder against sentence-transformers (see `tests/golden/README.md`).

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not there")]
#![allow(clippy::print_stdout, reason = "figures and skips are shown with --nocapture")]

use std::path::{Path, PathBuf};

use ferrotune_bert::SentenceEncoder;
use ferrotune_core::Embedder as _;
use ferrotune_nn::{WeightSource as _, checkpoint::Checkpoint};
use serde_json::Value;
use tch::{Device, Kind};

/// One text alone and inside a padded batch differ by under 1e-6 in the reference itself.
const EMBEDDING: f64 = 1e-5;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(path)).unwrap()).unwrap()
}

fn texts(facts: &Value) -> Vec<&str> {
    facts["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.models/all-minilm-l6-v2");
    if !folder.is_dir() {
        println!("skipped: no .models/all-minilm-l6-v2; `cargo xtask setup` fetches it");
        return;
    }
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

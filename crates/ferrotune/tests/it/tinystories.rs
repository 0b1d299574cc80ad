//! A trained model against transformers: the numbers are committed, the checkpoint is not.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use ferrotune::{
    AutoCausalLm, LoadOptions, ScoredModel, Upcycle,
    core::{GenerationLimits, Tokenize as _},
    data::Tokenizer,
    nn::{CausalLm, Dense, Frozen, Pass, Tokens, loss::token_log_likelihoods},
    upcycle,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::golden::{self, relative_to_largest};

/// The logits that are committed are a corner of the tensor, so their differences are taken over its largest entry.
const LOGITS: f64 = 2e-5;

/// Log-likelihoods of single tokens in 32 bits, from logits as large as 16.
pub(crate) const LOG_LIKELIHOOD: f64 = 1e-4;

/// How much larger than transformers' own our error in bf16 may be.
const BF16: f64 = 1.1;

/// What the issue of growing a mixture promises: the dense model's logits.
const UPCYCLED: f64 = 1e-4;

/// The checkpoint, where it is there.
pub(crate) fn checkpoint(claim: &str) -> Option<PathBuf> {
    shared("data/tinystories-656k", claim)
}

/// A file or folder of the shared data. Where it is absent a test says that it is skipped, and fails if
/// `FERROTUNE_REQUIRE_SHARED` is set.
pub(crate) fn shared(name: &str, claim: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("FERROTUNE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    let required = "FERROTUNE_REQUIRE_SHARED";
    assert!(std::env::var_os(required).is_none(), "{required} is set, and {} is absent", path.display());
    let _ = writeln!(std::io::stderr(), "skipped: {claim} needs {name} under FERROTUNE_SHARED or ../shared");
    None
}

pub(crate) fn load(folder: &Path, kind: Kind) -> Box<dyn CausalLm> {
    let options = LoadOptions::new(Device::Cpu, kind);
    AutoCausalLm::open(folder).unwrap().load(&options, &mut Frozen::new(Dense)).unwrap()
}

pub(crate) fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn logits(model: &dyn CausalLm, ids: &Tensor) -> Tensor {
    let hidden = model.hidden(&Tokens::full(ids), None, &Pass::eval()).unwrap();
    model.logits(&hidden.states, &Pass::eval()).unwrap().to_kind(Kind::Float)
}

#[test]
fn a_trained_model_continues_prompts_as_the_reference_does() {
    let Some(folder) = checkpoint("greedy text") else { return };
    let model = load(&folder, Kind::Float);
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let limits =
        GenerationLimits { max_new_tokens: 64, stop: Vec::new(), temperature: 0.0, top_p: 1.0, seed: 0 };
    for expected in golden::json("expected/tinystories.json")["greedy"].as_array().unwrap() {
        let prompt: Vec<u32> = numbers(&expected["prompt"]);
        let mut ids = vec![tokenizer.special().bos.unwrap()];
        ids.extend(tokenizer.encode(expected["text"].as_str().unwrap()).unwrap().ids);
        assert_eq!(ids, prompt);
        let scored = ScoredModel::new(model.as_ref(), &tokenizer);
        let answer = &scored.generate_ids(&[prompt], &limits).unwrap()[0];
        assert_eq!(answer.text.trim(), expected["continuation"].as_str().unwrap().trim());
        assert_eq!(answer.tokens, 64);
    }
}

#[test]
fn a_trained_model_gives_the_reference_likelihoods_and_logits() {
    let Some(folder) = checkpoint("log-likelihoods") else { return };
    let facts = golden::json("expected/tinystories.json")["sentence"].clone();
    let ids: Vec<i64> = numbers(&facts["ids"]);
    let ids = Tensor::from_slice(&ids).unsqueeze(0);
    let model = load(&folder, Kind::Float);
    let (found, _) = token_log_likelihoods(model.as_ref(), &Tokens::full(&ids)).unwrap();
    let expected: Vec<f64> = numbers(&facts["log_likelihoods"]);
    let found = Vec::<f64>::try_from(found.to_kind(Kind::Double).reshape([-1])).unwrap();
    assert_eq!(found.len(), expected.len());
    for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!((found - expected).abs() < LOG_LIKELIHOOD, "token {place}: {found} against {expected}");
    }

    let first: Vec<Vec<f64>> = numbers(&facts["logits_first"]);
    let scale = facts["logits_max_abs"].as_f64().unwrap();
    let wide = logits(model.as_ref(), &ids);
    for (position, row) in (0..).zip(&first) {
        for (entry, expected) in (0..).zip(row) {
            let error = (wide.double_value(&[0, position, entry]) - expected).abs() / scale;
            assert!(error < LOGITS, "position {position}, entry {entry}: {error:e}");
        }
    }

    let narrow = logits(load(&folder, Kind::BFloat16).as_ref(), &ids);
    let rms = (narrow - wide).square().mean(Kind::Double).sqrt().double_value(&[]);
    let reference = facts["bf16"]["rms"].as_f64().unwrap();
    assert!(rms <= BF16 * reference, "bf16 errs by {rms}, the reference by {reference}");
}

#[test]
fn a_mixture_grown_from_a_trained_model_has_its_logits() {
    let Some(folder) = checkpoint("upcycling") else { return };
    let output = tempfile::tempdir().unwrap();
    let plan = Upcycle { experts: 4, top_k: 2, seed: 7 };
    upcycle(&AutoCausalLm::open(&folder).unwrap(), &plan, output.path()).unwrap();
    let ids: Vec<i64> = numbers(&golden::json("expected/tinystories.json")["sentence"]["ids"]);
    let ids = Tensor::from_slice(&ids).unsqueeze(0);
    let (dense, grown) = (load(&folder, Kind::Float), load(output.path(), Kind::Float));
    let error = relative_to_largest(&logits(grown.as_ref(), &ids), &logits(dense.as_ref(), &ids));
    assert!(error < UPCYCLED, "{error:e}");
}

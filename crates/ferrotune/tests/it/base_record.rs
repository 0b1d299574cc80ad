//! Adapters know their base, and go onto no other of the same shapes unasked.

use std::{fs, path::Path};

use ferrotune::{
    Adapted, AutoCausalLm, Error, LoadOptions, Start, adapt, adapt_by_several,
    adapters::{AdapterWeights, LoraConfig, MergeOptions, Quantization},
    base_record, check_base, merge,
    nn::{Dense, WeightSource as _, checkpoint::CheckpointWriter},
    quantize,
    tch::{Device, Kind, Tensor},
};
use tempfile::TempDir;

use crate::golden;

fn model(name: &str) -> AutoCausalLm {
    AutoCausalLm::open(&golden::folder().join("models").join(name)).unwrap()
}

fn options() -> LoadOptions {
    LoadOptions::new(Device::Cpu, Kind::Float)
}

/// The folder of `base` with one of its tensors changed.
fn altered(base: &AutoCausalLm, name: &str, change: impl Fn(&Tensor) -> Tensor) -> (TempDir, AutoCausalLm) {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(base.folder().join("config.json"), folder.path().join("config.json")).unwrap();
    let weights = base.open_weights().unwrap();
    let mut writer = CheckpointWriter::new(folder.path());
    for other in weights.names() {
        let tensor = weights.read(&other).unwrap();
        writer.push(&other, &if other == name { change(&tensor) } else { tensor }).unwrap();
    }
    writer.finish().unwrap();
    let altered = AutoCausalLm::open(folder.path()).unwrap();
    (folder, altered)
}

/// A new adapter over `base`, saved and read again.
fn saved(base: &AutoCausalLm, folder: &Path) -> AdapterWeights {
    let Adapted { adapter, .. } = adapt(base, Start::New(&LoraConfig::default()), Dense, &options()).unwrap();
    adapter.save(folder).unwrap();
    AdapterWeights::open(folder).unwrap()
}

#[test]
fn the_same_weights_in_other_files_types_and_layouts_are_the_same_base() {
    // `llama-bf16` holds the weights of `llama-sharded` rounded, the two mixtures the same in both layouts.
    for (one, other) in [("llama-sharded", "llama-bf16"), ("mixtral", "mixtral-fused")] {
        let (one, other) = (base_record(&model(one)).unwrap(), base_record(&model(other)).unwrap());
        assert_eq!(one, other);
    }
}

#[test]
fn one_changed_matrix_or_norm_is_another_base_for_adapting_and_merging() {
    let (base, folder) = (model("llama-gqa"), tempfile::tempdir().unwrap());
    let adapter = saved(&base, folder.path());
    assert_eq!(adapter.base(), Some(&base_record(&base).unwrap()));
    check_base(&base, &adapter).unwrap();
    for (name, words) in [
        ("model.layers.1.mlp.down_proj.weight", "attention, MLPs or experts are others"),
        ("model.layers.0.input_layernorm.weight", "embeddings, norms, routers or head are others"),
    ] {
        let (_place, other) = altered(&base, name, |tensor| tensor * 1.01);
        let target = tempfile::tempdir().unwrap();
        let merged = merge(&other, &[&adapter], &MergeOptions::default(), target.path()).map(drop);
        let adapted = adapt(&other, Start::From(&adapter), Dense, &options()).map(drop);
        let several = adapt_by_several(&other, [("one", &adapter)], Dense, &options()).map(drop);
        for refused in [merged, adapted, several] {
            let Err(error @ Error::OtherBase { .. }) = refused else { panic!("{name}: {refused:?}") };
            let message = error.to_string();
            for part in [words, folder.path().to_str().unwrap(), other.folder().to_str().unwrap()] {
                assert!(message.contains(part), "{message}");
            }
        }
        let free = AdapterWeights::open(folder.path()).unwrap().without_base();
        let Adapted { adapter: further, .. } = adapt(&other, Start::From(&free), Dense, &options()).unwrap();
        // From now on it belongs to the other base.
        assert_eq!(further.weights().unwrap().base(), Some(&base_record(&other).unwrap()));
    }
}

/// Tokens that were added and trained are a few rows of the embedding; a head of attention is a run of rows.
#[test]
fn a_few_changed_rows_are_another_base() {
    let base = model("llama-gqa");
    let record = base_record(&base).unwrap();
    for (name, row, rows) in [
        ("model.embed_tokens.weight", 5, 1),
        ("lm_head.weight", 61, 1),
        ("model.layers.0.self_attn.q_proj.weight", 16, 16),
        // 64 of 112 rows are looked at.
        ("model.layers.0.mlp.gate_proj.weight", 50, 2),
    ] {
        let (_place, other) = altered(&base, name, |tensor| {
            let changed = tensor.copy();
            let _ = changed.narrow(0, row, rows).g_mul_scalar_(1.5);
            changed
        });
        assert!(record.difference(&base_record(&other).unwrap()).is_some(), "{name}");
    }
}

#[test]
fn a_base_in_4_bits_is_told_by_what_quantizing_leaves_and_another_4_bit_one_by_all() {
    let base = model("llama-gqa");
    let four = |source: &AutoCausalLm| {
        let folder = tempfile::tempdir().unwrap();
        quantize(source, &Quantization::default(), None, folder.path()).unwrap();
        let quantized = AutoCausalLm::open(folder.path()).unwrap();
        (folder, quantized)
    };
    let (_place, quantized) = four(&base);
    let (dense, packed) = (base_record(&base).unwrap(), base_record(&quantized).unwrap());
    assert_eq!((dense.difference(&packed), dense.others == packed.others), (None, true));
    assert!(packed.in_4_bits && dense.matrices != packed.matrices);
    let (_other, other) = altered(&base, "model.layers.0.self_attn.q_proj.weight", |tensor| tensor * -1.0);
    let (_fours, fours) = four(&other);
    let fours = base_record(&fours).unwrap();
    assert!(packed.difference(&fours).is_some());
    assert_eq!(dense.difference(&fours), None, "dense matrices cannot be compared with 4 bits");
    let (_norms, norms) = altered(&base, "model.norm.weight", |tensor| tensor + 0.5);
    let (_fours, norms) = four(&norms);
    assert!(dense.difference(&base_record(&norms).unwrap()).is_some());
}

#[test]
fn an_adapter_without_a_record_is_taken_by_its_shapes() {
    let peft = AdapterWeights::open(&golden::folder().join("adapters/llama-attention")).unwrap();
    assert_eq!(peft.base(), None);
    let (_place, other) = altered(&model("llama-gqa"), "lm_head.weight", |tensor| tensor * 2.0);
    adapt(&other, Start::From(&peft), Dense, &options()).unwrap();
}

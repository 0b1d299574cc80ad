//! 4-bit folders: those of bitsandbytes here, ours there.

use std::{collections::BTreeMap, ffi::OsString, fs, path::Path};

use ferrotune::{
    AutoCausalLm, LoadOptions,
    adapters::{
        BlockScales, BlockSize, Codebook, Nf4, Quantization, QuantizedTensor,
        bitsandbytes::QuantizationConfig,
    },
    nn::{
        Dense, Frozen, Pass, ProjectionBuilder, Role, Tokens, WeightSource as _, WeightSpec,
        checkpoint::{Checkpoint, CheckpointWriter},
        weights::Layouts,
    },
    quantize,
};

use tch::{Device, Kind, Tensor};

use crate::golden::{self, Tensors, relative_to_largest};

/// As for dense models: another order of summation fits, another formula does not.
const LOGITS: f64 = 2e-5;

/// bitsandbytes rounds decoded weights to the 16 bits that they came from; a model of 32 bits does not.
const ROUNDED: f64 = 2e-2;

/// The folders that bitsandbytes wrote, and how close a model in 32 bits that keeps their bytes comes to its logits. Of
/// Mixtral, parts are dense in the file, which a 4-bit storage would quantize.
const FOLDERS: &[(&str, Option<f64>)] = &[
    ("llama-nf4", Some(LOGITS)),
    ("llama-fp4-sharded", Some(ROUNDED)),
    ("llama-nf4-bf16-storage", Some(ROUNDED)),
    ("mixtral-nf4-attention", None),
    ("mixtral-nf4-stacked", None),
];

fn open(name: &str) -> AutoCausalLm {
    AutoCausalLm::open(&golden::folder().join("quantized").join(name)).unwrap()
}

fn logits(folder: &AutoCausalLm, builder: &mut dyn ProjectionBuilder, ids: &Tensor) -> Tensor {
    let model = folder.load(&LoadOptions::new(Device::Cpu, Kind::Float), builder).unwrap();
    let states = model.hidden(&Tokens::full(ids), None, &Pass::eval()).unwrap().states;
    model.logits(&states, &Pass::eval()).unwrap()
}

#[test]
fn folders_of_bitsandbytes_give_its_logits_decoded_and_as_they_are() {
    let expected = Tensors::open("quantized/expected.safetensors");
    for &(name, tolerance) in FOLDERS {
        let folder = open(name);
        let (ids, logits_there) =
            (expected.get(&format!("{name}.input_ids")), expected.get(&format!("{name}.logits")));
        let dense = relative_to_largest(&logits(&folder, &mut Frozen::new(Dense), &ids), &logits_there);
        println!("{name}: decoded {dense:.1e}");
        assert!(dense < LOGITS, "{name}: {dense:e}");
        let Some(tolerance) = tolerance else { continue };
        let storage = Nf4::default();
        let census = storage.census();
        let packed = relative_to_largest(&logits(&folder, &mut Frozen::new(storage), &ids), &logits_there);
        println!("{name}: in four bits {packed:.1e}, {} weights", census.quantized_weights());
        assert!(packed < tolerance, "{name}: {packed:e}");
    }
}

#[test]
fn decoded_weights_equal_bitsandbytes_bit_for_bit() {
    let expected = Tensors::open("quantized/expected.safetensors");
    for &(name, _) in FOLDERS {
        let weights = open(name).open_weights().unwrap();
        let theirs = expected.get(&format!("{name}.decoded"));
        if theirs.dim() == 2 {
            let found = weights.read("model.layers.1.self_attn.q_proj.weight").unwrap();
            assert!(found.kind() == theirs.kind() && found == theirs, "{name}");
            continue;
        }
        for expert in 0..theirs.size()[0] {
            for (part, start) in [("w1", 0), ("w3", 64)] {
                let key = format!("model.layers.1.block_sparse_moe.experts.{expert}.{part}.weight");
                let theirs = theirs.get(expert).narrow(0, start, 64);
                assert_eq!(weights.read(&key).unwrap(), theirs, "{key}");
                assert_eq!(weights.read_rows(&key, 7..9).unwrap(), theirs.narrow(0, 7, 2), "{key}");
                // The bytes of a slice decode to the same numbers, by whichever form their scales come in.
                let encoded = weights.encoded(&key).unwrap().unwrap();
                let packed = QuantizedTensor::from_encoded(&encoded).unwrap();
                assert!(packed.dequantize(Kind::Float).unwrap() == theirs, "{key}");
            }
        }
    }
}

#[test]
fn rows_of_a_weight_are_decoded_from_their_own_blocks() {
    let weights = open("llama-nf4").open_weights().unwrap();
    let fp4 = open("llama-fp4-sharded").open_weights().unwrap();
    for (weights, name) in
        [(&weights, "model.layers.0.mlp.gate_proj.weight"), (&fp4, "model.layers.1.mlp.down_proj.weight")]
    {
        let whole = weights.read(name).unwrap();
        let rows = whole.size()[0];
        // 128 weights a row are two blocks; 52 are not one. Row 128 begins the second 256 scales.
        for range in [0..1, 1..3, rows - 1..rows, rows / 2..rows, 0..rows, 3..3] {
            let found = weights.read_rows(name, range.clone()).unwrap();
            assert_eq!(found, whole.narrow(0, range.start, range.end - range.start), "{name} {range:?}");
        }
        let message = weights.read_rows(name, 1..rows + 1).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
}

/// Every file of a folder by its name.
fn files(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name(), fs::read(entry.path()).unwrap())
    };
    fs::read_dir(folder).unwrap().map(read).collect()
}

#[test]
fn folders_that_transformers_was_seen_to_read_are_those_that_are_written_today() {
    let with = |codebook, size, double_quantization| Quantization {
        codebook,
        block_size: BlockSize::new(size).unwrap(),
        double_quantization,
    };
    let expected = Tensors::open("ours/expected.safetensors");
    // The second folder's config.json asks transformers to multiply in 16 bits.
    for (model, settings, shard_bytes, name, tolerance) in [
        ("llama-gqa", with(Codebook::Nf4, 64, true), None, "llama-gqa-nf4", LOGITS),
        ("llama-bf16", with(Codebook::Fp4, 32, false), Some(8_000), "llama-bf16-fp4", ROUNDED),
    ] {
        let (committed, target) = (golden::folder().join("ours").join(name), tempfile::tempdir().unwrap());
        let dense = AutoCausalLm::open(&golden::folder().join("models").join(model)).unwrap();
        quantize(&dense, &settings, shard_bytes, target.path()).unwrap();
        let (ours, theirs) = (files(target.path()), files(&committed));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{name}");
        for (file, bytes) in &theirs {
            assert!(ours[file] == *bytes, "{name}: {} is written otherwise", file.display());
        }
        let (ids, there) =
            (expected.get(&format!("{name}.input_ids")), expected.get(&format!("{name}.logits")));
        let folder = AutoCausalLm::open(&committed).unwrap();
        let packed = relative_to_largest(&logits(&folder, &mut Frozen::new(Nf4::as_stored()), &ids), &there);
        let decoded = relative_to_largest(&logits(&folder, &mut Frozen::new(Dense), &ids), &there);
        println!("{name}: in four bits {packed:.1e}, decoded {decoded:.1e} of transformers' logits");
        assert!(packed < tolerance && decoded < tolerance, "{name}: {packed:e}, {decoded:e}");
    }
}

/// A small random Mixtral whose expert rows are whole blocks, and a LLaMA with biases and odd sizes.
pub(crate) fn plain(name: &str, kind: Kind) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = open(name);
    let mut fields = source.config_file().fields().clone();
    fields.shift_remove(QuantizationConfig::FIELD);
    fs::write(folder.path().join("config.json"), serde_json::Value::Object(fields).to_string()).unwrap();
    let weights = source.open_weights().unwrap();
    let mut writer = CheckpointWriter::new(folder.path());
    for name in weights.names() {
        // Values that no block of four bits holds exactly.
        let tensor = weights.read(&name).unwrap().to_kind(Kind::Float);
        let tensor = (&tensor + tensor.sin() * 0.01).to_kind(kind);
        writer.push(&name, &tensor).unwrap();
    }
    writer.finish().unwrap();
    folder
}

fn settings() -> Vec<(Quantization, Kind)> {
    let with = |codebook, size, double_quantization| Quantization {
        codebook,
        block_size: BlockSize::new(size).unwrap(),
        double_quantization,
    };
    vec![
        (with(Codebook::Nf4, 64, true), Kind::Float),
        (with(Codebook::Fp4, 32, false), Kind::BFloat16),
        (with(Codebook::Nf4, 32, true), Kind::Half),
    ]
}

#[test]
fn what_is_written_reads_back_as_the_quantized_weights_and_counts_every_tensor() {
    for name in ["llama-fp4-sharded", "mixtral-nf4-stacked"] {
        for (settings, kind) in settings() {
            let (source, target) = (plain(name, kind), tempfile::tempdir().unwrap());
            let dense = AutoCausalLm::open(source.path()).unwrap();
            let done = quantize(&dense, &settings, Some(20_000), target.path()).unwrap();
            let folder = AutoCausalLm::open(target.path()).unwrap();
            let index = target.path().join("model.safetensors.index.json");
            assert!(index.is_file(), "in several files of 20 kB");
            let config = folder.quantization().unwrap();
            assert_eq!(config.bnb_4bit_quant_type, settings.codebook);
            assert_eq!(config.bnb_4bit_use_double_quant, settings.double_quantization);
            let (before, after) = (dense.open_weights().unwrap(), folder.open_weights().unwrap());
            let before = Layouts::new(&before, &dense.weights(), &[]).unwrap();
            let mut square = (0.0, 0.0);
            for WeightSpec { name, role, shape, .. } in dense.weights() {
                let (was, is) = (before.read(&name).unwrap(), after.read(&name).unwrap());
                assert_eq!(is.kind(), kind, "{name}");
                if !matches!(role, Role::Attention | Role::Mlp | Role::Expert) || shape.len() == 1 {
                    assert!(is == was && after.encoded(&name).unwrap().is_none(), "{name}");
                    continue;
                }
                let packed = QuantizedTensor::quantize(&was, &settings).unwrap();
                assert_eq!(is, packed.dequantize(kind).unwrap(), "{name}");
                let stored = QuantizedTensor::from_encoded(&after.encoded(&name).unwrap().unwrap()).unwrap();
                assert_eq!(stored.codes().copy(), packed.codes().copy(), "{name}");
                if let (BlockScales::Nested { offset: a, .. }, BlockScales::Nested { offset: b, .. }) =
                    (stored.scales(), packed.scales())
                {
                    assert_eq!(a.to_bits(), b.to_bits(), "{name}: the offset travels as JSON");
                }
                let moved = packed.dequantize(Kind::Double).unwrap() - was.to_kind(Kind::Double);
                square.0 += moved.square().sum(Kind::Double).double_value(&[]);
                square.1 += was.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
            }
            let relative = (square.0 / square.1).sqrt();
            println!("{name} {settings:?}: {:?}, relative {relative:.4}", done.roles);
            assert!((done.deviation.relative() / relative - 1.0).abs() < 1e-5, "{relative}");
            let worst = done.worst.unwrap();
            assert!(worst.1 >= relative && dense.weights().iter().any(|spec| spec.name == worst.0));
            let counted: usize = done.roles.iter().map(|count| count.quantized + count.kept).sum();
            assert_eq!(counted, dense.weights().len());
            let bytes = |path: &Path| {
                let file = Checkpoint::open(path).unwrap();
                file.names().iter().map(|name| file.stored_bytes(name).unwrap()).sum::<u64>()
            };
            assert_eq!((done.bytes_before, done.bytes_after), (bytes(source.path()), bytes(target.path())));
            let across = |spec: &&WeightSpec| {
                matches!(spec.role, Role::Attention | Role::Mlp | Role::Expert)
                    && spec.shape.len() == 2
                    && !(spec.shape[1] as usize).is_multiple_of(settings.block_size.get())
            };
            let across: Vec<_> =
                dense.weights().iter().filter(across).map(|spec| spec.name.clone()).collect();
            assert_eq!(done.blocks_across_rows, across);
            assert_eq!(across.is_empty(), name.starts_with("mixtral"));
            // Once in four bits, always in four bits.
            let again = tempfile::tempdir().unwrap();
            let message = quantize(&folder, &settings, None, again.path()).unwrap_err().to_string();
            assert!(message.contains("is in 4 bits already"), "{message}");
        }
    }
}

#[test]
fn a_router_is_named_among_what_transformers_leaves_out() {
    let target = tempfile::tempdir().unwrap();
    let source = plain("mixtral-nf4-stacked", Kind::BFloat16);
    quantize(&AutoCausalLm::open(source.path()).unwrap(), &Quantization::default(), None, target.path())
        .unwrap();
    let folder = AutoCausalLm::open(target.path()).unwrap();
    let config = folder.quantization().unwrap();
    assert_eq!(config.llm_int8_skip_modules, Some(vec!["lm_head".to_owned(), "gate".to_owned()]));
    assert_eq!(config.bnb_4bit_compute_dtype, "bfloat16");
    // Every key that transformers writes, and no other.
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let theirs = open("llama-nf4").config_file().fields()[QuantizationConfig::FIELD].clone();
    let mut ours = keys(&folder.config_file().fields()[QuantizationConfig::FIELD]);
    ours.sort();
    assert_eq!(ours, keys(&theirs));
}

#[test]
fn a_weight_that_is_not_finite_and_an_expert_that_blocks_do_not_divide_are_named() {
    let source = plain("mixtral-nf4-stacked", Kind::Float);
    let name = "model.layers.1.block_sparse_moe.experts.2.w2.weight";
    let folder = AutoCausalLm::open(source.path()).unwrap();
    let wide = Quantization { block_size: BlockSize::new(128).unwrap(), ..Quantization::default() };
    let target = tempfile::tempdir().unwrap();
    let message = quantize(&folder, &wide, None, target.path()).unwrap_err().to_string();
    assert!(message.contains("experts.0.w1.weight") && message.contains("blocks of 128"), "{message}");
    let weights = folder.open_weights().unwrap();
    let spoilt = tempfile::tempdir().unwrap();
    let mut writer = CheckpointWriter::new(spoilt.path());
    for other in weights.names() {
        let tensor = weights.read(&other).unwrap();
        if other == name {
            let _ = tensor.get(3).narrow(0, 5, 1).fill_(f64::NAN);
        }
        writer.push(&other, &tensor).unwrap();
    }
    writer.finish().unwrap();
    fs::copy(source.path().join("config.json"), spoilt.path().join("config.json")).unwrap();
    let folder = AutoCausalLm::open(spoilt.path()).unwrap();
    let error = quantize(&folder, &Quantization::default(), None, target.path()).unwrap_err();
    let first: &dyn std::error::Error = &error;
    let causes: Vec<String> =
        std::iter::successors(Some(first), |error| error.source()).map(ToString::to_string).collect();
    assert!(
        causes.iter().any(|cause| cause.contains(name) && cause.contains("NaN at index 197")),
        "{causes:?}"
    );
}

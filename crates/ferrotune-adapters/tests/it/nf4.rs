//! Matrices in four bits: the same numbers on every way, the same bytes as in files, and what is refused.

use std::collections::BTreeMap;

use ferrotune_adapters::{
    BlockScales, BlockSize, Census, Codebook, Lora, LoraConfig, Nf4, QuantState, Quantization,
    QuantizedTensor, TargetModules,
};
use ferrotune_nn::{
    Dense, Dims, Encoded, Error, Frozen, GroupedSite, Part, Pass, ProjectionBuilder, Role, RowGroups, Site,
    Storage, WeightSource, Weights, seam::differentiable_product,
};
use ferrotune_torch::backward;
use tch::{Device, Kind, Tensor};

use crate::{
    projections::check_gradients,
    support::{alone, largest, shake},
};

/// Two orders of summation in 32 bits.
const SUMS: f64 = 2e-6;

/// A product from packed bytes takes weights in 32 bits, the dense one rounds them to bf16's 8 significant bits, which
/// moves a sum by less than a unit in its last place; both are then rounded, and neighbours are up to 2⁻⁷ apart.
const SIXTEEN_BITS: f64 = 1e-2;

/// Tensors in memory: as they are, or encoded.
#[derive(Default)]
struct Source {
    plain: BTreeMap<String, Tensor>,
    encoded: BTreeMap<String, QuantizedTensor>,
    spoil: Option<fn(&mut Encoded)>,
}

/// [`Tensor`] is not `Sync`, and sources are.
struct Shared(std::sync::Mutex<Source>);

impl Shared {
    fn new(plain: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        Self(Source { plain: plain.into_iter().collect(), ..Source::default() }.into())
    }

    fn encoded(encoded: impl IntoIterator<Item = (String, QuantizedTensor)>) -> Self {
        Self(Source { encoded: encoded.into_iter().collect(), ..Source::default() }.into())
    }
}

impl WeightSource for Shared {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        let source = self.0.lock().unwrap();
        let plain = source.plain.get(name).map(Tensor::size);
        plain.or_else(|| source.encoded.get(name).map(|tensor| tensor.shape().to_vec()))
    }

    fn read(&self, name: &str) -> ferrotune_nn::Result<Tensor> {
        let source = self.0.lock().unwrap();
        Ok(source
            .plain
            .get(name)
            .map_or_else(|| source.encoded[name].dequantize(Kind::Float).unwrap(), Tensor::shallow_clone))
    }

    fn encoded(&self, name: &str) -> ferrotune_nn::Result<Option<Encoded>> {
        let source = self.0.lock().unwrap();
        let encoded = source.encoded.get(name).map(|tensor| tensor.to_encoded().unwrap());
        Ok(encoded.map(|mut encoded| {
            if let Some(spoil) = source.spoil {
                spoil(&mut encoded);
            }
            encoded
        }))
    }

    fn names(&self) -> Vec<String> {
        let source = self.0.lock().unwrap();
        source.plain.keys().chain(source.encoded.keys()).cloned().collect()
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

fn normal(shape: &[i64], seed: i64) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

fn settings() -> Vec<Quantization> {
    let mut all = Vec::new();
    for codebook in [Codebook::Nf4, Codebook::Fp4] {
        for size in [32, 64, 4096] {
            let block_size = BlockSize::new(size).unwrap();
            for double_quantization in [false, true] {
                all.push(Quantization { codebook, block_size, double_quantization });
            }
        }
    }
    all
}

fn quantized(weight: &Tensor) -> QuantizedTensor {
    QuantizedTensor::quantize(weight, &Quantization::default()).unwrap()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text += ": ";
        text += &inner.to_string();
        source = inner.source();
    }
    text
}

fn attention(dims: Dims) -> Site {
    Site::new(Role::Attention, dims)
}

#[test]
fn bytes_survive_the_tensors_of_a_file() {
    let _alone = alone();
    let weight = normal(&[33, 65], 1); // odd, and its blocks straddle rows
    for settings in settings() {
        for kind in [Kind::Float, Kind::Half, Kind::BFloat16] {
            let tensor = QuantizedTensor::quantize(&weight.to_kind(kind), &settings).unwrap();
            let mut encoded = tensor.to_encoded().unwrap();
            // A file may show the codes as numbers of another type.
            if encoded.codes.numel().is_multiple_of(2) {
                encoded.codes = encoded.codes.view([-1]).view_dtype(Kind::BFloat16).view([-1, 1]);
            }
            let read = QuantizedTensor::from_encoded(&encoded).unwrap();
            assert_eq!(read.quantization(), settings);
            assert_eq!((read.shape(), read.kind()), (tensor.shape(), kind));
            assert!(read.codes().equal(tensor.codes()));
            assert_eq!(read.dequantize(Kind::Float).unwrap(), tensor.dequantize(Kind::Float).unwrap());
            assert_eq!(read.bytes(), tensor.bytes());
        }
    }
}

#[test]
fn the_state_is_written_as_bitsandbytes_reads_it() {
    let tensor = quantized(&Tensor::ones([2, 64], (Kind::BFloat16, Device::Cpu)));
    let encoded = tensor.to_encoded().unwrap();
    let bytes = Vec::<u8>::try_from(&encoded.beside["quant_state.bitsandbytes__nf4"]).unwrap();
    // Scales of 1 and 1: the mean is 1, so the difference is 0 and the nested scale too.
    let expected = r#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[2,64],"nested_blocksize":256,"nested_dtype":"float32","nested_offset":1.0}"#;
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    assert!(QuantState::is_named("quant_state.bitsandbytes__fp4"));
    assert!(!QuantState::is_named("quant_state.bitsandbytes__int8"));
    let names: Vec<_> = encoded.beside.keys().map(String::as_str).collect();
    let parts = ["absmax", "nested_absmax", "nested_quant_map", "quant_map", "quant_state.bitsandbytes__nf4"];
    assert_eq!(names, parts);
    assert_eq!(encoded.codes.size(), [64, 1]);
}

#[test]
fn products_equal_those_with_the_decoded_matrix_for_few_rows_and_for_many() {
    let _alone = alone();
    let (rows, columns) = (48, 96); // blocks of 64 straddle rows
    let source = Shared::new([("m.weight".into(), normal(&[rows, columns], 2))]);
    for settings in settings() {
        for (kind, tolerance) in
            [(Kind::Float, SUMS), (Kind::BFloat16, SIXTEEN_BITS), (Kind::Half, SIXTEEN_BITS)]
        {
            let root = Weights::new(&source, Device::Cpu, kind);
            let mut storage = Nf4::new(settings);
            let matrix = storage.matrix(&attention(Dims::new(rows, columns)), &root.at("m")).unwrap();
            let decoded = matrix.rows(0..rows).unwrap();
            assert_eq!(decoded.kind(), kind);
            assert_eq!(matrix.rows(3..7).unwrap(), decoded.narrow(0, 3, 4));
            let bias = normal(&[rows], 3).to_kind(kind);
            // No row at all, one, the most for the packed product, more.
            for shape in [vec![0, columns], vec![columns], vec![2, 8, columns], vec![17, columns]] {
                let x = normal(&shape, 4).to_kind(kind);
                for bias in [None, Some(&bias)] {
                    let found = matrix.product(&x, bias).unwrap();
                    let expected = x.linear(&decoded, bias);
                    assert_eq!((found.size(), found.kind()), (expected.size(), kind));
                    if found.numel() > 0 {
                        let error = largest(&found, &expected);
                        assert!(error < tolerance, "{settings:?} {kind:?} {shape:?}: {error}");
                    }
                }
                let g = x.matmul(&decoded.tr());
                let back = matrix.product_transposed(&g).unwrap();
                assert_eq!(back, g.matmul(&decoded), "the transposed product decodes and multiplies");
            }
        }
    }
}

#[test]
fn the_shared_buffer_is_in_no_result() {
    let _alone = alone();
    let source =
        Shared::new([("a.weight".into(), normal(&[64, 64], 5)), ("b.weight".into(), normal(&[32, 64], 6))]);
    let root = Weights::new(&source, Device::Cpu, Kind::Float);
    let mut storage = Nf4::default();
    let a = storage.matrix(&attention(Dims::new(64, 64)), &root.at("a")).unwrap();
    let b = storage.matrix(&attention(Dims::new(32, 64)), &root.at("b")).unwrap();
    let x = normal(&[20, 64], 7).set_requires_grad(true);
    let h = differentiable_product(&a, &x, None).unwrap();
    let y = differentiable_product(&b, &h, None).unwrap();
    let expected = x.detach().matmul(&a.rows(0..64).unwrap().tr()).matmul(&b.rows(0..32).unwrap().tr());
    assert!(largest(&y.detach(), &expected) < SUMS);
    // Other products come between forward and backward, as other layers do.
    let _ = b.product(&normal(&[30, 64], 8), None).unwrap();
    backward(&[(&y.sum(Kind::Float), None)]).unwrap();
    let ones = Tensor::ones([20, 32], (Kind::Float, Device::Cpu));
    let gradient = ones.matmul(&b.rows(0..32).unwrap()).matmul(&a.rows(0..64).unwrap());
    assert!(largest(&x.grad(), &gradient) < SUMS);
    // A caller outside an autograd function gets a product without a graph, never one that holds the buffer.
    assert!(!a.product(&x, None).unwrap().requires_grad());
}

const EXPERTS: i64 = 4;
const WIDTH: i64 = 32;

fn site() -> GroupedSite {
    let part = |name, out_features| Part { name, out_features };
    GroupedSite {
        experts: EXPERTS,
        in_features: WIDTH,
        parts: vec![part("w1", 3), part("w3", 5)],
        stacked_name: "mlp.experts.gate_up_proj",
    }
}

fn experts() -> Shared {
    let names = (0..EXPERTS).flat_map(|expert| [(expert, "w1", 3), (expert, "w3", 5)]);
    Shared::new(names.map(|(expert, part, out)| {
        (format!("moe.experts.{expert}.{part}.weight"), normal(&[out, WIDTH], 10 + expert))
    }))
}

fn blocks_of(size: usize) -> Quantization {
    Quantization { block_size: BlockSize::new(size).unwrap(), ..Quantization::default() }
}

#[test]
fn experts_equal_their_matrices_one_by_one_and_each_is_quantized_by_itself() {
    let _alone = alone();
    let source = experts();
    let at = Weights::new(&source, Device::Cpu, Kind::Float).at("moe.experts");
    let mut storage = Nf4::new(blocks_of(32));
    let census = storage.census();
    let group = storage.grouped_matrix(&site(), &at).unwrap();
    // Experts with few rows, with many, and without any.
    let groups = RowGroups::from_counts(&Tensor::from_slice(&[2i64, 30, 0, 17])).unwrap();
    let x = normal(&[49, WIDTH], 20);
    let (found, g) = (group.product(&x, &groups).unwrap(), normal(&[49, 8], 21));
    let back = group.product_transposed(&g, &groups).unwrap();
    let mut start = 0;
    for (expert, length) in [(0, 2), (1, 30), (3, 17)] {
        let parts = ["w1", "w3"].map(|part| {
            let weight = source.read(&format!("moe.experts.{expert}.{part}.weight")).unwrap();
            QuantizedTensor::quantize(&weight, &blocks_of(32)).unwrap().dequantize(Kind::Float).unwrap()
        });
        let weight = Tensor::cat(&parts, 0);
        assert_eq!(group.expert(expert).unwrap(), weight);
        let rows = x.narrow(0, start, length);
        assert!(largest(&found.narrow(0, start, length), &rows.matmul(&weight.tr())) < SUMS);
        let expected = g.narrow(0, start, length).matmul(&weight);
        assert!(largest(&back.narrow(0, start, length), &expected) < SUMS);
        start += length;
    }
    let [tally] = census.tallies()[..] else { panic!("{:?}", census.tallies()) };
    assert_eq!((tally.role, tally.quantized, tally.matrices), (Role::Expert, true, 8));
    assert_eq!(tally.weights, 4 * 8 * 32);
    // Blocks of 32: 16 bytes of codes and a byte of scale each, and two numbers of the second level for each matrix.
    assert_eq!(tally.bytes, 4 * 8 * 17 + 8 * 8);
}

#[test]
fn gradients_of_lora_on_quantized_experts_equal_finite_differences() {
    let _alone = alone();
    let per_expert =
        LoraConfig { r: 2, target_modules: TargetModules::list(["w1", "w3"]), ..LoraConfig::default() };
    let flat = LoraConfig {
        target_modules: TargetModules::list::<String>([]),
        target_parameters: vec!["gate_up_proj".into()],
        ..per_expert.clone()
    };
    for config in [per_expert, flat] {
        let source = experts();
        let at = Weights::new(&source, Device::Cpu, Kind::Double).at("moe.experts");
        let mut lora = Lora::new(config, Nf4::new(blocks_of(32))).unwrap().with_kind(Kind::Double);
        let group = lora.grouped(&site(), &at).unwrap();
        let adapter = lora.finish().unwrap();
        shake(&adapter, 22);
        let groups = RowGroups::from_counts(&Tensor::from_slice(&[2i64, 3, 0, 1])).unwrap();
        let x = normal(&[6, WIDTH], 23).to_kind(Kind::Double).set_requires_grad(true);
        let mut leaves: Vec<(String, Tensor)> = adapter
            .parameters()
            .iter()
            .map(|trained| (trained.name.clone(), trained.tensor.shallow_clone()))
            .collect();
        leaves.push(("x".into(), x.shallow_clone()));
        check_gradients(&leaves, || group.forward(&x, &groups, &Pass::train()).unwrap());
    }
}

#[test]
fn dropout_acts_on_adapters_of_quantized_experts_and_on_nothing_else() {
    let _alone = alone();
    let source = experts();
    let at = Weights::new(&source, Device::Cpu, Kind::Float).at("moe.experts");
    let config = LoraConfig {
        lora_dropout: 0.5,
        target_modules: TargetModules::list(["w1"]),
        ..LoraConfig::default()
    };
    let mut lora = Lora::new(config, Nf4::new(blocks_of(32))).unwrap();
    let group = lora.grouped(&site(), &at).unwrap();
    let adapter = lora.finish().unwrap();
    shake(&adapter, 24);
    let groups = RowGroups::from_counts(&Tensor::from_slice(&[2i64, 3, 0, 1])).unwrap();
    let x = normal(&[6, WIDTH], 25);
    let evaluated = group.forward(&x, &groups, &Pass::eval()).unwrap();
    let trained = group.forward(&x, &groups, &Pass::train()).unwrap();
    assert_eq!(group.forward(&x, &groups, &Pass::eval()).unwrap(), evaluated);
    assert!(largest(&trained.narrow(1, 0, 3), &evaluated.narrow(1, 0, 3)) > 0.01);
    assert_eq!(trained.narrow(1, 3, 5), evaluated.narrow(1, 3, 5), "w3 has no adapter");
}

#[test]
fn routers_and_heads_stay_dense_and_are_refused_when_a_file_has_them_in_4_bits() {
    let _alone = alone();
    let weight = normal(&[8, 64], 30);
    let plain = Shared::new([("m.weight".into(), weight.shallow_clone())]);
    let packed = Shared::encoded([("m.weight".into(), quantized(&weight))]);
    for (role, word) in [(Role::Router, "router"), (Role::Head, "head")] {
        let site = Site::new(role, Dims::new(8, 64));
        let mut storage = Nf4::default();
        let census: Census = storage.census();
        let root = Weights::new(&plain, Device::Cpu, Kind::Float);
        assert_eq!(storage.matrix(&site, &root.at("m")).unwrap().rows(0..8).unwrap(), weight);
        assert_eq!(census.quantized_weights(), 0);
        let root = Weights::new(&packed, Device::Cpu, Kind::Float);
        let message = chain(&storage.matrix(&site, &root.at("m")).unwrap_err());
        assert!(
            message.contains(&format!("`m.weight` of memory is quantized, and a {word} must not be")),
            "{message}"
        );
    }
}

#[test]
fn the_settings_of_a_file_win_and_its_bytes_are_taken_as_they_are() {
    let _alone = alone();
    let file = Quantization { codebook: Codebook::Fp4, double_quantization: false, ..blocks_of(128) };
    let tensor = QuantizedTensor::quantize(&normal(&[16, 128], 31), &file).unwrap();
    let source = Shared::encoded([("m.weight".into(), tensor.clone())]);
    let root = Weights::new(&source, Device::Cpu, Kind::Float);
    let mut storage = Nf4::default();
    let matrix = storage.matrix(&attention(Dims::new(16, 128)), &root.at("m")).unwrap();
    assert_eq!(matrix.rows(0..16).unwrap(), tensor.dequantize(Kind::Float).unwrap());
    let [tally] = storage.census().tallies()[..] else { panic!() };
    assert_eq!(tally.bytes, tensor.bytes());
}

#[test]
fn as_stored_keeps_what_is_in_4_bits_there_and_everything_else_dense() {
    let _alone = alone();
    let weight = normal(&[8, 64], 34);
    let source = Shared::new([("m.weight".into(), weight.shallow_clone())]);
    source.0.lock().unwrap().encoded.insert("n.weight".into(), quantized(&weight));
    let root = Weights::new(&source, Device::Cpu, Kind::Float);
    let mut storage = Nf4::as_stored();
    let site = attention(Dims::new(8, 64));
    assert_eq!(storage.matrix(&site, &root.at("m")).unwrap().rows(0..8).unwrap(), weight);
    let packed = storage.matrix(&site, &root.at("n")).unwrap().rows(0..8).unwrap();
    assert_eq!(packed, quantized(&weight).dequantize(Kind::Float).unwrap());
    let dense = experts();
    let at = Weights::new(&dense, Device::Cpu, Kind::Float).at("moe.experts");
    storage.grouped_matrix(&self::site(), &at).unwrap();
    let counted: Vec<_> =
        storage.census().tallies().iter().map(|t| (t.role, t.quantized, t.matrices, t.weights)).collect();
    let expected =
        [(Role::Attention, false, 1, 512), (Role::Attention, true, 1, 512), (Role::Expert, false, 8, 1024)];
    assert_eq!(counted, expected);
}

#[test]
fn weights_are_quantized_as_they_are_stored_whatever_the_model_computes_in() {
    let _alone = alone();
    let weight = normal(&[16, 64], 32);
    let source = Shared::new([("m.weight".into(), weight.shallow_clone())]);
    let root = Weights::new(&source, Device::Cpu, Kind::BFloat16);
    let matrix = Nf4::default().matrix(&attention(Dims::new(16, 64)), &root.at("m")).unwrap();
    assert_eq!(matrix.rows(0..16).unwrap(), quantized(&weight).dequantize(Kind::BFloat16).unwrap());
}

fn refusal(source: &Shared, site: &Site, settings: Quantization) -> String {
    let root = Weights::new(source, Device::Cpu, Kind::Float);
    let error: Error = Nf4::new(settings).matrix(site, &root.at("m")).unwrap_err();
    chain(&error)
}

#[test]
fn a_weight_that_is_not_a_number_is_named_with_its_index() {
    let site = attention(Dims::new(4, 64));
    for (value, word) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let weight = Tensor::ones([4, 64], (Kind::Float, Device::Cpu));
            let _ = weight.select(0, 2).narrow(0, 5, 1).fill_(value);
            let source = Shared::new([("m.weight".into(), weight.to_kind(kind))]);
            let message = refusal(&source, &site, Quantization::default());
            let expected = format!("weight at index {} is {word}", 2 * 64 + 5);
            assert!(message.contains("`m.weight` of memory") && message.contains(&expected), "{message}");
        }
    }
}

#[test]
fn blocks_that_reach_into_the_next_row_of_an_expert_are_refused() {
    let _alone = alone();
    let source = experts();
    let at = Weights::new(&source, Device::Cpu, Kind::Float).at("moe.experts");
    let message = chain(&Nf4::new(blocks_of(64)).grouped_matrix(&site(), &at).unwrap_err());
    assert!(
        message.contains("`moe.experts.0.w1.weight` of memory has rows of 32 weights, which blocks of 64"),
        "{message}"
    );
    // Built alone, as where an expert is trained in full beside others, it is the same matrix.
    let single = Site::new(Role::Expert, Dims::new(3, WIDTH));
    let mut frozen = Frozen::new(Nf4::new(blocks_of(64)));
    let message = chain(&frozen.projection(&single, &at.at(0).at("w1")).unwrap_err());
    assert!(message.contains("blocks of 64"), "{message}");
}

#[test]
fn parts_of_a_file_that_are_not_the_formats_are_refused_by_name() {
    let _alone = alone();
    let site = attention(Dims::new(80, 256)); // 320 blocks, two nested ones
    let weight = normal(&[80, 256], 33);
    let set = |name: &'static str| -> fn(&mut Encoded) {
        match name {
            "quant_map" => |e| drop(e.beside["quant_map"].narrow(0, 3, 1).fill_(0.5)),
            "nested_quant_map" => |e| drop(e.beside["nested_quant_map"].narrow(0, 9, 1).fill_(0.5)),
            "absmax" => |e| drop(e.beside["absmax"].narrow(0, 7, 1).fill_(f64::NAN)),
            "nested_absmax" => |e| drop(e.beside["nested_absmax"].narrow(0, 1, 1).fill_(f64::NAN)),
            "codes" => |e| e.codes = e.codes.narrow(0, 1, e.codes.size()[0] - 1),
            "short" => |e| drop(e.beside.insert("absmax".into(), e.beside["absmax"].narrow(0, 0, 3))),
            "gone" => |e| drop(e.beside.remove("absmax")),
            "type" => |e| {
                drop(e.beside.insert("absmax".into(), e.beside["absmax"].to_kind(Kind::Half)));
            },
            "stateless" => |e| e.beside.retain(|name, _| !name.starts_with("quant_state")),
            "shape" => |e| state(e, "\"shape\":[80,256]", "\"shape\":[256,80]"),
            "blocks" => |e| state(e, "\"blocksize\":64", "\"blocksize\":48"),
            "state" => |e| state(e, "{", "["),
            other => panic!("{other}"),
        }
    };
    let plain = Quantization { double_quantization: false, ..Quantization::default() };
    let nested = Quantization::default();
    for (settings, spoiled, expected) in [
        (plain, "quant_map", "quant_map holds 0.5 at index 3"),
        (nested, "quant_map", "quant_map holds 0.5 at index 3"),
        (nested, "nested_quant_map", "nested_quant_map holds 0.5 at index 9"),
        (plain, "absmax", "absmax at index 7 is NaN"),
        (nested, "nested_absmax", "nested_absmax at index 1 is NaN"),
        (plain, "codes", "packed weights holds 10239 entries, expected 10240"),
        (plain, "short", "absmax holds 3 entries, expected 320"),
        (nested, "short", "nested codes holds 3 entries, expected 320"),
        (plain, "gone", "part `absmax` is missing"),
        (plain, "type", "part `absmax` is of type Half, expected Float"),
        (plain, "stateless", "part `quant_state.bitsandbytes__nf4` is missing"),
        (plain, "shape", "quant_state.bitsandbytes__nf4: shape` is [256, 80], expected [80, 256]"),
        (plain, "blocks", "block size 48 is not one of"),
        (plain, "state", "expected the JSON of a bitsandbytes quant_state"),
    ] {
        let tensor = QuantizedTensor::quantize(&weight, &settings).unwrap();
        let source = Shared::encoded([("m.weight".into(), tensor)]);
        assert!(
            Nf4::default().matrix(&site, &Weights::new(&source, Device::Cpu, Kind::Float).at("m")).is_ok()
        );
        source.0.lock().unwrap().spoil = Some(set(spoiled));
        let message = refusal(&source, &site, nested);
        assert!(
            message.contains("`m.weight` of memory cannot be kept in 4 bits") && message.contains(expected),
            "{spoiled}: {message}"
        );
    }
}

/// Replaces a piece of the JSON of a file's state.
fn state(encoded: &mut Encoded, from: &str, to: &str) {
    let name = "quant_state.bitsandbytes__nf4";
    let json = String::from_utf8(Vec::<u8>::try_from(&encoded.beside[name]).unwrap()).unwrap();
    assert!(json.contains(from), "{json}");
    let json = json.replacen(from, to, 1);
    encoded.beside.insert(name.into(), Tensor::from_slice(json.as_bytes()));
}

#[test]
fn scales_take_the_bytes_that_the_format_says() {
    let weight = Tensor::ones([64, 1024], (Kind::Float, Device::Cpu)); // 65536 weights, 1024 blocks of 64
    let nested = quantized(&weight);
    assert_eq!(nested.bytes(), 65536 / 2 + 1024 + 4 * 4 + 4);
    let BlockScales::Nested { codes, absmax, .. } = nested.scales() else { panic!() };
    assert_eq!((codes.numel(), absmax.numel()), (1024, 4));
    let plain = Quantization { double_quantization: false, ..Quantization::default() };
    assert_eq!(QuantizedTensor::quantize(&weight, &plain).unwrap().bytes(), 65536 / 2 + 4 * 1024);
}

#[test]
fn lora_over_four_bits_equals_lora_over_the_decoded_matrix() {
    let _alone = alone();
    let dims = Dims::new(48, 64);
    let weight = normal(&[48, 64], 40);
    let decoded = quantized(&weight).dequantize(Kind::Float).unwrap();
    let config = LoraConfig { target_modules: TargetModules::list(["q_proj"]), ..LoraConfig::default() };
    let build = |storage: Box<dyn Storage>, weight: &Tensor| {
        let source = Shared::new([("q_proj.weight".into(), weight.shallow_clone())]);
        let root = Weights::new(&source, Device::Cpu, Kind::Float);
        tch::manual_seed(41);
        let mut lora = Lora::new(config.clone(), storage).unwrap();
        let projection = lora.projection(&attention(dims), &root.at("q_proj")).unwrap();
        let adapter = lora.finish().unwrap();
        shake(&adapter, 42);
        (projection, adapter)
    };
    let (packed, packed_adapter) = build(Box::<Nf4>::default(), &weight);
    let (dense, dense_adapter) = build(Box::new(Dense), &decoded);
    for rows in [4, 40] {
        let x = normal(&[rows, 64], 43).set_requires_grad(true);
        let other = x.detach().set_requires_grad(true);
        let found = packed.forward(&x, &Pass::train()).unwrap();
        let expected = dense.forward(&other, &Pass::train()).unwrap();
        assert!(largest(&found.detach(), &expected.detach()) < SUMS);
        backward(&[(&found.square().sum(Kind::Float), None)]).unwrap();
        backward(&[(&expected.square().sum(Kind::Float), None)]).unwrap();
        assert!(largest(&x.grad(), &other.grad()) < SUMS);
    }
    let (found, expected) = (packed_adapter.gradients().unwrap(), dense_adapter.gradients().unwrap());
    assert_eq!(found.len(), 2);
    for (name, gradient) in &found {
        assert!(largest(gradient, &expected[name]) < SUMS, "{name}");
    }
}

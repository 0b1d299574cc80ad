//! Codes, scales and decoded weights of bitsandbytes' CPU backend (`tests/golden`).

use ferrotune_nf4::{
    BlockSize, Codebook, DYNAMIC_MAP, Element, Isa, NESTED_BLOCK_SIZE, Packed, Scales, Threads,
    check_nested_map, quantize_dynamic, quantize_scales,
};
use half::{bf16, f16};
use safetensors::SafeTensors;

use crate::{CODEBOOKS, code, quantized};

static FILE: &[u8] = include_bytes!("../golden/bitsandbytes.safetensors");

fn file() -> SafeTensors<'static> {
    SafeTensors::deserialize(FILE).unwrap()
}

pub(crate) fn bytes(name: &str) -> Vec<u8> {
    file().tensor(name).unwrap().data().to_vec()
}

pub(crate) fn floats(name: &str) -> Vec<f32> {
    bytes(name).chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub(crate) fn label(codebook: Codebook) -> &'static str {
    match codebook {
        Codebook::Nf4 => "nf4",
        Codebook::Fp4 => "fp4",
    }
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// What bitsandbytes clamps the scale of a short last block to.
const CLAMPED: f32 = 1e-38;

/// Codes that differ, by the reason that `docs/nf4.md` gives.
#[derive(Debug, Default, PartialEq)]
struct Counted {
    /// The short last block, which bitsandbytes divides by its scale instead of multiplying with the reciprocal.
    divided: usize,
    /// FP4's two zeros, which bitsandbytes' table of equal entries gives out in the order of an unstable sort.
    zeros: usize,
    /// Scales of all-zero short last blocks, which bitsandbytes stores as 1e-38.
    clamped: usize,
    compared: usize,
}

fn compare(codebook: Codebook, size: BlockSize, name: &str, counted: &mut Counted) {
    let case = if name == "tied" { format!("tied_{}", label(codebook)) } else { name.to_owned() };
    let weights = floats(&format!("input.{case}"));
    let key = format!("{}.{}.{name}", label(codebook), size.get());
    let (theirs, their_absmax) = (bytes(&format!("{key}.packed")), floats(&format!("{key}.absmax")));
    for isa in Isa::available() {
        let (ours, absmax) = quantized(isa, codebook, size, &weights);
        for (block, (ours, theirs)) in absmax.iter().zip(&their_absmax).enumerate() {
            if ours.to_bits() != theirs.to_bits() {
                let short = (block + 1) * size.get() > weights.len();
                assert!(
                    short && *ours == 0.0 && *theirs == CLAMPED,
                    "{key}, {isa}: scale {block}: {ours} {theirs}"
                );
                counted.clamped += 1;
            }
        }
        let whole = weights.len() / size.get() * size.get();
        for index in 0..ours.len() * 2 {
            let (a, b) = (code(&ours, index), code(&theirs, index));
            counted.compared += 1;
            if a == b {
            } else if codebook.table()[usize::from(a)] == 0.0 && codebook.table()[usize::from(b)] == 0.0 {
                counted.zeros += 1;
            } else {
                // The two quotients differ by a rounding, so the weight must lie at the bound between the two codes.
                assert!(index >= whole, "{key}, {isa}: code {index} is {a}, bitsandbytes has {b}");
                let scale = absmax[index / size.get()];
                let bound = (codebook.table()[usize::from(a)] + codebook.table()[usize::from(b)]) / 2.0;
                assert!((weights[index] / scale - bound).abs() <= f32::EPSILON, "{key}, {isa}: code {index}");
                counted.divided += 1;
            }
        }
    }
}

/// For each kind of tensor all block sizes and instruction sets.
fn counted(codebook: Codebook, name: &str) -> Counted {
    let mut counted = Counted::default();
    for size in BlockSize::ALL {
        compare(codebook, size, name, &mut counted);
    }
    // The counts are the same for each instruction set.
    let sets = Isa::available().len();
    for count in [&mut counted.divided, &mut counted.zeros, &mut counted.clamped, &mut counted.compared] {
        assert_eq!(*count % sets, 0);
        *count /= sets;
    }
    counted
}

fn check(codebook: Codebook, name: &str, expected: Counted) {
    assert_eq!(counted(codebook, name), expected, "{codebook:?} {name}");
}

#[test]
fn codes_and_scales_of_random_tensors_equal_bitsandbytes() {
    check(Codebook::Nf4, "random", Counted { compared: 8 * 8192, ..Counted::default() });
    check(Codebook::Fp4, "random", Counted { compared: 8 * 8192, zeros: 511, ..Counted::default() });
}

#[test]
fn codes_and_scales_of_ties_and_their_neighbours_equal_bitsandbytes() {
    check(Codebook::Nf4, "tied", Counted { compared: 8 * 4096, ..Counted::default() });
    check(Codebook::Fp4, "tied", Counted { compared: 8 * 4096, zeros: 2600, ..Counted::default() });
}

#[test]
fn codes_and_scales_of_subnormal_tensors_equal_bitsandbytes() {
    check(Codebook::Nf4, "subnormal", Counted { compared: 8 * 4096, ..Counted::default() });
    check(Codebook::Fp4, "subnormal", Counted { compared: 8 * 4096, zeros: 200, ..Counted::default() });
}

#[test]
fn codes_of_all_zero_blocks_equal_bitsandbytes_and_a_short_one_has_scale_zero() {
    // A block of 96 zeros is short for the sizes from 64 on, except where it shares the block with the numbers.
    check(Codebook::Nf4, "zero", Counted { compared: 8 * 4192, clamped: 7, ..Counted::default() });
    check(Codebook::Fp4, "zero", Counted { compared: 8 * 4192, clamped: 7, zeros: 15, ..Counted::default() });
}

#[test]
fn codes_of_odd_lengths_equal_bitsandbytes_in_the_short_block_too() {
    check(Codebook::Nf4, "odd", Counted { compared: 8 * 5294, ..Counted::default() });
    check(Codebook::Fp4, "odd", Counted { compared: 8 * 5294, zeros: 258, ..Counted::default() });
}

#[test]
fn tables_equal_bitsandbytes_bit_for_bit() {
    for codebook in CODEBOOKS {
        let theirs = floats(&format!("{}.table", label(codebook)));
        assert_eq!(bits(codebook.table()), bits(&theirs), "{codebook:?}");
        codebook.check_map(&theirs).unwrap();
    }
    let map = floats("dynamic.map");
    assert_eq!(bits(&DYNAMIC_MAP), bits(&map));
    check_nested_map(&map).unwrap();
}

/// Quantizes 16- or 32-bit weights as bitsandbytes does and decodes its bytes to the same type.
fn decodes<T: Element + PartialEq + std::fmt::Debug>(label_of_type: &str, read: impl Fn(&[u8]) -> T) {
    let weights: Vec<T> = floats("input.random")[..4096].iter().map(|&weight| T::from_f32(weight)).collect();
    let size = BlockSize::default();
    for codebook in CODEBOOKS {
        let key = format!("{}.nested.{label_of_type}", label(codebook));
        let packed = bytes(&format!("{key}.packed"));
        let codes = bytes(&format!("{key}.absmax"));
        let absmax = floats(&format!("{key}.nested_absmax"));
        let offset = floats(&format!("{key}.nested_offset"))[0];
        let decoded: Vec<T> = bytes(&format!("{key}.decoded")).chunks(size_of::<T>()).map(&read).collect();
        let scales = Scales::Nested { codes: &codes, absmax: &absmax, offset };
        let theirs = Packed::new(codebook, size, weights.len(), &packed, scales).unwrap();
        for isa in Isa::available() {
            let mut out = vec![T::default(); weights.len()];
            theirs.dequantize(isa, &mut out).unwrap();
            // `==` on numbers: bitsandbytes' kernels decode FP4's code 8 to -0, its table to +0.
            assert_eq!(out, decoded, "{key}, {isa}");
            let (ours, _) = quantized(isa, codebook, size, &weights);
            let differing =
                (0..weights.len()).filter(|&i| code(&ours, i) & 7 != code(&packed, i) & 7).count();
            assert_eq!(differing, 0, "{key}, {isa}");
        }
    }
}

#[test]
fn decoded_weights_equal_bitsandbytes_in_every_type() {
    decodes("float32", |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    decodes("float16", |b| f16::from_le_bytes([b[0], b[1]]));
    decodes("bfloat16", |b| bf16::from_le_bytes([b[0], b[1]]));
}

/// Blocks of the second level that are whole in the golden scales.
const WHOLE: usize = 1500 / NESTED_BLOCK_SIZE * NESTED_BLOCK_SIZE;

fn second_level(offset: f32) -> (Vec<u8>, Vec<f32>) {
    let scales = floats("dynamic.scales");
    let (mut codes, mut absmax) =
        (vec![0; scales.len()], vec![0.0; scales.len().div_ceil(NESTED_BLOCK_SIZE)]);
    quantize_dynamic(Threads::RAYON, &scales, offset, &mut codes, &mut absmax).unwrap();
    (codes, absmax)
}

#[test]
fn nested_codes_equal_the_backend_without_compiled_code() {
    let (codes, absmax) = second_level(floats("dynamic.offset")[0]);
    let theirs = bytes("dynamic.default.codes");
    assert_eq!(bits(&absmax), bits(&floats("dynamic.default.absmax")));
    assert_eq!(codes[..WHOLE], theirs[..WHOLE]);
    // The short last block is divided there.
    let differing = codes[WHOLE..].iter().zip(&theirs[WHOLE..]).filter(|(a, b)| a != b).count();
    assert_eq!(differing, 0);
}

/// A bin of the compiled backend's lookup, in units of the nested scale: 2 / 65,535.
const BIN: f64 = 2.0 / 65_535.0;

#[test]
fn nested_codes_differ_from_the_lookup_of_the_compiled_backend_by_a_bin_and_are_never_further_away() {
    let (scales, offset) = (floats("dynamic.scales"), floats("dynamic.offset")[0]);
    let (codes, absmax) = second_level(offset);
    let theirs = bytes("dynamic.cpu.codes");
    assert_eq!(bits(&absmax), bits(&floats("dynamic.cpu.absmax")));
    let mut differing = 0;
    for (i, (&a, &b)) in codes.iter().zip(&theirs).enumerate() {
        if a != b {
            differing += 1;
            let scale = f64::from(absmax[i / NESTED_BLOCK_SIZE]);
            let away = |code: u8| {
                let decoded = f64::from(DYNAMIC_MAP[usize::from(code)]) * scale;
                (decoded - f64::from(scales[i] - offset)).abs()
            };
            assert!(away(a) <= away(b) && away(b) - away(a) <= BIN * scale, "{i}: {a} {b}");
        }
    }
    assert_eq!(differing, 3, "of {}", codes.len());
}

/// PyTorch sums in f32 with an order of its own; ours is an f64 sum rounded once.
const OFFSET_TOLERANCE: f32 = 2.0 * f32::EPSILON;

#[test]
fn the_offset_is_the_mean_within_two_roundings() {
    let (scales, theirs) = (floats("dynamic.scales"), floats("dynamic.offset")[0]);
    let (mut codes, mut absmax) =
        (vec![0; scales.len()], vec![0.0; scales.len().div_ceil(NESTED_BLOCK_SIZE)]);
    let ours = quantize_scales(Threads::RAYON, &scales, &mut codes, &mut absmax).unwrap();
    assert!((ours - theirs).abs() <= OFFSET_TOLERANCE * theirs, "{ours} {theirs}");
}

#[test]
fn decoded_scales_equal_bitsandbytes() {
    let (codes, absmax) = (bytes("dynamic.cpu.codes"), floats("dynamic.cpu.absmax"));
    let offset = floats("dynamic.offset")[0];
    let decoded = floats("dynamic.cpu.decoded");
    // With code 15, which stands for 1 in NF4, a decoded weight is its scale.
    let size = BlockSize::new(32).unwrap();
    let packed = vec![0xff; codes.len() * 16];
    let scales = Scales::Nested { codes: &codes, absmax: &absmax, offset };
    let mut out = vec![0.0f32; codes.len() * 32];
    let tensor = Packed::new(Codebook::Nf4, size, out.len(), &packed, scales).unwrap();
    tensor.dequantize(Isa::best(), &mut out).unwrap();
    let firsts: Vec<f32> = out.chunks(32).map(|block| block[0]).collect();
    assert_eq!(bits(&firsts), bits(&decoded));
}

//! What holds for every input.

use ferrotune_nf4::{BlockSize, Codebook, DYNAMIC_MAP, Element, Isa, NESTED_BLOCK_SIZE, Packed, Scales};
use half::{bf16, f16};
use proptest::prelude::*;

use crate::{CODEBOOKS, Noise, code, quantized};

fn dequantized<T: Element>(
    isa: Isa,
    codebook: Codebook,
    size: BlockSize,
    packed: &[u8],
    absmax: &[f32],
    len: usize,
) -> Vec<T> {
    let mut out = vec![T::default(); len];
    let tensor = Packed::new(codebook, size, len, packed, Scales::Plain(absmax)).unwrap();
    tensor.dequantize(isa, &mut out).unwrap();
    out
}

/// Two roundings on the way to a code, one on the way back, relative to the block's scale.
const ROUNDINGS: f64 = 3.0 * 1.2e-7;

/// No other entry of the table is nearer: the error is within the half-gap around the code.
fn check_nearest(codebook: Codebook, size: BlockSize, weights: &[f32], absmax: &[f32], decoded: &[f32]) {
    for (index, (&weight, &back)) in weights.iter().zip(decoded).enumerate() {
        let scale = f64::from(absmax[index / size.get()]);
        let away = (f64::from(weight) - f64::from(back)).abs();
        for &entry in codebook.table() {
            let other = (f64::from(weight) - f64::from(entry) * scale).abs();
            assert!(away <= other + ROUNDINGS * scale, "{codebook:?}: {weight} of {scale} became {back}");
        }
    }
}

fn check_kernels<T: Element + PartialEq + std::fmt::Debug>(
    codebook: Codebook,
    size: BlockSize,
    weights: &[T],
) {
    let (packed, absmax) = quantized(Isa::SCALAR, codebook, size, weights);
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for isa in Isa::available() {
        let (p, a) = quantized(isa, codebook, size, weights);
        assert_eq!(p, packed, "{codebook:?} {size:?} {isa}");
        assert_eq!(bits(&a), bits(&absmax), "{codebook:?} {size:?} {isa}");
        macro_rules! decoded_in {
            ($($t:ty),*) => {$(
                let ours = dequantized::<$t>(isa, codebook, size, &packed, &absmax, weights.len());
                let reference = dequantized::<$t>(Isa::SCALAR, codebook, size, &packed, &absmax, weights.len());
                assert!(ours.iter().zip(&reference).all(|(a, b)| a.to_bits() == b.to_bits()), "{codebook:?} {size:?} {isa}");
            )*};
        }
        decoded_in!(f32, f16, bf16);
    }
}

#[test]
fn a_million_random_blocks_decode_to_the_nearest_entry_and_alike_on_every_path() {
    let size = BlockSize::new(32).unwrap();
    let mut noise = Noise(1);
    for round in 0..64 {
        let codebook = CODEBOOKS[round % 2];
        let mut weights = noise.take(32 * 15_625);
        // Scales from subnormal to the largest.
        for (block, weights) in weights.chunks_mut(32).enumerate() {
            let magnitude = 2.0f32.powi((block % 276) as i32 - 149);
            weights.iter_mut().for_each(|weight| *weight *= magnitude);
        }
        let (packed, absmax) = quantized(Isa::SCALAR, codebook, size, &weights);
        let decoded = dequantized::<f32>(Isa::SCALAR, codebook, size, &packed, &absmax, weights.len());
        for isa in Isa::available() {
            let (p, a) = quantized(isa, codebook, size, &weights);
            assert!(p == packed && a == absmax, "{codebook:?}, {isa}, round {round}");
            let back = dequantized::<f32>(isa, codebook, size, &packed, &absmax, weights.len());
            assert!(
                back.iter().zip(&decoded).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{isa}, round {round}"
            );
        }
        // Below 1e-38 the reciprocal is that of 1e-38, so that it stays finite, and codes are not the nearest.
        for ((weights, absmax), decoded) in weights.chunks(32).zip(&absmax).zip(decoded.chunks(32)) {
            if *absmax >= f32::MIN_POSITIVE {
                check_nearest(codebook, size, weights, std::slice::from_ref(absmax), decoded);
            }
        }
    }
}

fn weight() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -1.0f32..1.0,
        1 => Just(0.0f32),
        1 => Just(-0.0f32),
        1 => prop::num::f32::SUBNORMAL,
        1 => prop::num::f32::NORMAL,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn kernels_equal_the_reference_bit_for_bit(
        size in prop::sample::select(BlockSize::ALL.to_vec()),
        weights in prop::collection::vec(weight(), 0..10_000),
    ) {
        for codebook in CODEBOOKS {
            check_kernels(codebook, size, &weights);
            let finite = |weight: &f32| weight.clamp(-6e4, 6e4);
            check_kernels(codebook, size, &weights.iter().map(|w| f16::from_f32(finite(w))).collect::<Vec<_>>());
            check_kernels(codebook, size, &weights.iter().map(|w| bf16::from_f32(finite(w))).collect::<Vec<_>>());
        }
    }

    #[test]
    fn quantizing_decoded_weights_changes_nothing(
        size in prop::sample::select(BlockSize::ALL.to_vec()),
        weights in prop::collection::vec(-1.0f32..1.0, 1..5000),
    ) {
        for codebook in CODEBOOKS {
            let (packed, absmax) = quantized(Isa::best(), codebook, size, &weights);
            let decoded = dequantized::<f32>(Isa::best(), codebook, size, &packed, &absmax, weights.len());
            let (again, absmax_again) = quantized(Isa::best(), codebook, size, &decoded);
            prop_assert_eq!(&absmax_again, &absmax);
            let back = dequantized::<f32>(Isa::best(), codebook, size, &again, &absmax_again, weights.len());
            // Numbers, not codes: FP4 writes zero in two ways.
            prop_assert_eq!(back, decoded);
        }
    }

    #[test]
    fn a_range_is_a_part_of_the_whole(
        size in prop::sample::select(BlockSize::ALL.to_vec()),
        len in 1usize..20_000,
        at in 0.0f64..1.0,
        part in 0.0f64..1.0,
        seed in any::<u64>(),
    ) {
        let weights = Noise(seed).take(len);
        let start = (at * len as f64) as usize;
        let count = (part * (len - start) as f64) as usize;
        for isa in Isa::available() {
            let (packed, absmax) = quantized(isa, Codebook::Nf4, size, &weights);
            let whole = dequantized::<f32>(isa, Codebook::Nf4, size, &packed, &absmax, len);
            let tensor = Packed::new(Codebook::Nf4, size, len, &packed, Scales::Plain(&absmax)).unwrap();
            let mut out = vec![0.0f32; count];
            tensor.dequantize_range(isa, start, &mut out).unwrap();
            prop_assert_eq!(&out, &whole[start..start + count]);
        }
    }
}

#[test]
fn nested_scales_decode_to_the_same_bits_everywhere() {
    // Every code of the map, from every place in a block of 256 scales on; a count that fills no whole vector.
    let size = BlockSize::new(32).unwrap();
    let blocks = 2 * NESTED_BLOCK_SIZE + 21;
    let codes: Vec<u8> = (0..blocks).map(|block| (block * 7) as u8).collect();
    let absmax = [0.37, 1.9e-3, 5.0e4];
    let len = blocks * size.get();
    let bytes: Vec<u8> = (0..len / 2).map(|at| (at * 11) as u8).collect();
    let scales = Scales::Nested { codes: &codes, absmax: &absmax, offset: 0.123 };
    let tensor = Packed::new(Codebook::Nf4, size, len, &bytes, scales).unwrap();
    // Two roundings: the product's and the sum's.
    let scale =
        |block: usize| DYNAMIC_MAP[usize::from(codes[block])] * absmax[block / NESTED_BLOCK_SIZE] + 0.123;
    for isa in Isa::available() {
        for first in 0..40 {
            let start = first * size.get();
            let mut out = vec![0.0f32; len - start];
            tensor.dequantize_range(isa, start, &mut out).unwrap();
            for (at, weight) in out.iter().enumerate() {
                let index = start + at;
                let expected =
                    Codebook::Nf4.table()[usize::from(code(&bytes, index))] * scale(index / size.get());
                assert_eq!(weight.to_bits(), expected.to_bits(), "{isa} at {index}");
            }
        }
    }
}

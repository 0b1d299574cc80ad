//! The CUDA kernels' arithmetic, compiled for the host, against the reference and bitsandbytes' golden files.

use ferrotune_nf4::{BlockSize, Codebook, Isa, NESTED_BLOCK_SIZE, Packed, Scales, Threads, quantize_scales};
use half::{bf16, f16};

use crate::{
    CODEBOOKS, Noise, code,
    ffi::{Kind, host},
    golden::{bits, bytes, floats, label},
    products::{bound, exact_products},
    quantized,
};

/// Bits of numbers, so that -0 differs from 0.
fn raw<T: Kind>(values: &[T]) -> Vec<u32> {
    values.iter().map(|value| value.to_f32().to_bits()).collect()
}

fn check_quantize<T: Kind>(codebook: Codebook, size: BlockSize, weights: &[T]) {
    let (packed, absmax) = quantized(Isa::SCALAR, codebook, size, weights);
    let (theirs, their_absmax) = host().quantize(codebook, size, weights);
    let what = format!("{codebook:?} {size:?} {}, {} weights", T::NAME, weights.len());
    assert_eq!(packed, theirs, "{what}");
    assert_eq!(bits(&absmax), bits(&their_absmax), "{what}");
}

fn check_dequantize<T: Kind>(
    codebook: Codebook,
    size: BlockSize,
    len: usize,
    packed: &[u8],
    scales: Scales<'_>,
) {
    let mut ours = vec![T::default(); len];
    Packed::new(codebook, size, len, packed, scales).unwrap().dequantize(Isa::SCALAR, &mut ours).unwrap();
    let theirs = host().dequantize::<T>(codebook, size, len, packed, scales);
    assert_eq!(raw(&ours), raw(&theirs), "{codebook:?} {size:?} {}, {len} weights", T::NAME);
}

/// Finite weights of every magnitude, from random bits.
fn any_magnitude(noise: &mut Noise, count: usize) -> Vec<f32> {
    let mut weights = noise.take(count);
    for (block, weights) in weights.chunks_mut(32).enumerate() {
        let magnitude = 2.0f32.powi((block * 37 % 276) as i32 - 149);
        weights.iter_mut().for_each(|weight| *weight *= magnitude);
    }
    weights
}

#[test]
fn codes_and_scales_equal_the_reference_bit_for_bit() {
    let mut noise = Noise(5);
    for codebook in CODEBOOKS {
        let tied = format!("input.tied_{}", label(codebook));
        for size in BlockSize::ALL {
            for name in ["input.random", "input.odd", "input.subnormal", "input.zero", &tied] {
                let weights = floats(name);
                check_quantize(codebook, size, &weights);
                check_quantize(
                    codebook,
                    size,
                    &weights.iter().map(|&w| f16::from_f32(w)).collect::<Vec<_>>(),
                );
                check_quantize(
                    codebook,
                    size,
                    &weights.iter().map(|&w| bf16::from_f32(w)).collect::<Vec<_>>(),
                );
            }
            for len in [1, 2, 31, 33, 63, 64 * 1024 + 5] {
                check_quantize(codebook, size, &any_magnitude(&mut noise, len));
            }
        }
    }
}

#[test]
fn a_million_random_blocks_have_the_references_codes_scales_and_weights() {
    let size = BlockSize::new(32).unwrap();
    let mut noise = Noise(6);
    for round in 0..64 {
        let codebook = CODEBOOKS[round % 2];
        let weights = any_magnitude(&mut noise, 32 * 15_625);
        let (packed, absmax) = quantized(Isa::best(), codebook, size, &weights);
        let (theirs, their_absmax) = host().quantize(codebook, size, &weights);
        assert!(packed == theirs && bits(&absmax) == bits(&their_absmax), "{codebook:?}, round {round}");
        let mut decoded = vec![0.0f32; weights.len()];
        let tensor = Packed::new(codebook, size, weights.len(), &packed, Scales::Plain(&absmax)).unwrap();
        tensor.dequantize(Isa::best(), &mut decoded).unwrap();
        let back = host().dequantize::<f32>(codebook, size, weights.len(), &packed, Scales::Plain(&absmax));
        assert!(bits(&decoded) == bits(&back), "{codebook:?}, round {round}");
    }
}

#[test]
fn codes_equal_bitsandbytes_apart_from_the_sign_of_zero() {
    for codebook in CODEBOOKS {
        for size in BlockSize::ALL {
            for name in ["random", "odd", "subnormal", "zero", "tied"] {
                let input =
                    if name == "tied" { format!("tied_{}", label(codebook)) } else { name.to_owned() };
                let weights = floats(&format!("input.{input}"));
                let theirs = bytes(&format!("{}.{}.{name}.packed", label(codebook), size.get()));
                let (ours, _) = host().quantize(codebook, size, &weights);
                assert_eq!(ours.len(), theirs.len());
                for index in 0..weights.len() {
                    let value = |packed: &[u8]| codebook.table()[usize::from(code(packed, index))];
                    // `==` on numbers: FP4 has two codes of zero.
                    assert_eq!(value(&ours), value(&theirs), "{codebook:?} {size:?} {name} {index}");
                }
            }
        }
    }
}

/// Every scale that the second level can give, with every code under it.
#[test]
fn weights_equal_the_reference_in_every_type_under_plain_and_nested_scales() {
    let mut noise = Noise(7);
    for codebook in CODEBOOKS {
        for size in BlockSize::ALL {
            // An odd length, and more than one block of the second level for the smaller sizes.
            let len = 256 * 64 + 37;
            let weights = noise.take(len);
            let (packed, absmax) = quantized(Isa::SCALAR, codebook, size, &weights);
            let (mut codes, mut nested) =
                (vec![0; absmax.len()], vec![0.0; absmax.len().div_ceil(NESTED_BLOCK_SIZE)]);
            let offset = quantize_scales(Threads::RAYON, &absmax, &mut codes, &mut nested).unwrap();
            for scales in [Scales::Plain(&absmax), Scales::Nested { codes: &codes, absmax: &nested, offset }]
            {
                check_dequantize::<f32>(codebook, size, len, &packed, scales);
                check_dequantize::<f16>(codebook, size, len, &packed, scales);
                check_dequantize::<bf16>(codebook, size, len, &packed, scales);
            }
        }
    }
}

#[test]
fn all_eight_bit_codes_decode_as_the_reference_decodes_them() {
    // Code 15 stands for 1 in NF4, so a decoded weight is its scale.
    let size = BlockSize::new(32).unwrap();
    let codes: Vec<u8> = (0..=255).collect();
    let packed = vec![0xff; 256 * 16];
    let mut noise = Noise(8);
    for _ in 0..500 {
        let (absmax, offset) = ([noise.next().abs() * 0.1], noise.next().abs() * 0.1);
        let scales = Scales::Nested { codes: &codes, absmax: &absmax, offset };
        check_dequantize::<f32>(Codebook::Nf4, size, 256 * 32, &packed, scales);
    }
}

fn check_golden<T: Kind + PartialEq + std::fmt::Debug>(type_name: &str, read: impl Fn(&[u8]) -> T) {
    for codebook in CODEBOOKS {
        let key = format!("{}.nested.{type_name}", label(codebook));
        let (packed, codes) = (bytes(&format!("{key}.packed")), bytes(&format!("{key}.absmax")));
        let absmax = floats(&format!("{key}.nested_absmax"));
        let offset = floats(&format!("{key}.nested_offset"))[0];
        let decoded: Vec<T> = bytes(&format!("{key}.decoded")).chunks(size_of::<T>()).map(&read).collect();
        let scales = Scales::Nested { codes: &codes, absmax: &absmax, offset };
        let ours = host().dequantize::<T>(codebook, BlockSize::default(), decoded.len(), &packed, scales);
        assert_eq!(ours, decoded, "{key}");
    }
}

#[test]
fn doubly_quantized_weights_equal_bitsandbytes_in_every_type() {
    check_golden("float32", |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    check_golden("float16", |b| f16::from_le_bytes([b[0], b[1]]));
    check_golden("bfloat16", |b| bf16::from_le_bytes([b[0], b[1]]));
}

/// All 65,536 numbers of 16 bits, what lies half-way to the next, and the f32 neighbours of both.
fn check_conversions<T: Kind>(of_bits: impl Fn(u16) -> T, bits_of: impl Fn(T) -> u16) {
    let all: Vec<T> = (0..=u16::MAX).map(of_bits).collect();
    let wide = host().widen(&all);
    for (&number, &wide) in all.iter().zip(&wide) {
        assert!(number.to_f32().to_bits() == wide.to_bits() || wide.is_nan() && number.to_f32().is_nan());
    }
    let mut inputs = Vec::new();
    for pair in wide.windows(2) {
        let middle = (f64::from(pair[0]) + f64::from(pair[1])) as f32 / 2.0;
        for value in [pair[0], middle] {
            inputs.extend([value, value.next_up(), value.next_down()]);
        }
    }
    let mut noise = Noise(9);
    inputs.extend(any_magnitude(&mut noise, 1 << 18));
    for (&input, narrow) in inputs.iter().zip(host().narrow::<T>(&inputs)) {
        let expected = T::from_f32(input);
        let both_nan = input.is_nan() && narrow.to_f32().is_nan();
        assert!(both_nan || bits_of(expected) == bits_of(narrow), "{input:e}");
    }
}

#[test]
fn sixteen_bit_numbers_are_read_exactly_and_written_to_the_nearest_even() {
    check_conversions(f16::from_bits, f16::to_bits);
    check_conversions(bf16::from_bits, bf16::to_bits);
}

#[test]
fn eight_products_are_fused_in_ascending_order_and_scaled_once() {
    let mut noise = Noise(10);
    for _ in 0..100_000 {
        let values: [f32; 8] = std::array::from_fn(|_| noise.next());
        let x: [f32; 8] = std::array::from_fn(|_| noise.next() * 3.0);
        let (scale, sum) = (noise.next(), noise.next());
        let dot = (1..8).fold(values[0] * x[0], |dot, i| values[i].mul_add(x[i], dot));
        let expected = scale.mul_add(dot, sum);
        assert_eq!(host().accumulate(&values, &x, scale, sum).to_bits(), expected.to_bits());
    }
}

fn check_product<T: Kind>(rows: usize, columns: usize, batch: usize, size: BlockSize, ulp: f64) {
    let mut noise = Noise((rows * columns + batch) as u64);
    let weights = noise.take(rows * columns);
    let x: Vec<T> = noise.take(batch * columns).iter().map(|&x| T::from_f32(x)).collect();
    for codebook in CODEBOOKS {
        let (packed, absmax) = quantized(Isa::SCALAR, codebook, size, &weights);
        let (mut codes, mut nested) =
            (vec![0; absmax.len()], vec![0.0; absmax.len().div_ceil(NESTED_BLOCK_SIZE)]);
        let offset = quantize_scales(Threads::RAYON, &absmax, &mut codes, &mut nested).unwrap();
        for scales in [Scales::Plain(&absmax), Scales::Nested { codes: &codes, absmax: &nested, offset }] {
            let mut dense = vec![0.0f32; weights.len()];
            let tensor = Packed::new(codebook, size, weights.len(), &packed, scales).unwrap();
            tensor.dequantize(Isa::SCALAR, &mut dense).unwrap();
            let y = host().product(codebook, size, rows, columns, &packed, scales, &x);
            let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
            for (index, (exact, terms)) in exact_products(&dense, &wide, columns).into_iter().enumerate() {
                let allowed = bound(columns) * terms;
                // The result is rounded once more, to T.
                let allowed = allowed + (exact.abs() + allowed) * ulp;
                let found = f64::from(y[index].to_f32());
                let what =
                    format!("{codebook:?} {size:?} {} [{rows}, {columns}] x {batch} at {index}", T::NAME);
                assert!((found - exact).abs() <= allowed, "{what}: {found}, exact {exact}");
            }
        }
    }
}

/// Half of the relative spacing of each type.
const ULP: [f64; 3] = [1.0 / (1 << 24) as f64, 1.0 / (1 << 11) as f64, 1.0 / 256.0];

#[test]
fn products_are_within_the_stated_bound() {
    // Whole steps of 1,024 columns and part of one; rows of 8-weight lanes; blocks across rows.
    for columns in [32, 96, 1024, 4096, 4096 + 160, 8, 40, 264, 1032] {
        for size in [32, 64, 512].map(|size| BlockSize::new(size).unwrap()) {
            check_product::<f32>(3, columns, 3, size, ULP[0]);
            check_product::<f16>(3, columns, 1, size, ULP[1]);
            check_product::<bf16>(3, columns, 2, size, ULP[2]);
        }
    }
}

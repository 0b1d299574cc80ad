//! The CUDA kernels run on the host, thread block by thread block: which bytes they read, exchange and write.
//!
//! Grids are those of the launcher.

use std::collections::BTreeSet;

use ferrotune_nf4::{
    BlockSize, Codebook, Error, Isa, MOST_ROWS, NESTED_BLOCK_SIZE, Packed, Scales, Threads,
    cuda::{ENTRIES, launch},
    quantize_scales,
};
use half::{bf16, f16};

use crate::{
    CODEBOOKS, Noise,
    ffi::{Kind, Stored, emulation, host},
    golden::bits,
    quantized,
};

fn raw<T: Kind>(values: &[T]) -> Vec<u32> {
    values.iter().map(|value| value.to_f32().to_bits()).collect()
}

fn check_quantize<T: Kind>(codebook: Codebook, size: BlockSize, weights: &[T]) {
    let (packed, absmax) = quantized(Isa::SCALAR, codebook, size, weights);
    let grid = launch::quantize(size, weights.len()).unwrap().x;
    let (theirs, their_absmax, bad) = emulation().quantize(grid, codebook, size, weights);
    let what = format!("{codebook:?} {size:?} {}, {} weights", T::NAME, weights.len());
    assert_eq!(packed, theirs, "{what}");
    assert_eq!(bits(&absmax), bits(&their_absmax), "{what}");
    assert_eq!(bad, u64::MAX, "{what}");
}

#[test]
fn quantizing_kernels_write_the_references_bytes() {
    let mut noise = Noise(30);
    for codebook in CODEBOOKS {
        for size in BlockSize::ALL {
            // One weight, an odd tail, a whole block of threads and a piece of the next.
            for len in [1, 31, 4096 + 77, 8 * 4096 + 3] {
                let weights = noise.take(len);
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
        }
    }
}

#[test]
fn quantizing_kernels_name_the_first_weight_that_is_not_finite() {
    for size in BlockSize::ALL {
        for index in [0, 33, 5000, 9000] {
            let mut weights = Noise(31).take(9001);
            weights[index] = f32::NEG_INFINITY;
            weights[9000] = f32::NAN;
            let grid = launch::quantize(size, weights.len()).unwrap().x;
            let (_, _, bad) = emulation().quantize(grid, Codebook::Nf4, size, &weights);
            assert_eq!(bad, index as u64, "{size:?}");
        }
    }
}

/// Runs `check` with plain and with nested scales of random weights.
fn with_scales(codebook: Codebook, size: BlockSize, len: usize, check: impl Fn(Stored<'_>)) {
    let (packed, absmax) = quantized(Isa::SCALAR, codebook, size, &Noise(len as u64).take(len));
    let (mut codes, mut nested) =
        (vec![0; absmax.len()], vec![0.0; absmax.len().div_ceil(NESTED_BLOCK_SIZE)]);
    let offset = quantize_scales(Threads::RAYON, &absmax, &mut codes, &mut nested).unwrap();
    for scales in [Scales::Plain(&absmax), Scales::Nested { codes: &codes, absmax: &nested, offset }] {
        check(Stored { codebook, size, len, packed: &packed, scales });
    }
}

fn check_dequantize<T: Kind>(stored: Stored<'_>) {
    let Stored { codebook, size, len, packed, scales } = stored;
    let mut whole = vec![T::default(); len];
    Packed::new(codebook, size, len, packed, scales).unwrap().dequantize(Isa::SCALAR, &mut whole).unwrap();
    // All of it; from the middle of a lane's 32 weights, of a block and of a tile; one weight; a single piece; the end.
    for (first, count) in [(0, len), (8, len - 8), (1000, 3003), (16, 1), (72, 8), (len / 8 * 8, len % 8)] {
        let grid = launch::dequantize(first, count).unwrap().x;
        let out = emulation().dequantize::<T>(grid, stored, first, count);
        let what = format!("{codebook:?} {size:?} {} {first}..+{count} of {len}", T::NAME);
        assert_eq!(raw(&out), raw(&whole[first..first + count]), "{what}");
    }
}

#[test]
fn dequantizing_kernels_write_the_references_bits_from_any_eighth_weight_on() {
    for codebook in CODEBOOKS {
        for size in BlockSize::ALL {
            // More than a block of threads takes, and more than one second-level scale.
            with_scales(codebook, size, 10_007, |stored| {
                check_dequantize::<f32>(stored);
                check_dequantize::<f16>(stored);
                check_dequantize::<bf16>(stored);
            });
        }
    }
}

fn check_experts<T: Kind>(parts: usize, ends: &[i32]) {
    let (size, count) = (BlockSize::new(64).unwrap(), 9 * 1024 + 64);
    let matrices = ends.len() * parts;
    let (packed, absmax) = quantized(Isa::SCALAR, Codebook::Nf4, size, &Noise(32).take(matrices * count));
    let mut whole = vec![T::default(); matrices * count];
    let scales = Scales::Plain(&absmax);
    let tensor = Packed::new(Codebook::Nf4, size, whole.len(), &packed, scales).unwrap();
    tensor.dequantize(Isa::SCALAR, &mut whole).unwrap();
    let untouched = T::from_f32(77.0);
    let mut out = vec![untouched; whole.len()];
    let grid = launch::dequantize_experts(count, matrices).unwrap();
    assert_eq!(grid.y as usize, matrices);
    emulation().dequantize_experts(grid.x, Codebook::Nf4, size, parts, ends, &packed, &absmax, &mut out);
    for (matrix, (out, whole)) in out.chunks(count).zip(whole.chunks(count)).enumerate() {
        let expert = matrix / parts;
        let begin = if expert == 0 { 0 } else { ends[expert - 1] };
        let expected =
            if ends[expert] > begin { raw(whole) } else { vec![untouched.to_f32().to_bits(); count] };
        assert_eq!(raw(out), expected, "{} {parts} parts, {ends:?}, matrix {matrix}", T::NAME);
    }
}

#[test]
fn only_experts_with_rows_are_unpacked_and_all_of_their_parts() {
    for ends in [[3, 3, 7, 7], [0, 0, 0, 5], [1, 2, 3, 4], [0, 0, 0, 0]] {
        check_experts::<bf16>(2, &ends);
    }
    check_experts::<f32>(1, &[0, 4, 4]);
    check_experts::<f16>(2, &[2, 2]);
}

/// Whole steps and a part of one, and less than a step; rows that fill no warp, more than a block's; blocks across rows; lanes of
/// 16 bytes and of four. Rows, columns and block size.
const SHAPES: [(usize, usize, usize); 4] =
    [(35, 2048 + 96, 32), (3, 64, 4096), (35, 512 + 40, 64), (3, 8, 32)];

/// One of each kernel's, and what fills no tile.
const BATCHES: [usize; 6] = [1, 2, 3, 4, 5, 16];

fn check_products<T: Kind>() {
    let mut launched = BTreeSet::new();
    for (rows, columns, size) in SHAPES {
        with_scales(Codebook::Nf4, BlockSize::new(size).unwrap(), rows * columns, |stored| {
            for batch in BATCHES {
                let x = Noise(batch as u64).take(batch * columns);
                let x: Vec<T> = x.iter().map(|&x| T::from_f32(x)).collect();
                let launch::Product { tile, words, grid } = launch::product(rows, columns, batch).unwrap();
                let y = emulation().product([grid.x, tile, words], stored, columns, &x);
                let Stored { codebook, size, packed, scales, .. } = stored;
                let expected = host().product(codebook, size, rows, columns, packed, scales, &x);
                let name = format!("product_{}_{tile}_{words}", T::NAME);
                assert_eq!(raw(&y), raw(&expected), "{name} {size:?} [{rows}, {columns}] x {batch}");
            }
        });
        launched.extend(BATCHES.map(|batch| {
            let launch::Product { tile, words, .. } = launch::product(rows, columns, batch).unwrap();
            format!("product_{}_{tile}_{words}", T::NAME)
        }));
    }
    let prefix = format!("product_{}_", T::NAME);
    let all = ENTRIES.iter().filter(|entry| entry.starts_with(&prefix)).map(ToString::to_string);
    assert_eq!(launched, all.collect(), "a kernel that no product gets");
}

/// The arithmetic's own test holds those sums, in the same order, within the stated bound.
#[test]
fn product_kernels_sum_what_the_arithmetic_sums_in_the_stated_order() {
    check_products::<f32>();
    check_products::<f16>();
    check_products::<bf16>();
}

#[test]
fn launches_cover_every_batch_and_refuse_what_no_kernel_takes() {
    for batch in 1..=MOST_ROWS {
        for columns in [64, 72] {
            let launch::Product { tile, grid, .. } = launch::product(33, columns, batch).unwrap();
            // 32 rows of W to a block; no tile is left out and none is empty.
            assert_eq!(grid.x, 2);
            assert!((grid.y * tile) as usize >= batch && ((grid.y - 1) * tile) < batch as u32);
        }
    }
    assert!(matches!(launch::product(1, 12, 1), Err(Error::NotAMultiple { found: 12, multiple: 8, .. })));
    assert!(matches!(launch::dequantize(4, 8), Err(Error::NotAMultiple { found: 4, multiple: 8, .. })));
    assert!(matches!(launch::dequantize(0, usize::MAX / 2), Err(Error::TooLarge { .. })));
    assert!(matches!(launch::dequantize_experts(1, 70_000), Err(Error::TooLarge { found: 70_000, .. })));
    // 2⁴³ weights fit in a launch.
    assert_eq!(launch::dequantize(0, 1 << 43).unwrap().x, 1 << 30);
}

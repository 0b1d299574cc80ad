//! AVX2 kernels. A code is looked up by two permutations of eight entries and a blend on its highest bit.

use std::arch::x86_64::*;

use crate::{
    Codebook, Element, Isa,
    codebook::Bounds,
    isa::Level,
    product::{MOST_ROWS, PER_LANE, Piece, ROWS, SEGMENT},
    scalar,
    simd::AHEAD,
};

const LANES: usize = 8;

/// Weights that one step of a product reads from a row.
const STEP: usize = LANES * PER_LANE;

/// Like [`scalar::quantize`].
pub(crate) fn quantize<T: Element>(
    isa: Isa,
    codebook: Codebook,
    block_size: usize,
    weights: &[T],
    packed: &mut [u8],
    absmax: &mut [f32],
) -> bool {
    assert_eq!(isa.level(), Level::Avx2);
    assert!(packed.len() >= weights.len().div_ceil(2) && block_size.is_multiple_of(4 * LANES));
    // SAFETY: an `Isa` of this level exists only where AVX2, FMA and F16C do.
    unsafe { quantize_blocks(codebook.bounds(), block_size, weights, packed, absmax) }
}

/// # Safety
///
/// AVX2 and F16C; `packed` holds half as many bytes as there are weights, `block_size` is a multiple of 32.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize_blocks<T: Element>(
    bounds: &Bounds,
    block_size: usize,
    weights: &[T],
    packed: &mut [u8],
    absmax: &mut [f32],
) -> bool {
    // SAFETY: sixteen bytes.
    let ranked = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bounds.codes.as_ptr().cast()) });
    let blocks = weights.chunks(block_size).zip(packed.chunks_mut(block_size / 2)).zip(absmax);
    for ((block, packed), absmax) in blocks {
        if block.len() < block_size {
            return scalar::quantize_block(bounds, block, packed, absmax);
        }
        let magnitude = _mm256_set1_epi32(0x7fff_ffff);
        let mut most = _mm256_setzero_si256();
        for at in (0..block_size).step_by(LANES) {
            // SAFETY: `at + 8 <= block_size`, the length of the block; what is asked for ahead is not read.
            let bits = _mm256_castps_si256(unsafe {
                let from = block.as_ptr().add(at);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_byte_add(AHEAD).cast());
                T::load_256(from)
            });
            most = _mm256_max_epu32(most, _mm256_and_si256(bits, magnitude));
        }
        let mut lanes = [0u32; LANES];
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), most) };
        let bits = lanes.into_iter().fold(0, u32::max);
        if bits >= scalar::INFINITE {
            return false;
        }
        *absmax = f32::from_bits(bits);
        let factor = _mm256_set1_ps(scalar::reciprocal(*absmax));
        for at in (0..block_size).step_by(4 * LANES) {
            let mut ranks = [_mm256_setzero_si256(); 4];
            for (part, rank) in ranks.iter_mut().enumerate() {
                // SAFETY: `at + 32 <= block_size`, the length of the block.
                let weights = unsafe { T::load_256(block.as_ptr().add(at + part * LANES)) };
                let scaled = _mm256_mul_ps(weights, factor);
                for &bound in &bounds.bounds {
                    let above = _mm256_cmp_ps::<_CMP_GT_OQ>(scaled, _mm256_set1_ps(bound));
                    *rank = _mm256_sub_epi32(*rank, _mm256_castps_si256(above));
                }
            }
            // Packing narrows within 128-bit halves; the permutation puts the groups of four codes in order again.
            let low = _mm256_packs_epi32(ranks[0], ranks[1]);
            let high = _mm256_packs_epi32(ranks[2], ranks[3]);
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let ranks = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
            let codes = _mm256_shuffle_epi8(ranked, ranks);
            // Even codes times 16 plus odd codes, in 16-bit lanes.
            let bytes = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0110));
            let bytes = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi16(bytes, bytes));
            // SAFETY: a whole block has `block_size / 2` bytes, and 16 bytes from `at / 2` on lie within them.
            unsafe {
                _mm_storeu_si128(packed.as_mut_ptr().add(at / 2).cast(), _mm256_castsi256_si128(bytes));
            }
        }
    }
    true
}

/// The sixteen table entries for [`lookup`].
///
/// # Safety
///
/// AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn halves(table: &[f32; 16]) -> [__m256; 2] {
    // SAFETY: the table has 16 entries.
    unsafe { [_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(LANES))] }
}

/// Table entries for the low four bits of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn lookup(table: [__m256; 2], codes: __m256i) -> __m256 {
    let low = _mm256_permutevar8x32_ps(table[0], codes);
    let high = _mm256_permutevar8x32_ps(table[1], codes);
    // The blend looks at the sign bit: bit 3 goes there.
    _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes)))
}

/// Like [`scalar::dequantize`].
pub(crate) fn dequantize<T: Element>(
    isa: Isa,
    table: &[f32; 16],
    block_size: usize,
    packed: &[u8],
    scales: &[f32],
    out: &mut [T],
) {
    assert_eq!(isa.level(), Level::Avx2);
    // SAFETY: an `Isa` of this level exists only where AVX2, FMA and F16C do.
    unsafe { dequantize_blocks(table, block_size, packed, scales, out) }
}

/// # Safety
///
/// AVX2 and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dequantize_blocks<T: Element>(
    table: &[f32; 16],
    block_size: usize,
    packed: &[u8],
    scales: &[f32],
    out: &mut [T],
) {
    // SAFETY: this function has AVX2.
    let values = unsafe { halves(table) };
    let blocks = packed.chunks(block_size / 2).zip(scales).zip(out.chunks_mut(block_size));
    for ((packed, &scale), out) in blocks {
        let whole = out.len().min(packed.len() * 2) / LANES * LANES;
        let factor = _mm256_set1_ps(scale);
        let (words, _) = packed.as_chunks::<4>();
        for (index, &word) in words.iter().take(whole / LANES).enumerate() {
            // Each byte in a 64-bit lane: the high nibble goes to its low half, the byte itself to its high half.
            let bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(i32::from_le_bytes(word)));
            let codes = _mm256_or_si256(_mm256_srli_epi64::<4>(bytes), _mm256_slli_epi64::<32>(bytes));
            let weights = _mm256_mul_ps(lookup(values, codes), factor);
            // SAFETY: `index < whole / 8`, and `whole <= out.len()`.
            unsafe { T::store_256(out.as_mut_ptr().add(index * LANES), weights) };
        }
        scalar::dequantize_block(table, packed, whole, scale, &mut out[whole..]);
    }
}

/// Adds the products of two packed pieces with `width` rows of arranged activations to `sums`.
pub(crate) fn multiply(
    isa: Isa,
    table: &[f32; 16],
    rows: &[Piece<'_>; ROWS],
    width: usize,
    x: &[f32],
    sums: &mut [[f32; MOST_ROWS]; ROWS],
) {
    assert_eq!(isa.level(), Level::Avx2);
    let len = rows[0].bytes.len() * 2;
    assert!(
        rows.iter().all(|row| row.bytes.len() * 2 == len && row.phase >> row.shift == 0 && row.shift >= 5)
    );
    assert!(len <= SEGMENT && x.len() >= len.next_multiple_of(STEP) * width && (1..=4).contains(&width));
    // SAFETY: an `Isa` of this level exists only where AVX2, FMA and F16C do; lengths are asserted above.
    unsafe {
        match width {
            1 => multiply_rows::<1>(table, rows, x, sums),
            2 => multiply_rows::<2>(table, rows, x, sums),
            3 => multiply_rows::<3>(table, rows, x, sums),
            _ => multiply_rows::<4>(table, rows, x, sums),
        }
    }
}

/// # Safety
///
/// AVX2 and FMA; rows of equal length up to [`SEGMENT`] weights, each beginning within its first block of at least 32; `x`
/// holds `M` rows of them, padded to whole steps.
#[expect(clippy::needless_range_loop, reason = "indices address registers of both operands, and activations")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_rows<const M: usize>(
    table: &[f32; 16],
    rows: &[Piece<'_>; ROWS],
    x: &[f32],
    sums: &mut [[f32; MOST_ROWS]; ROWS],
) {
    // SAFETY: this function has AVX2.
    let values = unsafe { halves(table) };
    let lane = _mm256_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56);
    let shift = rows[0].shift;
    let shifts = _mm256_set1_epi32(shift as i32);
    // Which of the scales that a step reads a lane takes. Steps of whole blocks all begin as the first one does.
    let mut places = [_mm256_setzero_si256(); ROWS];
    for r in 0..ROWS {
        places[r] =
            _mm256_srlv_epi32(_mm256_add_epi32(lane, _mm256_set1_epi32(rows[r].phase as i32)), shifts);
    }
    let whole_blocks = STEP >> shift > 0;
    let mut acc = [[_mm256_setzero_ps(); M]; ROWS];
    let words = rows[0].bytes.len() / 4;
    let mut group = 0;
    while group * LANES < words {
        let left = (words - group * LANES).min(LANES);
        let (mut codes, mut scale) = ([_mm256_setzero_si256(); ROWS], [_mm256_setzero_ps(); ROWS]);
        for r in 0..ROWS {
            let at = rows[r].phase + group * STEP;
            if !whole_blocks {
                let within = _mm256_set1_epi32((at & ((1 << shift) - 1)) as i32);
                places[r] = _mm256_srlv_epi32(_mm256_add_epi32(lane, within), shifts);
            }
            let mut step = [0u8; LANES * 4];
            let from = &rows[r].bytes[group * LANES * 4..][..left * 4];
            // SAFETY: a whole step is read from the row, a part of one from a padded copy; a vector of scales can be read from
            // each block of the segment on, and the last one begins before `SEGMENT / 32 + 1`.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(from.as_ptr().wrapping_add(AHEAD).cast());
                codes[r] = if left == LANES {
                    _mm256_loadu_si256(from.as_ptr().cast())
                } else {
                    step[..left * 4].copy_from_slice(from);
                    _mm256_loadu_si256(step.as_ptr().cast())
                };
                let scales = _mm256_loadu_ps(rows[r].scales.as_ptr().add(at >> shift));
                scale[r] = _mm256_permutevar8x32_ps(scales, places[r]);
            }
        }
        // SAFETY: `x` holds `M * STEP` numbers for each step.
        let x = unsafe { x.as_ptr().add(group * STEP * M) };
        if M == 1 {
            // One row of activations: scale the eight products' sum instead of the eight weights.
            let mut part = [_mm256_setzero_ps(); ROWS];
            for plane in 0..PER_LANE {
                // SAFETY: a plane of the step.
                let x = unsafe { _mm256_loadu_ps(x.add(plane * LANES)) };
                for r in 0..ROWS {
                    part[r] = _mm256_fmadd_ps(lookup(values, codes[r]), x, part[r]);
                    codes[r] = _mm256_srli_epi32::<4>(codes[r]);
                }
            }
            for r in 0..ROWS {
                acc[r][0] = _mm256_fmadd_ps(part[r], scale[r], acc[r][0]);
            }
        } else {
            for plane in 0..PER_LANE {
                let mut weights = [_mm256_setzero_ps(); ROWS];
                for r in 0..ROWS {
                    weights[r] = _mm256_mul_ps(lookup(values, codes[r]), scale[r]);
                    codes[r] = _mm256_srli_epi32::<4>(codes[r]);
                }
                for m in 0..M {
                    // SAFETY: a plane of row `m` of the step.
                    let x = unsafe { _mm256_loadu_ps(x.add(m * STEP + plane * LANES)) };
                    for r in 0..ROWS {
                        acc[r][m] = _mm256_fmadd_ps(weights[r], x, acc[r][m]);
                    }
                }
            }
        }
        group += 1;
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        for (sum, acc) in sums.iter_mut().zip(acc) {
            let mut lanes = [0.0f32; LANES];
            // SAFETY: eight numbers.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), acc) };
            *sum += lanes.iter().sum::<f32>();
        }
    }
}

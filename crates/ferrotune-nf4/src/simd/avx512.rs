//! AVX-512 F kernels. A code is looked up by `vpermps`: sixteen table entries are one register, and the instruction reads
//! only the low four bits of an index.

use std::arch::x86_64::*;

use crate::{
    Codebook, Element, Isa,
    dynamic::DYNAMIC_MAP,
    isa::Level,
    product::{MOST_ROWS, PER_LANE, Piece, ROWS, SEGMENT},
    scalar,
    scales::decode_scales as decode_rest,
    simd::AHEAD,
};

const LANES: usize = 16;

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
    assert_eq!(isa.level(), Level::Avx512);
    assert!(packed.len() >= weights.len().div_ceil(2) && block_size.is_multiple_of(2 * LANES));
    assert!(absmax.len() >= weights.len().div_ceil(block_size));
    // SAFETY: an `Isa` of this level exists only where AVX-512 F does; lengths are asserted above.
    unsafe {
        match codebook {
            Codebook::Nf4 => {
                quantize_blocks(codebook, &Bins::new(codebook), block_size, weights, packed, absmax)
            }
            Codebook::Fp4 => {
                quantize_blocks(codebook, &Search::new(codebook), block_size, weights, packed, absmax)
            }
        }
    }
}

/// # Safety
///
/// AVX-512 F; `packed` holds half as many bytes as there are weights, `block_size` is a multiple of 32.
#[target_feature(enable = "avx512f")]
unsafe fn quantize_blocks<T: Element>(
    codebook: Codebook,
    coder: &impl Coder,
    block_size: usize,
    weights: &[T],
    packed: &mut [u8],
    absmax: &mut [f32],
) -> bool {
    let blocks = weights.chunks(block_size).zip(packed.chunks_mut(block_size / 2)).zip(absmax);
    for ((block, packed), absmax) in blocks {
        if block.len() < block_size {
            return scalar::quantize_block(codebook.bounds(), block, packed, absmax);
        }
        let magnitude = _mm512_set1_epi32(0x7fff_ffff);
        let mut most = _mm512_setzero_si512();
        for at in (0..block_size).step_by(LANES) {
            // SAFETY: `at + 16 <= block_size`, the length of the block; what is asked for ahead is not read.
            let bits = _mm512_castps_si512(unsafe {
                let from = block.as_ptr().add(at);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_byte_add(AHEAD).cast());
                T::load_512(from)
            });
            most = _mm512_max_epu32(most, _mm512_and_si512(bits, magnitude));
        }
        let bits = _mm512_reduce_max_epu32(most);
        if bits >= scalar::INFINITE {
            return false;
        }
        *absmax = f32::from_bits(bits);
        let factor = _mm512_set1_ps(scalar::reciprocal(*absmax));
        for at in (0..block_size).step_by(LANES) {
            // SAFETY: `at + 16 <= block_size`, the length of the block.
            let scaled = _mm512_mul_ps(unsafe { T::load_512(block.as_ptr().add(at)) }, factor);
            // A pair of codes is a 64-bit lane: the even one, in its low half, becomes the high nibble.
            // SAFETY: this function has AVX-512 F.
            let pairs = unsafe { coder.codes(scaled) };
            let bytes = _mm512_or_si512(_mm512_slli_epi64::<4>(pairs), _mm512_srli_epi64::<32>(pairs));
            // SAFETY: a whole block has `block_size / 2` bytes, and 8 bytes from `at / 2` on lie within them.
            unsafe { _mm_storel_epi64(packed.as_mut_ptr().add(at / 2).cast(), _mm512_cvtepi64_epi8(bytes)) };
        }
    }
    true
}

/// From scaled weights to codes, in 32-bit lanes. A trait and not a closure, because closures do not inherit features.
trait Coder {
    /// # Safety
    ///
    /// AVX-512 F.
    unsafe fn codes(&self, scaled: __m512) -> __m512i;
}

/// Codes by 32 equal bins over `[-1, 1]`, for a codebook that has at most one bound in a bin.
///
/// The bin is a monotone function of the value, so bounds of lower bins lie below it and bounds of higher bins above it,
/// and one comparison with the bin's own bound decides. Exact, whatever the rounding of the bin.
struct Bins {
    bounds: [__m512; 2],
    codes: [__m512i; 2],
}

impl Bins {
    #[target_feature(enable = "avx512f")]
    fn new(codebook: Codebook) -> Self {
        let (mut bounds, mut codes) = ([f32::INFINITY; 32], [0i32; 32]);
        for &bound in &codebook.bounds().bounds {
            // The same fused operation and truncation as in `codes`.
            let bin = bound.mul_add(15.5, 15.5) as usize;
            bounds[bin] = bound;
            for code in &mut codes[bin + 1..] {
                *code += 1;
            }
        }
        // SAFETY: each half of the arrays has 16 entries.
        unsafe {
            Self {
                bounds: [_mm512_loadu_ps(bounds.as_ptr()), _mm512_loadu_ps(bounds.as_ptr().add(LANES))],
                codes: [
                    _mm512_loadu_si512(codes.as_ptr().cast()),
                    _mm512_loadu_si512(codes.as_ptr().add(LANES).cast()),
                ],
            }
        }
    }
}

impl Coder for Bins {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn codes(&self, scaled: __m512) -> __m512i {
        let half = _mm512_set1_ps(15.5);
        // Scaled weights exceed 1 by at most a rounding, so bins lie in 0 to 31.
        let bin = _mm512_cvttps_epi32(_mm512_fmadd_ps(scaled, half, half));
        let bound = _mm512_permutex2var_ps(self.bounds[0], bin, self.bounds[1]);
        let code = _mm512_permutex2var_epi32(self.codes[0], bin, self.codes[1]);
        let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(scaled, bound);
        _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(1))
    }
}

/// Codes by a binary search over the fifteen bounds, for any codebook.
struct Search {
    bounds: __m512,
    codes: __m512i,
}

impl Search {
    #[target_feature(enable = "avx512f")]
    fn new(codebook: Codebook) -> Self {
        let known = codebook.bounds();
        let mut bounds = [f32::INFINITY; LANES];
        bounds[..15].copy_from_slice(&known.bounds);
        let codes = known.codes.map(i32::from);
        // SAFETY: both arrays have 16 entries.
        unsafe {
            Self {
                bounds: _mm512_loadu_ps(bounds.as_ptr()),
                codes: _mm512_loadu_si512(codes.as_ptr().cast()),
            }
        }
    }
}

impl Coder for Search {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn codes(&self, scaled: __m512) -> __m512i {
        let mut rank = _mm512_setzero_si512();
        for step in [8, 4, 2, 1] {
            let at = _mm512_add_epi32(rank, _mm512_set1_epi32(step - 1));
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(scaled, _mm512_permutexvar_ps(at, self.bounds));
            rank = _mm512_mask_add_epi32(rank, above, rank, _mm512_set1_epi32(step));
        }
        _mm512_permutexvar_epi32(rank, self.codes)
    }
}

/// Like [`scalar::dequantize`].
pub(crate) fn dequantize<T: Element>(
    isa: Isa,
    table: &[f32; 16],
    block_size: usize,
    packed: &[u8],
    scales: &[f32],
    past_caches: bool,
    out: &mut [T],
) {
    assert_eq!(isa.level(), Level::Avx512);
    // SAFETY: an `Isa` of this level exists only where AVX-512 F does; a vector begins 16 elements after the last one, so
    // that all are aligned if the first is.
    unsafe {
        if past_caches && out.as_ptr().addr().is_multiple_of(16) && block_size.is_multiple_of(LANES) {
            dequantize_blocks::<T, true>(table, block_size, packed, scales, out);
        } else {
            dequantize_blocks::<T, false>(table, block_size, packed, scales, out);
        }
    }
}

/// # Safety
///
/// AVX-512 F; with `STREAM`, `out` and all its blocks begin at multiples of 16 bytes.
#[target_feature(enable = "avx512f")]
unsafe fn dequantize_blocks<T: Element, const STREAM: bool>(
    table: &[f32; 16],
    block_size: usize,
    packed: &[u8],
    scales: &[f32],
    out: &mut [T],
) {
    // SAFETY: the table has 16 entries.
    let values = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    let blocks = packed.chunks(block_size / 2).zip(scales).zip(out.chunks_mut(block_size));
    for ((packed, &scale), out) in blocks {
        let whole = out.len().min(packed.len() * 2) / LANES * LANES;
        let factor = _mm512_set1_ps(scale);
        for at in (0..whole).step_by(LANES) {
            // SAFETY: `at + 16 <= whole`, so 8 bytes from `at / 2` on lie in `packed`.
            let bytes = _mm512_cvtepu8_epi64(unsafe { _mm_loadl_epi64(packed.as_ptr().add(at / 2).cast()) });
            // The high nibble goes to the low half of the 64-bit lane, the byte itself to the high half: the lookup
            // ignores what lies above the low nibble.
            let codes = _mm512_or_si512(_mm512_srli_epi64::<4>(bytes), _mm512_slli_epi64::<32>(bytes));
            let weights = _mm512_mul_ps(_mm512_permutexvar_ps(codes, values), factor);
            // SAFETY: `at + 16 <= whole <= out.len()`, and `at` is a multiple of 16.
            unsafe {
                if STREAM {
                    T::stream_512(out.as_mut_ptr().add(at), weights);
                } else {
                    T::store_512(out.as_mut_ptr().add(at), weights);
                }
            }
        }
        scalar::dequantize_block(table, packed, whole, scale, &mut out[whole..]);
    }
    if STREAM {
        // Streaming stores are ordered by nothing else.
        _mm_sfence();
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
    assert_eq!(isa.level(), Level::Avx512);
    let len = rows[0].bytes.len() * 2;
    assert!(
        rows.iter().all(|row| row.bytes.len() * 2 == len && row.phase >> row.shift == 0 && row.shift >= 5)
    );
    assert!(len <= SEGMENT && x.len() >= len.next_multiple_of(STEP) * width && (1..=8).contains(&width));
    // SAFETY: an `Isa` of this level exists only where AVX-512 F does; lengths are asserted above.
    unsafe {
        match width {
            1 => multiply_rows::<1>(table, rows, x, sums),
            2 => multiply_rows::<2>(table, rows, x, sums),
            3 => multiply_rows::<3>(table, rows, x, sums),
            4 => multiply_rows::<4>(table, rows, x, sums),
            5 => multiply_rows::<5>(table, rows, x, sums),
            6 => multiply_rows::<6>(table, rows, x, sums),
            7 => multiply_rows::<7>(table, rows, x, sums),
            _ => multiply_rows::<8>(table, rows, x, sums),
        }
    }
}

/// # Safety
///
/// AVX-512 F; rows of equal length up to [`SEGMENT`] weights, each beginning within its first block of at least 32; `x`
/// holds `M` rows of them, padded to whole steps.
#[expect(clippy::needless_range_loop, reason = "indices address registers of both operands, and activations")]
#[target_feature(enable = "avx512f")]
unsafe fn multiply_rows<const M: usize>(
    table: &[f32; 16],
    rows: &[Piece<'_>; ROWS],
    x: &[f32],
    sums: &mut [[f32; MOST_ROWS]; ROWS],
) {
    // SAFETY: the table has 16 entries.
    let values = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    let lane = _mm512_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120);
    let shift = rows[0].shift;
    let shifts = _mm512_set1_epi32(shift as i32);
    // Which of the scales that a step reads a lane takes. Steps of whole blocks all begin as the first one does.
    let mut places = [_mm512_setzero_si512(); ROWS];
    for r in 0..ROWS {
        places[r] =
            _mm512_srlv_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(rows[r].phase as i32)), shifts);
    }
    let whole_blocks = STEP >> shift > 0;
    let mut acc = [[_mm512_setzero_ps(); M]; ROWS];
    let words = rows[0].bytes.len() / 4;
    let mut group = 0;
    while group * LANES < words {
        let left = words - group * LANES;
        let mask = if left >= LANES { u16::MAX } else { (1 << left) - 1 };
        let (mut codes, mut scale) = ([_mm512_setzero_si512(); ROWS], [_mm512_setzero_ps(); ROWS]);
        for r in 0..ROWS {
            let at = rows[r].phase + group * STEP;
            if !whole_blocks {
                let within = _mm512_set1_epi32((at & ((1 << shift) - 1)) as i32);
                places[r] = _mm512_srlv_epi32(_mm512_add_epi32(lane, within), shifts);
            }
            // SAFETY: masked lanes are not read, the others are words of the row; a vector of scales can be read from each block of
            // the segment on, and the last one begins before `SEGMENT / 32 + 1`.
            unsafe {
                let from = rows[r].bytes.as_ptr().add(group * LANES * 4);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD).cast());
                codes[r] = _mm512_maskz_loadu_epi32(mask, from.cast());
                let scales = _mm512_loadu_ps(rows[r].scales.as_ptr().add(at >> shift));
                scale[r] = _mm512_permutexvar_ps(places[r], scales);
            }
        }
        // SAFETY: `x` holds `M * STEP` numbers for each step.
        let x = unsafe { x.as_ptr().add(group * STEP * M) };
        if M == 1 {
            // One row of activations: scale the eight products' sum instead of the eight weights.
            let mut part = [_mm512_setzero_ps(); ROWS];
            for plane in 0..PER_LANE {
                // SAFETY: a plane of the step.
                let x = unsafe { _mm512_loadu_ps(x.add(plane * LANES)) };
                for r in 0..ROWS {
                    part[r] = _mm512_fmadd_ps(_mm512_permutexvar_ps(codes[r], values), x, part[r]);
                    codes[r] = _mm512_srli_epi32::<4>(codes[r]);
                }
            }
            for r in 0..ROWS {
                acc[r][0] = _mm512_fmadd_ps(part[r], scale[r], acc[r][0]);
            }
        } else {
            for plane in 0..PER_LANE {
                let mut weights = [_mm512_setzero_ps(); ROWS];
                for r in 0..ROWS {
                    weights[r] = _mm512_mul_ps(_mm512_permutexvar_ps(codes[r], values), scale[r]);
                    codes[r] = _mm512_srli_epi32::<4>(codes[r]);
                }
                for m in 0..M {
                    // SAFETY: a plane of row `m` of the step.
                    let x = unsafe { _mm512_loadu_ps(x.add(m * STEP + plane * LANES)) };
                    for r in 0..ROWS {
                        acc[r][m] = _mm512_fmadd_ps(weights[r], x, acc[r][m]);
                    }
                }
            }
        }
        group += 1;
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        for (sum, acc) in sums.iter_mut().zip(acc) {
            *sum += _mm512_reduce_add_ps(acc);
        }
    }
}

/// Like [`decode_scales`](crate::scales::decode_scales).
pub(crate) fn decode_scales(isa: Isa, codes: &[u8], scale: f32, offset: f32, out: &mut [f32]) {
    assert_eq!(isa.level(), Level::Avx512);
    // SAFETY: an `Isa` of this level exists only where AVX-512 F does.
    unsafe { gather_scales(codes, scale, offset, out) }
}

#[target_feature(enable = "avx512f")]
fn gather_scales(codes: &[u8], scale: f32, offset: f32, out: &mut [f32]) {
    let (factor, sum) = (_mm512_set1_ps(scale), _mm512_set1_ps(offset));
    let ((codes, last_codes), (out, last)) = (codes.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    for (codes, out) in codes.iter().zip(out) {
        // SAFETY: sixteen bytes; the map has an entry for each value of a byte; sixteen numbers.
        unsafe {
            let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
            let values = _mm512_i32gather_ps::<4>(codes, DYNAMIC_MAP.as_ptr());
            _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(_mm512_mul_ps(values, factor), sum));
        }
    }
    decode_rest(last_codes, scale, offset, last);
}

//! NEON kernels. A code is looked up byte by byte: four permutations of sixteen give the bytes of sixteen numbers.

use std::arch::aarch64::*;

use crate::{Codebook, Element, Isa, codebook::Bounds, isa::Level, scalar};

/// Codes to a step: the bytes of a register.
const STEP: usize = 16;

/// Numbers to a register.
const LANES: usize = 4;

/// Like [`scalar::quantize`].
pub(crate) fn quantize<T: Element>(
    isa: Isa,
    codebook: Codebook,
    block_size: usize,
    weights: &[T],
    packed: &mut [u8],
    absmax: &mut [f32],
) -> bool {
    assert_eq!(isa.level(), Level::Neon);
    assert!(packed.len() >= weights.len().div_ceil(2) && block_size.is_multiple_of(STEP));
    // SAFETY: an `Isa` of this level exists only where NEON does.
    unsafe { quantize_blocks(codebook.bounds(), block_size, weights, packed, absmax) }
}

/// # Safety
///
/// NEON; `packed` holds half as many bytes as there are weights, `block_size` is a multiple of 16.
#[target_feature(enable = "neon")]
unsafe fn quantize_blocks<T: Element>(
    bounds: &Bounds,
    block_size: usize,
    weights: &[T],
    packed: &mut [u8],
    absmax: &mut [f32],
) -> bool {
    // SAFETY: sixteen bytes.
    let ranked = unsafe { vld1q_u8(bounds.codes.as_ptr()) };
    let blocks = weights.chunks(block_size).zip(packed.chunks_mut(block_size / 2)).zip(absmax);
    for ((block, packed), absmax) in blocks {
        if block.len() < block_size {
            return scalar::quantize_block(bounds, block, packed, absmax);
        }
        let magnitude = vdupq_n_u32(0x7fff_ffff);
        let mut most = vdupq_n_u32(0);
        for at in (0..block_size).step_by(LANES) {
            // SAFETY: `at + 4 <= block_size`, the length of the block.
            let bits = vreinterpretq_u32_f32(unsafe { T::load_128(block.as_ptr().add(at)) });
            most = vmaxq_u32(most, vandq_u32(bits, magnitude));
        }
        let bits = vmaxvq_u32(most);
        if bits >= scalar::INFINITE {
            return false;
        }
        *absmax = f32::from_bits(bits);
        let factor = vdupq_n_f32(scalar::reciprocal(*absmax));
        for at in (0..block_size).step_by(STEP) {
            let mut ranks = [vdupq_n_u32(0); STEP / LANES];
            for (part, rank) in ranks.iter_mut().enumerate() {
                // SAFETY: `at + 16 <= block_size`, the length of the block.
                let weights = unsafe { T::load_128(block.as_ptr().add(at + part * LANES)) };
                let scaled = vmulq_f32(weights, factor);
                for &bound in &bounds.bounds {
                    *rank = vsubq_u32(*rank, vcgtq_f32(scaled, vdupq_n_f32(bound)));
                }
            }
            let low = vcombine_u16(vmovn_u32(ranks[0]), vmovn_u32(ranks[1]));
            let high = vcombine_u16(vmovn_u32(ranks[2]), vmovn_u32(ranks[3]));
            let codes = vqtbl1q_u8(ranked, vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
            // Even codes in the high nibbles, odd codes in the low ones.
            let (even, odd) = (vuzp1q_u8(codes, codes), vuzp2q_u8(codes, codes));
            let bytes = vget_low_u8(vorrq_u8(vshlq_n_u8::<4>(even), odd));
            // SAFETY: a whole block has `block_size / 2` bytes, and 8 bytes from `at / 2` on lie within them.
            unsafe { vst1_u8(packed.as_mut_ptr().add(at / 2), bytes) };
        }
    }
    true
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
    assert_eq!(isa.level(), Level::Neon);
    // SAFETY: an `Isa` of this level exists only where NEON does.
    unsafe { dequantize_blocks(table, block_size, packed, scales, out) }
}

/// # Safety
///
/// NEON.
#[target_feature(enable = "neon")]
unsafe fn dequantize_blocks<T: Element>(
    table: &[f32; 16],
    block_size: usize,
    packed: &[u8],
    scales: &[f32],
    out: &mut [T],
) {
    // The table's numbers, first bytes first.
    let planes: [uint8x16_t; 4] = std::array::from_fn(|byte| {
        let plane = table.map(|number| number.to_le_bytes()[byte]);
        // SAFETY: sixteen bytes.
        unsafe { vld1q_u8(plane.as_ptr()) }
    });
    let blocks = packed.chunks(block_size / 2).zip(scales).zip(out.chunks_mut(block_size));
    for ((packed, &scale), out) in blocks {
        let whole = out.len().min(packed.len() * 2) / STEP * STEP;
        for at in (0..whole).step_by(STEP) {
            // SAFETY: `at + 16 <= whole`, so that 8 bytes are there.
            let bytes = unsafe { vld1_u8(packed.as_ptr().add(at / 2)) };
            let (high, low) = (vshr_n_u8::<4>(bytes), vand_u8(bytes, vdup_n_u8(15)));
            let codes = vcombine_u8(vzip1_u8(high, low), vzip2_u8(high, low));
            let [b0, b1, b2, b3] = planes.map(|plane| vqtbl1q_u8(plane, codes));
            // Bytes to halves to numbers; a little-endian number has its first byte lowest.
            let lower = [vzip1q_u8(b0, b1), vzip2q_u8(b0, b1)].map(|bytes| vreinterpretq_u16_u8(bytes));
            let upper = [vzip1q_u8(b2, b3), vzip2q_u8(b2, b3)].map(|bytes| vreinterpretq_u16_u8(bytes));
            let numbers = [
                vzip1q_u16(lower[0], upper[0]),
                vzip2q_u16(lower[0], upper[0]),
                vzip1q_u16(lower[1], upper[1]),
                vzip2q_u16(lower[1], upper[1]),
            ];
            for (part, numbers) in numbers.into_iter().enumerate() {
                let weights = vmulq_n_f32(vreinterpretq_f32_u16(numbers), scale);
                // SAFETY: `at + 16 <= whole`, and `whole <= out.len()`.
                unsafe { T::store_128(out.as_mut_ptr().add(at + part * LANES), weights) };
            }
        }
        scalar::dequantize_block(table, packed, whole, scale, &mut out[whole..]);
    }
}

//! The reference: the format's arithmetic, one weight at a time. The kernels in `simd` equal it bit for bit.

use crate::{
    Element,
    codebook::{Bounds, SMALLEST_SCALE},
};

/// The code of a scaled weight: as many bounds as it strictly exceeds, so that a tie takes the lower value.
pub(crate) fn code(bounds: &Bounds, scaled: f32) -> u8 {
    let rank = bounds.bounds.iter().filter(|&&bound| scaled > bound).count();
    bounds.codes[rank]
}

/// The largest magnitude as bits; at least those of infinity if any weight is not finite.
///
/// Magnitudes order as their bits do, and NaN comes after infinity, so one integer maximum finds both.
pub(crate) fn absmax_bits<T: Element>(block: &[T]) -> u32 {
    block.iter().map(|weight| weight.to_f32().to_bits() & 0x7fff_ffff).max().unwrap_or(0)
}

/// Bits of the smallest magnitude that is not finite.
pub(crate) const INFINITE: u32 = 0x7f80_0000;

/// The factor that scales a block to `[-1, 1]`.
pub(crate) fn reciprocal(absmax: f32) -> f32 {
    1.0 / absmax.max(SMALLEST_SCALE)
}

/// Packs one block; `false` if a weight is not finite.
pub(crate) fn quantize_block<T: Element>(
    bounds: &Bounds,
    block: &[T],
    packed: &mut [u8],
    absmax: &mut f32,
) -> bool {
    let bits = absmax_bits(block);
    if bits >= INFINITE {
        return false;
    }
    *absmax = f32::from_bits(bits);
    let factor = reciprocal(*absmax);
    for (byte, pair) in packed.iter_mut().zip(block.chunks(2)) {
        let high = code(bounds, pair[0].to_f32() * factor);
        let low = code(bounds, pair.get(1).map_or(0.0, |weight| weight.to_f32() * factor));
        *byte = high << 4 | low;
    }
    true
}

/// Packs a run of blocks, the last of which may be short; `false` if a weight is not finite.
pub(crate) fn quantize<T: Element>(
    bounds: &Bounds,
    block_size: usize,
    weights: &[T],
    packed: &mut [u8],
    absmax: &mut [f32],
) -> bool {
    weights
        .chunks(block_size)
        .zip(packed.chunks_mut(block_size / 2))
        .zip(absmax)
        .all(|((block, packed), absmax)| quantize_block(bounds, block, packed, absmax))
}

/// The code at an index counted from the first byte's high nibble.
pub(crate) fn nibble(packed: &[u8], index: usize) -> usize {
    let byte = packed[index / 2];
    usize::from(if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 })
}

/// Unpacks `out.len()` weights of one block from nibble `start` on.
pub(crate) fn dequantize_block<T: Element>(
    table: &[f32; 16],
    packed: &[u8],
    start: usize,
    scale: f32,
    out: &mut [T],
) {
    for (index, weight) in out.iter_mut().enumerate() {
        *weight = T::from_f32(table[nibble(packed, start + index)] * scale);
    }
}

/// Unpacks a run of blocks that begins with a block and a byte; the last block may be short.
pub(crate) fn dequantize<T: Element>(
    table: &[f32; 16],
    block_size: usize,
    packed: &[u8],
    scales: &[f32],
    out: &mut [T],
) {
    for ((packed, &scale), out) in packed.chunks(block_size / 2).zip(scales).zip(out.chunks_mut(block_size)) {
        dequantize_block(table, packed, 0, scale, out);
    }
}

//! The formats against bitsandbytes, the kernels against the reference, bad input against its errors.
//!
//! Where the processor lacks AVX2 or AVX-512 the tests cover what it has.

#![allow(clippy::unwrap_used, reason = "tests")]

mod arithmetic;
mod emulation;
mod errors;
mod ffi;
mod golden;
mod kernels;
mod products;
mod properties;
mod rules;
mod threads;

use ferrotune_nf4::{BlockSize, Codebook, Element, Isa, packed_len, quantize};

const CODEBOOKS: [Codebook; 2] = [Codebook::Nf4, Codebook::Fp4];

/// Codes and scales of weights, in fresh buffers.
fn quantized<T: Element>(
    isa: Isa,
    codebook: Codebook,
    size: BlockSize,
    weights: &[T],
) -> (Vec<u8>, Vec<f32>) {
    let mut packed = vec![0xaa; packed_len(weights.len())];
    let mut absmax = vec![-1.0; size.blocks(weights.len())];
    quantize(isa, codebook, size, weights, &mut packed, &mut absmax).unwrap();
    (packed, absmax)
}

/// The code of a weight.
fn code(packed: &[u8], index: usize) -> u8 {
    if index.is_multiple_of(2) { packed[index / 2] >> 4 } else { packed[index / 2] & 15 }
}

/// A seeded sequence of numbers that look random, uniform in `[-1, 1)`.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        // Knuth's MMIX generator; the upper 24 bits are a number that f32 holds exactly.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

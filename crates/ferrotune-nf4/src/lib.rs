//! The 4-bit formats of bitsandbytes, NF4 and FP4, on the CPU and on NVIDIA GPUs.
//!
//! A weight is a code of four bits, an index into a table of sixteen numbers, times the scale of its block: the largest
//! magnitude of 32 to 4096 neighbours. Double quantization stores the scales themselves in eight bits. The bytes are those
//! of bitsandbytes' checkpoints; `docs/nf4.md` specifies them, rule by rule.
//!
//! - [`quantize`] turns weights into codes and scales, [`quantize_scales`] quantizes the scales once more.
//! - [`Packed`] is a checked view of the stored bytes; it gives the weights back in any [`Element`] type.
//! - [`PackedMatrix::product`] multiplies up to [`MOST_ROWS`] rows of activations without unpacking the matrix.
//! - [`cuda`] does the same in device memory, where there is a GPU.
//!
//! Kernels for AVX2, AVX-512 and NEON are chosen at run time by [`Isa::best`]; the reference in plain Rust stands beside them and
//! gives the same codes, scales and weights bit for bit. Work is spread over the current rayon pool, or over the [`Threads`] that a
//! caller lends. Results go into the caller's buffers, and the hot paths allocate nothing but [`Scratch`], once. Indices are `usize`: tensors with more than
//! 2³¹ weights need nothing special on a 64-bit machine.

mod codebook;
pub mod cuda;
mod dynamic;
mod element;
mod error;
mod isa;
mod packed;
mod product;
mod quantize;
mod scalar;
mod scales;
mod simd;
mod threads;

pub use self::{
    codebook::{BlockSize, Codebook, packed_len},
    dynamic::{DYNAMIC_MAP, NESTED_BLOCK_SIZE, check_nested_map, quantize_dynamic},
    element::Element,
    error::Error,
    isa::Isa,
    packed::Packed,
    product::{MOST_ROWS, PackedMatrix, Scratch},
    quantize::quantize,
    scales::{Scales, quantize_scales},
    threads::{Cpu, Threads},
};

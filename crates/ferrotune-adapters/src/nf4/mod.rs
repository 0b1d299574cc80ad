//! QLoRA's base: frozen matrices in four bits.
//!
//! [`Nf4`] is a [`Storage`](ferrotune_nn::Storage): `Frozen::new(Nf4::default())` is a quantized model,
//! `Lora::new(config, Nf4::default())` is QLoRA (arXiv:2305.14314). A matrix is held as the bytes of bitsandbytes' files, a
//! [`QuantizedTensor`]. It is applied by decoding it into one buffer that all matrices of the storage share, or, for
//! a few rows on the CPU, straight from its bytes. The backward pass decodes it again, so that a graph holds handles on
//! packed bytes only.

mod census;
mod cpu;
mod device;
mod encoded;
mod ffi;
mod group;
mod kernels;
mod matrix;
mod storage;
mod tensor;
mod workspace;

pub use self::{
    census::{Census, Tally},
    encoded::QuantState,
    storage::Nf4,
    tensor::{BlockScales, Quantization, QuantizedTensor},
};
pub use ferrotune_nf4::{BlockSize, Codebook};

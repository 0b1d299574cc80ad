//! The formats on NVIDIA GPUs: kernels in CUDA C++, compiled by NVRTC when a device is first used.
//!
//! Nothing of CUDA is needed to build or to start a program: the driver and NVRTC are looked for when [`Kernels`] are asked
//! for, and their absence is an [`Error`](crate::Error) to fall back from. Kernels are compiled for the device's own
//! architecture and kept in a [`Cache`] on disk. They run on the caller's stream and in the device's primary context, which
//! is the one that libtorch uses, and never wait for the device.
//!
//! - `nf4.cuh` holds the arithmetic, in functions that a host compiler takes too; tests compare them with the reference on
//!   machines without a GPU. The tables come from this crate's, through a header that [`Nvrtc`] hands the compiler.
//! - `device.cuh`, `quantize.cu`, `dequantize.cu` and `product.cu` move data.
//! - [`ENTRIES`] lists every kernel; tests compile them all for `compute_80` and `compute_90`.
//!
//! Codes, scales and weights have the reference's bits. Products stay within the bound that
//! [`PackedMatrix::product`](crate::PackedMatrix::product) states.
//!
//! Second-level scales are made on the host: there is one scale for 32 weights or more, and the mean that is taken of them has an
//! order of summation that is part of the format.

mod cache;
pub mod ffi;
pub mod launch;
mod nvrtc;
mod source;

pub use self::{
    cache::Cache,
    ffi::{DevicePacked, DeviceScales, ElementKind, ExpertMatrix, Kernels, Stream},
    nvrtc::{Image, NVRTC_VARIABLE, Nvrtc, Target},
    source::{ENTRIES, headers},
};

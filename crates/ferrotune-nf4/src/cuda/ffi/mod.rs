//! The boundary to NVRTC and to the CUDA driver: the only unsafe code of [`cuda`](crate::cuda).
//!
//! What runs on the device is unsafe to call: addresses and a stream come from the caller, and each method states what they
//! must be. Loading, compiling and asking are safe.
#![allow(unsafe_code, reason = "foreign functions; this is one of the two kinds of module that may")]

mod driver;
mod kernels;
pub(super) mod nvrtc;

pub use self::kernels::{DevicePacked, DeviceScales, ElementKind, ExpertMatrix, Kernels, Stream};

//! The boundary to the C++ shim: the only module with unsafe code.
//!
//! Everything it exports to the crate is safe. Tensors cross as owned pointers (`at::Tensor*` from `new`, which is what
//! [`tch::Tensor`] holds) or as borrowed ones that the shim copies a handle from before it returns. Failures cross as
//! [`Failure`], see `csrc/boundary.h`.
#![allow(unsafe_code)]

mod allocator;
mod loader;
mod node;
mod shared;
mod shim;
mod threads;

pub(crate) use allocator::set_mapped_block_bytes;
pub(crate) use loader::load_global;
pub(crate) use node::{Call, InputMeta, attach};
pub use shared::SharedTensor;
pub(crate) use shim::{
    FlopCounter, backward, compiled_version, cuda_device_count, cuda_is_linked, current_stream,
    device_memory, fused_adamw, generator_seed, generator_set_state, generator_state, grad, grad_enabled,
    has_cuda, reset_peak_device_memory, runtime_version, set_grad_enabled, synchronize, trim_heap,
};
pub(crate) use threads::on_each_thread;

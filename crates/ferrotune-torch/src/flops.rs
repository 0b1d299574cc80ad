//! Floating-point operations that libtorch really executed, counted while it executes them.
//!
//! A model's cost written down as a formula says what was meant; this says what ran. It shows, for one, that experts cost
//! what the tokens routed to them cost.
//!
//! # What is counted
//!
//! A multiplication and an addition are two operations.
//!
//! * Matrix products: `mm`, `bmm`, `mv`, `dot`, `addmm`, `addbmm`, `baddbmm`, `addmv`, `_scaled_mm`, `_int_mm`, and
//!   everything composed of them (`linear`, `matmul`, `einsum`), by the shapes they are called with.
//! * `_grouped_mm`: by the rows (columns, inner elements) that belong to a group. Where the offsets lie on a device, rows
//!   behind the last group count too, because reading the offsets would wait for the device.
//! * Scaled dot product attention, forward and backward, in libtorch's fused kernels for the CPU and CUDA: all pairs of
//!   positions, also those that a causal kernel skips; the backward pass with its recomputed scores.
//!
//! Each once: an operator that calls another counted one hides it. Not counted: element-wise work, reductions, norms,
//! softmax, convolutions, and kernels that libtorch does not know of.

use crate::error::Result;
use crate::ffi::FlopCounter;

/// Runs `body` and returns its result with the number of operations executed in it, forward and backward.
///
/// Counted are this thread's operators, and those of the backward passes it starts, on whichever thread libtorch runs
/// them. Counts nest: an inner one also goes into the outer one.
///
/// # Errors
///
/// libtorch's own, if it refuses the observer.
///
/// # Example
///
/// ```
/// use ferrotune_torch::flops;
/// use tch::{Device, Kind, Tensor};
///
/// let a = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
/// let b = Tensor::zeros([3, 5], (Kind::Float, Device::Cpu));
/// let (_, operations) = flops::count(|| a.matmul(&b))?;
/// assert_eq!(operations, 2 * 2 * 3 * 5);
/// # Ok::<(), ferrotune_torch::Error>(())
/// ```
pub fn count<T>(body: impl FnOnce() -> T) -> Result<(T, u64)> {
    let counter = FlopCounter::start()?;
    let result = body();
    Ok((result, counter.total()))
}

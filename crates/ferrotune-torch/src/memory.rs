//! Memory figures: what the process holds on the host, and what libtorch's allocator holds on a device.

use std::fs;

use tch::Device;

use crate::error::Result;
use crate::ffi;

/// What libtorch's caching allocator says of one device, in bytes.
///
/// *Allocated* is what tensors occupy, *reserved* is what the allocator has taken from the driver, which is more. Memory
/// that is taken past the allocator (the CUDA context, workspaces of libraries) is in neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceMemory {
    /// In tensors now.
    pub allocated: u64,
    /// The most that was ever in tensors since the start or [`reset_peak`].
    pub peak_allocated: u64,
    /// Taken from the driver now.
    pub reserved: u64,
    /// The most that was ever taken from the driver since the start or [`reset_peak`].
    pub peak_reserved: u64,
}

/// Blocks of at least this size go back to the system when they are freed, after [`return_freed_blocks`].
const RETURNED_BYTES: i32 = 1 << 20;

/// Makes the C library give freed blocks of a mebibyte or more back to the system at once, for the rest of the process.
///
/// Without it glibc raises that limit to 32 MiB as a program runs and keeps what is smaller for later, in pieces: the
/// peak of a training step was a quarter higher than what its tensors need (58 million weights, 1,024 tokens, CPU). With it
/// the same step took about a fifth more processor time, spent on fresh pages; the larger a model's matrices, the less.
///
/// Returns whether the C library took the setting; only glibc has it.
pub fn return_freed_blocks() -> bool {
    ffi::set_mapped_block_bytes(RETURNED_BYTES)
}

/// The figures of a device; `None` for the CPU, whose memory libtorch does not account for.
///
/// # Errors
///
/// [`Error::UnsupportedDevice`](crate::Error::UnsupportedDevice), or libtorch's own for a device that is not there.
pub fn device(device: Device) -> Result<Option<DeviceMemory>> {
    if device == Device::Cpu {
        return Ok(None);
    }
    let [allocated, peak_allocated, reserved, peak_reserved] =
        ffi::device_memory(device)?.map(|bytes| u64::try_from(bytes).unwrap_or(0));
    Ok(Some(DeviceMemory { allocated, peak_allocated, reserved, peak_reserved }))
}

/// Starts the peaks of a device over at what is held now; does nothing for the CPU.
///
/// # Errors
///
/// As [`device`].
pub fn reset_peak(device: Device) -> Result<()> {
    if device == Device::Cpu { Ok(()) } else { ffi::reset_peak_device_memory(device) }
}

/// Waits until everything that was sent to the device has been done; does nothing for the CPU.
///
/// A clock read around work on a CUDA device measures nothing without it.
///
/// # Errors
///
/// libtorch's own, among them those of earlier work on the device, which surface here.
pub fn synchronize(device: Device) -> Result<()> {
    if device == Device::Cpu { Ok(()) } else { ffi::synchronize(device) }
}

/// The most memory this process ever had in RAM, in bytes (`VmHWM`); `None` where the system does not say.
pub fn host_peak_bytes() -> Option<u64> {
    status_field("VmHWM:")
}

/// The memory this process has in RAM now, in bytes (`VmRSS`); `None` where the system does not say.
pub fn host_resident_bytes() -> Option<u64> {
    status_field("VmRSS:")
}

/// Gives free memory of the process back to the system, where the C library can (glibc's `malloc_trim`).
///
/// Tensors that come and go while others stay leave holes in the heap, and the next tensor may not fit into the last one's
/// hole: over the loading of a model they add up to more than a matrix. Worth calling after large tensors of many sizes
/// were dropped; costs a walk over the heap, and page faults where the memory is used again.
pub fn trim_host() {
    ffi::trim_heap();
}

/// A field of `/proc/self/status`, which counts in units of 1024 bytes and calls them kB (proc(5)).
fn status_field(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

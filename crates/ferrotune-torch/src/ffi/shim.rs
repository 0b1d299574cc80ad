use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use tch::{Device, TchError, Tensor};

use super::node::Raised;
use crate::{Error, Result};

/// `at::Tensor` as the shim sees it.
#[repr(C)]
pub(super) struct RawTensor {
    _private: [u8; 0],
}

/// How the shim reports a failure; laid out as `ferrotune::Failure` in `csrc/boundary.h`.
#[repr(C)]
pub(super) struct Failure {
    message: *mut c_char,
    raised: *mut c_void,
}

unsafe extern "C" {
    fn free(pointer: *mut c_void);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn malloc_trim(pad: usize) -> std::ffi::c_int;

    fn ferrotune_torch_compiled_version() -> u64;
    fn ferrotune_torch_runtime_version() -> u64;
    fn ferrotune_torch_cuda_is_linked(result: *mut bool, failure: *mut Failure) -> bool;
    fn ferrotune_torch_has_cuda(result: *mut bool, failure: *mut Failure) -> bool;
    fn ferrotune_torch_current_stream(device: i32, handle: *mut u64, failure: *mut Failure) -> bool;
    fn ferrotune_torch_cuda_device_count(result: *mut i64, failure: *mut Failure) -> bool;
    fn ferrotune_torch_synchronize(device: i32, failure: *mut Failure) -> bool;
    fn ferrotune_torch_grad_enabled() -> bool;
    fn ferrotune_torch_set_grad_enabled(enabled: bool);
    fn ferrotune_torch_backward(
        roots: *const *mut RawTensor,
        root_grads: *const *mut RawTensor,
        roots_count: usize,
        failure: *mut Failure,
    ) -> bool;
    fn ferrotune_torch_grad(
        roots: *const *mut RawTensor,
        root_grads: *const *mut RawTensor,
        roots_count: usize,
        inputs: *const *mut RawTensor,
        inputs_count: usize,
        allow_unused: bool,
        results: *mut *mut RawTensor,
        failure: *mut Failure,
    ) -> bool;
    fn ferrotune_torch_generator_seed(device: i32, seed: u64, failure: *mut Failure) -> bool;
    fn ferrotune_torch_generator_state(device: i32, failure: *mut Failure) -> *mut RawTensor;
    fn ferrotune_torch_generator_set_state(
        device: i32,
        state: *const RawTensor,
        failure: *mut Failure,
    ) -> bool;
    fn ferrotune_torch_memory(device: i32, figures: *mut i64, failure: *mut Failure) -> bool;
    fn ferrotune_torch_memory_reset_peak(device: i32, failure: *mut Failure) -> bool;
    fn ferrotune_torch_fused_adamw(
        parameters: *const *mut RawTensor,
        gradients: *const *mut RawTensor,
        exp_avgs: *const *mut RawTensor,
        exp_avg_sqs: *const *mut RawTensor,
        steps: *const *mut RawTensor,
        count: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        failure: *mut Failure,
    ) -> bool;
    fn ferrotune_torch_flops_start(failure: *mut Failure) -> *mut RawFlops;
    fn ferrotune_torch_flops_total(counter: *const RawFlops) -> u64;
    fn ferrotune_torch_flops_stop(counter: *mut RawFlops);
}

/// The shim's counter, opaque.
#[repr(C)]
struct RawFlops {
    _private: [u8; 0],
}

impl Failure {
    pub(super) fn none() -> Self {
        Self { message: ptr::null_mut(), raised: ptr::null_mut() }
    }

    /// The error in a failure that the shim has filled in.
    pub(super) fn into_error(self) -> Error {
        let text = if self.message.is_null() {
            "out of memory while an error was reported".to_owned()
        } else {
            // SAFETY: a message that is not null is a C string from `strdup`, owned by this value.
            unsafe {
                let text = CStr::from_ptr(self.message).to_string_lossy().into_owned();
                free(self.message.cast());
                text
            }
        };
        if self.raised.is_null() {
            return TchError::Torch(text).into();
        }
        // SAFETY: a `Raised` comes back to Rust exactly once (`RustError::take`), and it was boxed by this crate.
        unsafe { Box::from_raw(self.raised.cast::<Raised>()) }.into_error()
    }
}

/// Runs a shim function that reports through `Failure`.
pub(super) fn checked(call: impl FnOnce(*mut Failure) -> bool) -> Result<()> {
    let mut failure = Failure::none();
    if call(&mut failure) { Ok(()) } else { Err(failure.into_error()) }
}

/// The address of the C++ tensor, for a call that only copies a handle from it.
pub(super) fn raw(tensor: &Tensor) -> *mut RawTensor {
    tensor.as_ptr().cast_mut().cast()
}

pub(super) fn raws<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*mut RawTensor> {
    tensors.into_iter().map(raw).collect()
}

fn raw_roots(roots: &[(&Tensor, Option<&Tensor>)]) -> (Vec<*mut RawTensor>, Vec<*mut RawTensor>) {
    roots.iter().map(|(root, grad)| (raw(root), grad.map_or(ptr::null_mut(), raw))).unzip()
}

/// Takes over a tensor from the shim; null is an undefined one.
///
/// # Safety
///
/// `tensor` is null or an owned `at::Tensor*` that nobody else frees.
pub(super) unsafe fn take(tensor: *mut RawTensor) -> Option<Tensor> {
    // SAFETY: the caller's contract is that of `Tensor::from_ptr`.
    (!tensor.is_null()).then(|| unsafe { Tensor::from_ptr(tensor.cast()) })
}

/// tch's numbering of devices, which the shim shares.
fn index(device: Device) -> Result<i32> {
    match device {
        Device::Cpu => Ok(-1),
        Device::Cuda(index) => i32::try_from(index).map_err(|_| Error::UnsupportedDevice { device }),
        Device::Mps | Device::Vulkan => Err(Error::UnsupportedDevice { device }),
    }
}

pub(crate) fn compiled_version() -> u64 {
    // SAFETY: returns a constant.
    unsafe { ferrotune_torch_compiled_version() }
}

pub(crate) fn runtime_version() -> u64 {
    // SAFETY: returns a constant of the loaded library.
    unsafe { ferrotune_torch_runtime_version() }
}

/// Whether libtorch calls its CUDA half, with or without a device.
pub(crate) fn cuda_is_linked() -> Result<bool> {
    let mut result = false;
    // SAFETY: both pointers are valid for the call.
    checked(|failure| unsafe { ferrotune_torch_cuda_is_linked(&mut result, failure) })?;
    Ok(result)
}

/// Whether there is a CUDA device.
pub(crate) fn has_cuda() -> Result<bool> {
    let mut result = false;
    // SAFETY: both pointers are valid for the call.
    checked(|failure| unsafe { ferrotune_torch_has_cuda(&mut result, failure) })?;
    Ok(result)
}

pub(crate) fn cuda_device_count() -> Result<usize> {
    let mut result = 0;
    // SAFETY: both pointers are valid for the call.
    checked(|failure| unsafe { ferrotune_torch_cuda_device_count(&mut result, failure) })?;
    Ok(usize::try_from(result).unwrap_or(0))
}

pub(crate) fn current_stream(device: Device) -> Result<u64> {
    let (device, mut handle) = (index(device)?, 0);
    // SAFETY: both pointers are valid for the call.
    checked(|failure| unsafe { ferrotune_torch_current_stream(device, &mut handle, failure) })?;
    Ok(handle)
}

pub(crate) fn synchronize(device: Device) -> Result<()> {
    let device = index(device)?;
    // SAFETY: the pointer is valid for the call.
    checked(|failure| unsafe { ferrotune_torch_synchronize(device, failure) })
}

pub(crate) fn grad_enabled() -> bool {
    // SAFETY: reads a thread-local flag.
    unsafe { ferrotune_torch_grad_enabled() }
}

pub(crate) fn set_grad_enabled(enabled: bool) {
    // SAFETY: writes a thread-local flag.
    unsafe { ferrotune_torch_set_grad_enabled(enabled) }
}

pub(crate) fn backward(roots: &[(&Tensor, Option<&Tensor>)]) -> Result<()> {
    let (tensors, grads) = raw_roots(roots);
    // SAFETY: the lists have `roots.len()` entries and their tensors outlive the call.
    checked(|failure| unsafe {
        ferrotune_torch_backward(tensors.as_ptr(), grads.as_ptr(), tensors.len(), failure)
    })
}

pub(crate) fn grad(
    roots: &[(&Tensor, Option<&Tensor>)],
    inputs: &[&Tensor],
    allow_unused: bool,
) -> Result<Vec<Option<Tensor>>> {
    let (tensors, grads) = raw_roots(roots);
    let inputs = raws(inputs.iter().copied());
    let mut results = vec![ptr::null_mut(); inputs.len()];
    // SAFETY: the lists have the lengths given with them and their tensors outlive the call.
    checked(|failure| unsafe {
        ferrotune_torch_grad(
            tensors.as_ptr(),
            grads.as_ptr(),
            tensors.len(),
            inputs.as_ptr(),
            inputs.len(),
            allow_unused,
            results.as_mut_ptr(),
            failure,
        )
    })?;
    // SAFETY: after success each entry is null or owned by this function.
    Ok(results.into_iter().map(|tensor| unsafe { take(tensor) }).collect())
}

pub(crate) fn generator_seed(device: Device, seed: u64) -> Result<()> {
    let device = index(device)?;
    // SAFETY: the pointer is valid for the call.
    checked(|failure| unsafe { ferrotune_torch_generator_seed(device, seed, failure) })
}

pub(crate) fn generator_state(device: Device) -> Result<Tensor> {
    let device = index(device)?;
    let mut failure = Failure::none();
    // SAFETY: the pointer is valid for the call; the result is null or owned by this function.
    let state = unsafe { take(ferrotune_torch_generator_state(device, &mut failure)) };
    state.ok_or_else(|| failure.into_error())
}

pub(crate) fn generator_set_state(device: Device, state: &Tensor) -> Result<()> {
    let device = index(device)?;
    // SAFETY: the tensor outlives the call.
    checked(|failure| unsafe { ferrotune_torch_generator_set_state(device, raw(state), failure) })
}

/// Gives whole free pages of the C library's heap back to the system.
pub(crate) fn trim_heap() {
    // SAFETY: it may be called at any time from any thread, and changes no block that is in use.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        malloc_trim(0);
    }
}

/// Current and peak allocated, then current and peak reserved bytes.
pub(crate) fn device_memory(device: Device) -> Result<[i64; 4]> {
    let device = index(device)?;
    let mut figures = [0; 4];
    // SAFETY: the shim writes four numbers.
    checked(|failure| unsafe { ferrotune_torch_memory(device, figures.as_mut_ptr(), failure) })?;
    Ok(figures)
}

pub(crate) fn reset_peak_device_memory(device: Device) -> Result<()> {
    let device = index(device)?;
    // SAFETY: the pointer is valid for the call.
    checked(|failure| unsafe { ferrotune_torch_memory_reset_peak(device, failure) })
}

/// The caller has checked that the lists are equally long and that shapes and types fit.
pub(crate) fn fused_adamw(
    parameters: &[Tensor],
    gradients: &[Tensor],
    exp_avgs: &[Tensor],
    exp_avg_sqs: &[Tensor],
    steps: &[Tensor],
    options: &crate::AdamW,
) -> Result<()> {
    let lists = [parameters, gradients, exp_avgs, exp_avg_sqs, steps].map(raws);
    // SAFETY: the lists have `parameters.len()` entries and their tensors outlive the call.
    checked(|failure| unsafe {
        ferrotune_torch_fused_adamw(
            lists[0].as_ptr(),
            lists[1].as_ptr(),
            lists[2].as_ptr(),
            lists[3].as_ptr(),
            lists[4].as_ptr(),
            parameters.len(),
            options.lr,
            options.beta1,
            options.beta2,
            options.weight_decay,
            options.eps,
            failure,
        )
    })
}

/// Counts the operations of the thread that made it, and of the backward passes that thread starts, until dropped.
#[derive(Debug)]
pub(crate) struct FlopCounter(ptr::NonNull<RawFlops>);

impl FlopCounter {
    pub(crate) fn start() -> Result<Self> {
        let mut failure = Failure::none();
        // SAFETY: the pointer is valid for the call. The raw pointer makes `FlopCounter` neither `Send` nor `Sync`, so
        // it is stopped on the thread that started it, as the shim demands.
        let counter = unsafe { ferrotune_torch_flops_start(&mut failure) };
        ptr::NonNull::new(counter).map(Self).ok_or_else(|| failure.into_error())
    }

    pub(crate) fn total(&self) -> u64 {
        // SAFETY: the counter lives until `drop`.
        unsafe { ferrotune_torch_flops_total(self.0.as_ptr()) }
    }
}

impl Drop for FlopCounter {
    fn drop(&mut self) {
        // SAFETY: stopped once, on the thread that started it.
        unsafe { ferrotune_torch_flops_stop(self.0.as_ptr()) }
    }
}

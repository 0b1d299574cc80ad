//! Without CUDA everything says so and nothing breaks; with CUDA the device works.
//!
//! A binary of its own: libtorch keeps its first answer about CUDA, and the backward passes of the other tests ask.

use std::io::Write as _;
use std::sync::Arc;
use std::thread::{self, ThreadId};

use ferrotune_torch::cuda::{self, CudaLibrary};
use ferrotune_torch::{BoxError, Error, Forward, Function, apply, backward, flops, generator, memory};
use tch::{Device, Kind, Tensor};

/// The device, or a line that says why the test is left out.
fn cuda_device() -> Option<Device> {
    let device = cuda::is_available().then_some(Device::Cuda(0));
    if device.is_none() {
        let _ = writeln!(std::io::stderr(), "skipped: no CUDA device ({})", cuda::load());
    }
    device
}

#[test]
fn the_outcome_of_loading_agrees_with_what_libtorch_then_says() {
    let library = cuda::load();
    assert_eq!(cuda::load(), library, "the first outcome is kept");
    assert_eq!(cuda::is_available(), tch::Cuda::is_available());
    match (&library, cuda::is_available()) {
        (CudaLibrary::Loaded { path }, true) => assert!(path.is_file()),
        (CudaLibrary::TooLate { .. }, _) | (_, true) => panic!("{library}"),
        (_, false) => assert_eq!(cuda::device_count().unwrap(), 0),
    }
}

#[test]
fn a_missing_cuda_is_an_error_that_says_why() {
    if cuda::is_available() {
        let _ = writeln!(std::io::stderr(), "skipped: this machine has CUDA");
        return;
    }
    let remedy = match cuda::load() {
        CudaLibrary::NotFound { .. } => "xtask setup --cuda",
        CudaLibrary::Loaded { .. } => "nvidia-smi",
        _ => "cannot be used",
    };
    for name in ["cuda", "cuda:0", "cuda:3"] {
        let error = cuda::device(name).unwrap_err();
        assert!(matches!(error, Error::CudaUnavailable { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("`{name}`")) && text.contains(remedy), "{text}");
    }
}

#[test]
fn names_give_devices() {
    assert_eq!(cuda::device("cpu").unwrap(), Device::Cpu);
    let expected = if cuda::is_available() { Device::Cuda(0) } else { Device::Cpu };
    assert_eq!(cuda::device("auto").unwrap(), expected);
    for name in
        ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:+1", "cuda:1x", "cuda 0", "cuda:99999999999999999999"]
    {
        let error = cuda::device(name).unwrap_err();
        assert!(matches!(error, Error::UnknownDevice { .. }), "{name}: {error}");
    }
}

#[test]
fn a_device_accounts_for_its_memory() {
    const BYTES: u64 = 64 << 20;
    let Some(device) = cuda_device() else { return };
    let count = cuda::device_count().unwrap();
    assert!(matches!(cuda::device(&format!("cuda:{count}")), Err(Error::CudaIndex { .. })));
    let tensor = Tensor::ones([BYTES as i64], (Kind::Uint8, device));
    let held = memory::device(device).unwrap().unwrap();
    assert!(held.allocated >= BYTES && held.reserved >= held.allocated);
    drop(tensor);
    let after = memory::device(device).unwrap().unwrap();
    assert!(after.allocated + BYTES <= held.allocated && after.peak_allocated >= held.allocated);
    memory::reset_peak(device).unwrap();
    assert!(memory::device(device).unwrap().unwrap().peak_allocated < held.allocated);
    memory::synchronize(device).unwrap();
}

#[test]
fn the_current_stream_is_the_default_one_and_an_error_without_cuda() {
    if !cuda::is_available() {
        assert!(cuda::current_stream(0).is_err());
    }
    let Some(Device::Cuda(index)) = cuda_device() else { return };
    // libtorch starts on the default stream, whose handle is zero.
    assert_eq!(cuda::current_stream(index).unwrap(), 0);
}

#[test]
fn nvidias_libraries_are_looked_for_beside_libtorch() {
    let folders = cuda::library_folders();
    assert!(folders[0].join("libtorch_cpu.so").is_file(), "{folders:?}");
}

#[test]
fn a_restored_generator_reproduces_dropout() {
    let Some(device) = cuda_device() else { return };
    generator::seed(device, 7).unwrap();
    let state = generator::state(device).unwrap();
    let noise = || Tensor::ones([1000], (Kind::Float, device)).dropout(0.3, true);
    let first = noise();
    assert!(!first.equal(&noise()));
    generator::set_state(device, &state).unwrap();
    assert!(first.equal(&noise()));
}

/// `x w` for a frozen `w`; its backward pass must run on another thread, and fails if it is told to.
struct FrozenProduct {
    caller: ThreadId,
    fails: bool,
}

impl Function for FrozenProduct {
    fn name(&self) -> &str {
        "frozen_product"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError> {
        Ok(Forward { outputs: vec![inputs[0].f_matmul(&inputs[1])?], saved: vec![inputs[1].shallow_clone()] })
    }

    fn backward(
        &self,
        saved: &[Tensor],
        grads: &[Option<Tensor>],
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        if self.fails || thread::current().id() == self.caller {
            return Err("not on this thread".into());
        }
        let Some(grad) = &grads[0] else { return Ok(vec![None, None]) };
        Ok(vec![Some(grad.f_matmul(&saved[0].f_tr()?)?), None])
    }
}

#[test]
fn passes_on_libtorchs_device_thread_compute_count_and_fail_like_any_other() {
    let Some(device) = cuda_device() else { return };
    let caller = thread::current().id();
    let run = |fails| {
        let x = Tensor::ones([3, 5], (Kind::Float, device)).set_requires_grad(true);
        let w = Tensor::ones([5, 4], (Kind::Float, device));
        let function = Arc::new(FrozenProduct { caller, fails });
        let y = apply(function, &[&x, &w]).unwrap().remove(0);
        backward(&[(&y.sum(Kind::Float), None)]).map(|()| x.grad())
    };
    let (gradient, operations) = flops::count(|| run(false).unwrap()).unwrap();
    assert!(gradient.equal(&Tensor::full([3, 5], 4.0, (Kind::Float, device))));
    assert_eq!(operations, 2 * 2 * 3 * 5 * 4);
    let error = run(true).unwrap_err();
    assert_eq!(
        error.to_string(),
        "function `frozen_product` failed in its backward pass: not on this thread"
    );
}

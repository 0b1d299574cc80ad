//! The driver's functions: a device's primary context, a module in it, launches. Source: CUDA driver API, release 13.0.

use std::ffi::{CString, c_int, c_void};

use cudarc::driver::{result, sys};

use crate::{
    Error,
    cuda::launch::{Grid, THREADS},
};

fn failed(call: &'static str) -> impl FnOnce(result::DriverError) -> Error {
    move |error| Error::Driver { call, code: format!("{:?}", error.0) }
}

/// A device's primary context, which the runtime and so libtorch use too; held until the value is dropped.
#[derive(Debug)]
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: handles of the driver, which any thread may use.
unsafe impl Send for Context {}
// SAFETY: as above; nothing here changes them.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, when the value was made. A driver that is shutting down refuses, and needs no release.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

impl Context {
    /// The primary context of the device with this ordinal.
    pub(super) fn retain(ordinal: usize) -> Result<Self, Error> {
        // SAFETY: opens and closes libraries by the driver's names.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::CudaUnavailable {
                reason: "the driver's library, libcuda.so.1, is not there".to_owned(),
            });
        }
        let unavailable =
            |error: result::DriverError| Error::CudaUnavailable { reason: format!("cuInit: {:?}", error.0) };
        result::init().map_err(unavailable)?;
        let count = result::device::get_count().map_err(unavailable)?;
        let index = c_int::try_from(ordinal).ok().filter(|&index| index < count).ok_or_else(|| {
            Error::CudaUnavailable { reason: format!("there is no device {ordinal}; devices found: {count}") }
        })?;
        let device = result::device::get(index).map_err(failed("cuDeviceGet"))?;
        // SAFETY: the device comes from the driver.
        let context =
            unsafe { result::primary_ctx::retain(device) }.map_err(failed("cuDevicePrimaryCtxRetain"))?;
        Ok(Self { device, context })
    }

    /// Ten times the major compute capability plus the minor.
    pub(super) fn capability(&self) -> Result<u32, Error> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        };
        let read = |attribute| {
            // SAFETY: the device comes from the driver.
            unsafe { result::device::get_attribute(self.device, attribute) }
                .map_err(failed("cuDeviceGetAttribute"))
        };
        let (major, minor) = (
            read(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            read(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        Ok(major.unsigned_abs() * 10 + minor.unsigned_abs())
    }

    /// Runs `work` with this context current, and leaves the thread's own current as it was: another thread of libtorch's, or
    /// a thread that works on another device, must not notice.
    fn with<R>(&self, work: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        // SAFETY: the context is held by this value.
        unsafe { sys::cuCtxPushCurrent_v2(self.context) }.result().map_err(failed("cuCtxPushCurrent"))?;
        let result = work();
        let mut popped = std::ptr::null_mut();
        // SAFETY: pops what was pushed above, on the same thread.
        unsafe { sys::cuCtxPopCurrent_v2(&mut popped) }.result().map_err(failed("cuCtxPopCurrent"))?;
        result
    }
}

/// A kernel in a loaded module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function(sys::CUfunction);

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// A module, unloaded with the value and before its context is let go.
#[derive(Debug)]
pub(super) struct Module {
    module: sys::CUmodule,
    context: Context,
}

// SAFETY: handles of the driver, which any thread may use.
unsafe impl Send for Module {}
// SAFETY: as above; nothing here changes them.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded once, when the value was made. A driver that is shutting down refuses, and has unloaded it.
        let _ = self
            .context
            .with(|| unsafe { result::module::unload(self.module) }.map_err(failed("cuModuleUnload")));
    }
}

impl Module {
    /// Loads PTX with a zero at its end, or an ELF file.
    pub(super) fn load(context: Context, image: &[u8]) -> Result<Self, Error> {
        let load = || {
            // SAFETY: the image is what NVRTC gave, checked by its digest if it comes from the cache.
            unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(failed("cuModuleLoadData"))
        };
        let module = context.with(load)?;
        Ok(Self { module, context })
    }

    /// A kernel by name.
    pub(super) fn function(&self, name: &str) -> Result<Function, Error> {
        let missing =
            || Error::Driver { call: "cuModuleGetFunction", code: format!("{name} holds a zero byte") };
        let name = CString::new(name).map_err(|_| missing())?;
        let get = || {
            // SAFETY: the module is loaded.
            unsafe { result::module::get_function(self.module, name) }.map_err(failed("cuModuleGetFunction"))
        };
        self.context.with(get).map(Function)
    }

    /// Puts a kernel on a stream.
    ///
    /// # Safety
    ///
    /// The function is of this module. The stream is of this module's context, or null. The arguments are as many as the kernel
    /// has, each points to a value of its parameter's type, and what the kernel does with them is allowed until it ends.
    pub(super) unsafe fn launch(
        &self,
        function: Function,
        grid: Grid,
        stream: u64,
        arguments: &mut [*mut c_void],
    ) -> Result<(), Error> {
        self.context.with(|| {
            let stream = std::ptr::with_exposed_provenance_mut::<sys::CUstream_st>(stream as usize);
            // SAFETY: the caller's.
            unsafe {
                result::launch_kernel(function.0, (grid.x, grid.y, 1), (THREADS, 1, 1), 0, stream, arguments)
            }
            .map_err(failed("cuLaunchKernel"))
        })
    }
}

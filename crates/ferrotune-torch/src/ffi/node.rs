use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::{ptr, slice};

use tch::{Device, Kind, Tensor};

use super::shim::{Failure, RawTensor, checked, raws, take};
use crate::error::Stage;
use crate::function::panic_message;
use crate::{Error, Function, Result};

/// What a gradient for an input must look like.
#[derive(Debug)]
pub(crate) struct InputMeta {
    pub(crate) size: Vec<i64>,
    pub(crate) kind: Kind,
    pub(crate) device: Device,
}

/// One application of a function: what its node in the graph keeps on the Rust side.
pub(crate) struct Call {
    pub(crate) function: Arc<dyn Function>,
    /// Asked for once: a name may come from anywhere.
    pub(crate) name: String,
    pub(crate) inputs: Vec<InputMeta>,
}

/// An error on its way through C++, which holds it as `void*`.
pub(super) struct Raised {
    error: Error,
    text: CString,
}

/// Laid out as `ferrotune::Callbacks` in `csrc/boundary.h`.
#[repr(C)]
struct Callbacks {
    backward: unsafe extern "C" fn(
        call: *const c_void,
        saved: *mut *mut RawTensor,
        saved_count: usize,
        grads: *mut *mut RawTensor,
        grads_count: usize,
        needs: *const bool,
        results: *mut *mut RawTensor,
        results_count: usize,
        create_graph: bool,
    ) -> *mut c_void,
    drop_call: unsafe extern "C" fn(call: *mut c_void),
    describe: unsafe extern "C" fn(raised: *const c_void) -> *const c_char,
    drop_raised: unsafe extern "C" fn(raised: *mut c_void),
}

static CALLBACKS: Callbacks =
    Callbacks { backward: call_backward, drop_call, describe: describe_raised, drop_raised };

unsafe extern "C" {
    fn ferrotune_torch_attach(
        call: *mut c_void,
        callbacks: *const Callbacks,
        name: *const c_char,
        inputs: *const *mut RawTensor,
        inputs_count: usize,
        outputs: *const *mut RawTensor,
        outputs_count: usize,
        saved: *const *mut RawTensor,
        saved_count: usize,
        results: *mut *mut RawTensor,
        failure: *mut Failure,
    ) -> bool;
}

/// Puts a node for `call` between `inputs` and `outputs` if gradients are recorded and an input asks for one.
pub(crate) fn attach(
    call: Call,
    name: &CStr,
    inputs: &[&Tensor],
    outputs: &[Tensor],
    saved: &[Tensor],
) -> Result<Vec<Tensor>> {
    let inputs = raws(inputs.iter().copied());
    let (outputs, saved) = (raws(outputs), raws(saved));
    let mut results = vec![ptr::null_mut(); outputs.len()];
    let call = Box::into_raw(Box::new(call));
    // SAFETY: the lists have the lengths given with them and their tensors outlive the call; the shim owns `call` from
    // here on and gives it to `drop_call` once.
    checked(|failure| unsafe {
        ferrotune_torch_attach(
            call.cast(),
            &CALLBACKS,
            name.as_ptr(),
            inputs.as_ptr(),
            inputs.len(),
            outputs.as_ptr(),
            outputs.len(),
            saved.as_ptr(),
            saved.len(),
            results.as_mut_ptr(),
            failure,
        )
    })?;
    // SAFETY: after success each entry is owned by this function.
    Ok(results.into_iter().filter_map(|tensor| unsafe { take(tensor) }).collect())
}

impl Raised {
    fn boxed(error: Error) -> *mut c_void {
        let text = CString::new(error.to_string().replace('\0', "\u{fffd}")).unwrap_or_default();
        Box::into_raw(Box::new(Self { error, text })).cast()
    }

    pub(super) fn into_error(self) -> Error {
        self.error
    }
}

impl Call {
    /// Runs the function's backward pass and checks what it returns.
    fn backward(
        &self,
        saved: &[Tensor],
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let function = || self.name.clone();
        let results = self.function.backward(saved, grads, needs).map_err(|source| Error::Function {
            function: function(),
            stage: Stage::Backward,
            source,
        })?;
        if results.len() != needs.len() {
            return Err(Error::GradientCount {
                function: function(),
                expected: needs.len(),
                found: results.len(),
            });
        }
        let checked = results.into_iter().zip(needs).zip(&self.inputs).enumerate();
        checked
            .map(|(input, ((gradient, needed), expected))| {
                match gradient.filter(|g| *needed && g.defined()) {
                    Some(gradient) => expected.check(gradient, input, function).map(Some),
                    None => Ok(None),
                }
            })
            .collect()
    }
}

impl InputMeta {
    fn check(&self, gradient: Tensor, input: usize, function: impl Fn() -> String) -> Result<Tensor> {
        let (size, kind, device) = (gradient.size(), gradient.kind(), gradient.device());
        if size != self.size {
            let expected = self.size.clone();
            return Err(Error::GradientShape { function: function(), input, expected, found: size });
        }
        if kind != self.kind {
            let expected = self.kind;
            return Err(Error::GradientKind { function: function(), input, expected, found: kind });
        }
        if device != self.device {
            let expected = self.device;
            return Err(Error::GradientDevice { function: function(), input, expected, found: device });
        }
        Ok(gradient)
    }
}

/// The backward pass as C++ calls it; the contract is that of `Callbacks::backward` in `csrc/boundary.h`.
#[allow(clippy::too_many_arguments)]
unsafe extern "C" fn call_backward(
    call: *const c_void,
    saved: *mut *mut RawTensor,
    saved_count: usize,
    grads: *mut *mut RawTensor,
    grads_count: usize,
    needs: *const bool,
    results: *mut *mut RawTensor,
    results_count: usize,
    create_graph: bool,
) -> *mut c_void {
    // SAFETY: `call` is the box that `attach` gave away, alive as long as its node.
    let call = unsafe { &*call.cast::<Call>() };
    let pass = AssertUnwindSafe(|| {
        // SAFETY: the shim passes lists of these lengths and gives up the tensors in them. A list without entries may
        // have a null address, which `list` allows.
        let (saved, grads, needs) = unsafe {
            let saved =
                list(saved, saved_count).iter().map(|t| take(*t).unwrap_or_default()).collect::<Vec<_>>();
            let grads = list(grads, grads_count).iter().map(|t| take(*t)).collect::<Vec<_>>();
            (saved, grads, slice::from_raw_parts(needs, results_count))
        };
        if create_graph {
            return Err(Error::DoubleBackward { function: call.name.clone() });
        }
        call.backward(&saved, &grads, needs)
    });
    let outcome = catch_unwind(pass).unwrap_or_else(|panic| {
        Err(Error::Panic {
            function: call.name.clone(),
            stage: Stage::Backward,
            message: panic_message(panic.as_ref()),
        })
    });
    match outcome {
        Ok(gradients) => {
            for (position, gradient) in gradients.into_iter().enumerate().take(results_count) {
                let Some(gradient) = gradient else { continue };
                let mut gradient = std::mem::ManuallyDrop::new(gradient);
                // SAFETY: `results` has `results_count` entries; the shim frees what is written there.
                unsafe { *results.add(position) = gradient.as_mut_ptr().cast() };
            }
            ptr::null_mut()
        }
        Err(error) => Raised::boxed(error),
    }
}

/// # Safety
///
/// `pointer` is the address of `count` values, or `count` is 0.
unsafe fn list<'a>(pointer: *mut *mut RawTensor, count: usize) -> &'a [*mut RawTensor] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's contract.
    unsafe { slice::from_raw_parts(pointer, count) }
}

unsafe extern "C" fn drop_call(call: *mut c_void) {
    // SAFETY: the box that `attach` gave away, given back once.
    let call = unsafe { Box::from_raw(call.cast::<Call>()) };
    if catch_unwind(AssertUnwindSafe(|| drop(call))).is_err() {
        tracing::error!("a function panicked while it was dropped");
    }
}

unsafe extern "C" fn describe_raised(raised: *const c_void) -> *const c_char {
    // SAFETY: a live error from `Raised::boxed`; the text lives as long as it does.
    unsafe { (*raised.cast::<Raised>()).text.as_ptr() }
}

unsafe extern "C" fn drop_raised(raised: *mut c_void) {
    // SAFETY: the box from `Raised::boxed`, given back once.
    let raised = unsafe { Box::from_raw(raised.cast::<Raised>()) };
    if catch_unwind(AssertUnwindSafe(|| drop(raised))).is_err() {
        tracing::error!("an error panicked while it was dropped");
    }
}

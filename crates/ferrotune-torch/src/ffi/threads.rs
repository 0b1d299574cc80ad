use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use super::shim::{Failure, checked};
use crate::Result;

type Body<'a> = &'a (dyn Fn() + Sync);

unsafe extern "C" {
    fn ferrotune_torch_on_each_thread(
        body: unsafe extern "C" fn(*const c_void),
        context: *const c_void,
        failure: *mut Failure,
    ) -> bool;
}

/// # Safety
///
/// `body` is the address of a [`Body`] that is alive and does not panic.
unsafe extern "C" fn run(body: *const c_void) {
    // SAFETY: the caller's contract; what is borrowed is `Sync`, so that threads may share it.
    let body = unsafe { *body.cast::<Body<'_>>() };
    body();
}

pub(crate) fn on_each_thread(body: Body<'_>) -> Result<()> {
    let panicked = Mutex::new(None::<Box<dyn Any + Send>>);
    let guarded = || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            panicked.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    };
    let context: Body<'_> = &guarded;
    // SAFETY: `run` gets the address of `context`, which outlives the call, and the shim is through with it when it returns;
    // panics stay within `guarded`.
    checked(|failure| unsafe { ferrotune_torch_on_each_thread(run, (&raw const context).cast(), failure) })?;
    if let Some(panic) = panicked.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
    Ok(())
}

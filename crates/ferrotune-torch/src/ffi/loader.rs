use std::ffi::OsStr;

/// Loads a shared library for the rest of the process, with its symbols visible to every other.
///
/// Returns the loader's message if it cannot.
#[cfg(unix)]
pub(crate) fn load_global(library: &OsStr) -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

    // SAFETY: the library's initializers run. It is libtorch's own CUDA half, checked by the caller to be of the same
    // build as the half that is loaded, and its initializers do nothing but register kernels with that half.
    match unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            // libtorch keeps pointers into it until the process ends.
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(reasons(&error)),
    }
}

#[cfg(not(unix))]
pub(crate) fn load_global(_library: &OsStr) -> Result<(), String> {
    Err("loading CUDA at run time is written for Unix".to_owned())
}

/// The loader's own words, which libloading keeps as the source of its error.
#[cfg(unix)]
fn reasons(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

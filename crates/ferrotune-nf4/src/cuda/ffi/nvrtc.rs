//! NVRTC's functions. Sources: CUDA's NVRTC reference, release 13.0.

use std::{
    ffi::{CString, c_char, c_int},
    path::Path,
    ptr,
};

use cudarc::nvrtc::sys;

use crate::{
    Error,
    cuda::{Image, Target},
};

/// Loads a library for the rest of the process; the loader then finds it by its name. The loader's words on failure.
#[cfg(unix)]
pub(crate) fn preload(library: &Path) -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

    // SAFETY: the library's initializers run. It is a file that the user or set-up put there as NVIDIA's compiler, whose
    // initializers touch nothing but the library itself.
    let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
    })?;
    std::mem::forget(library);
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn preload(library: &Path) -> Result<(), String> {
    Err(format!("`{}` is not loaded: this is written for Unix", library.display()))
}

/// Whether the loader finds NVRTC. Before this is true no other function here may run: they would panic.
pub(crate) fn is_present() -> bool {
    // SAFETY: opens and closes libraries by NVRTC's names.
    unsafe { sys::is_culib_present() }
}

fn check(call: &'static str, result: sys::nvrtcResult) -> Result<(), Error> {
    match result {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        code => Err(Error::Nvrtc { call, code: format!("{code:?}") }),
    }
}

/// Major and minor version.
pub(crate) fn version() -> Result<(u32, u32), Error> {
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: both point to integers.
    check("nvrtcVersion", unsafe { sys::nvrtcVersion(&mut major, &mut minor) })?;
    Ok((major.unsigned_abs(), minor.unsigned_abs()))
}

/// The compute capabilities that it compiles for.
pub(crate) fn capabilities() -> Result<Vec<u32>, Error> {
    let mut count: c_int = 0;
    // SAFETY: points to an integer.
    check("nvrtcGetNumSupportedArchs", unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) })?;
    let mut known = vec![0 as c_int; usize::try_from(count).unwrap_or(0)];
    // SAFETY: the array has as many entries as the call before said.
    check("nvrtcGetSupportedArchs", unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) })?;
    Ok(known.into_iter().map(c_int::unsigned_abs).collect())
}

/// A program, destroyed with the value.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by nvrtcCreateProgram and destroyed here alone. Nothing can be done about a failure.
        let _ = unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

/// A C string; our sources and options hold no zero.
fn text(what: &str) -> Result<CString, Error> {
    CString::new(what).map_err(|_| Error::Nvrtc {
        call: "nvrtcCreateProgram",
        code: "a source holds a zero byte".to_owned(),
    })
}

/// Compiles `root` with the given headers.
pub(crate) fn compile(
    target: Target,
    root: &str,
    headers: &[(&str, String)],
    options: &[String],
) -> Result<Image, Error> {
    let root = text(root)?;
    let names = headers.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>, _>>()?;
    let texts = headers.iter().map(|(_, source)| text(source)).collect::<Result<Vec<_>, _>>()?;
    let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
    let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<*const c_char>>();
    let (names, texts, options) = (pointers(&names), pointers(&texts), pointers(&options));
    let mut program = Program(ptr::null_mut());
    // SAFETY: all strings end in zero and outlive the program, whose drop runs before theirs; the arrays have the length given.
    let created = unsafe {
        sys::nvrtcCreateProgram(
            &mut program.0,
            root.as_ptr(),
            c"nf4.cu".as_ptr(),
            texts.len() as c_int,
            texts.as_ptr(),
            names.as_ptr(),
        )
    };
    check("nvrtcCreateProgram", created)?;
    // SAFETY: the program was made above; the options end in zero and their number is given.
    let compiled = unsafe { sys::nvrtcCompileProgram(program.0, options.len() as c_int, options.as_ptr()) };
    let log = output(&program, "nvrtcGetProgramLog", sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog);
    let log = log.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches('\0').trim().to_owned());
    if compiled != sys::nvrtcResult::NVRTC_SUCCESS {
        let log = log.unwrap_or_default();
        return Err(Error::KernelCompilation {
            target: target.to_string(),
            log: format!("{compiled:?}: {log}"),
        });
    }
    let code = match target {
        Target::Ptx { .. } => output(&program, "nvrtcGetPTX", sys::nvrtcGetPTXSize, sys::nvrtcGetPTX),
        Target::Cubin { .. } => output(&program, "nvrtcGetCUBIN", sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN),
    }?;
    Ok(Image { code, log: log? })
}

type SizeOf = unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult;
type CopyOf = unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult;

/// One of a compiled program's outputs.
fn output(program: &Program, call: &'static str, size_of: SizeOf, copy: CopyOf) -> Result<Vec<u8>, Error> {
    let mut size = 0;
    // SAFETY: the program is alive; points to a size.
    check(call, unsafe { size_of(program.0, &mut size) })?;
    let mut bytes = vec![0u8; size];
    // SAFETY: the buffer has the size that the call before said.
    check(call, unsafe { copy(program.0, bytes.as_mut_ptr().cast()) })?;
    Ok(bytes)
}

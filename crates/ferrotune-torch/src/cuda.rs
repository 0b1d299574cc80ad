//! CUDA at run time: the same binary with and without a GPU.
//!
//! Programs are linked against libtorch's CPU half only. [`load`] brings the CUDA half, `libtorch_cuda.so`, into the
//! process if there is one. It must run before anything asks libtorch about CUDA, because libtorch keeps its first
//! answer: before `tch::Cuda::is_available`, `tch::manual_seed`, the first backward pass and the first tensor on a CUDA
//! device. [`device`] and [`is_available`] call it themselves, so a program that begins with one of them is right.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fmt};

use tch::Device;

use crate::error::{Error, Result};
use crate::ffi;

/// The variable that names `libtorch_cuda.so`, or the folder that holds it.
pub const LIBRARY_VARIABLE: &str = "FERROTUNE_CUDA_LIB";

const CUDA_HALF: &str = "libtorch_cuda.so";
const CPU_HALF: &str = "libtorch_cpu.so";

/// What [`load`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CudaLibrary {
    /// The CUDA half is in the process. Whether there is a device is another question: [`is_available`].
    Loaded {
        /// Where it came from.
        path: PathBuf,
    },
    /// The CUDA half is in the process, too late: libtorch was asked about CUDA before, and keeps to its answer that
    /// there is none.
    TooLate {
        /// Where it came from.
        path: PathBuf,
    },
    /// There is none.
    NotFound {
        /// The folders that were looked in, besides the loader's own.
        searched: Vec<PathBuf>,
    },
    /// There is one that cannot be used.
    Refused {
        /// Where it lies.
        path: PathBuf,
        /// Why, in one sentence.
        reason: String,
    },
}

impl fmt::Display for CudaLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded { path } => write!(f, "libtorch's CUDA half was loaded from `{}`", path.display()),
            Self::TooLate { path } => write!(
                f,
                "`{}` was loaded after libtorch had been asked about CUDA: choose the device before everything else",
                path.display()
            ),
            Self::NotFound { searched } => {
                write!(f, "no {CUDA_HALF} ")?;
                for folder in searched {
                    write!(f, "in `{}` or ", folder.display())?;
                }
                write!(
                    f,
                    "on the loader's path: run `cargo xtask setup --cuda`, or set {LIBRARY_VARIABLE} to the folder that holds it"
                )
            }
            Self::Refused { path, reason } => write!(f, "`{}` cannot be used: {reason}", path.display()),
        }
    }
}

/// Brings libtorch's CUDA half into the process, once; later calls return the first outcome.
///
/// Looks in [`LIBRARY_VARIABLE`], then beside the `libtorch_cpu.so` that is loaded, then where the system's loader looks.
/// What lies at the first place that has one is taken or refused; a name in [`LIBRARY_VARIABLE`] that leads nowhere is
/// refused too. A library is refused if the `libtorch_cpu.so` beside it is not the loaded one, byte for byte: the two
/// halves share C++ types and must be of one build. (Where none lies beside it, the symbols must fit.)
///
/// Nothing is an error here: without CUDA there is the CPU.
pub fn load() -> CudaLibrary {
    static OUTCOME: OnceLock<CudaLibrary> = OnceLock::new();
    OUTCOME
        .get_or_init(|| {
            let outcome = find_and_load();
            match &outcome {
                CudaLibrary::Refused { .. } | CudaLibrary::TooLate { .. } => tracing::warn!("{outcome}"),
                _ => tracing::debug!("{outcome}"),
            }
            outcome
        })
        .clone()
}

/// Whether there is a CUDA device to compute on; calls [`load`] first.
pub fn is_available() -> bool {
    matches!(load(), CudaLibrary::Loaded { .. }) && ffi::has_cuda().unwrap_or(false)
}

/// The number of CUDA devices; calls [`load`] first.
///
/// # Errors
///
/// libtorch's own, if the driver is in a state that it cannot use.
pub fn device_count() -> Result<usize> {
    if is_available() { ffi::cuda_device_count() } else { Ok(0) }
}

/// The stream that this thread's operations on the CUDA device `index` are put on, by the driver's handle (`CUstream`).
///
/// A kernel that is launched on it runs after them and before those that follow.
///
/// # Errors
///
/// [`Error::CudaIndex`] if there is no such device.
pub fn current_stream(index: usize) -> Result<u64> {
    let count = device_count()?;
    if index < count {
        ffi::current_stream(Device::Cuda(index))
    } else {
        Err(Error::CudaIndex { index, count })
    }
}

/// Where NVIDIA's libraries may lie beside the loaded libtorch: in its folder, and where Python packages put them.
pub fn library_folders() -> Vec<PathBuf> {
    let Some(folder) = loaded_library(CPU_HALF).and_then(|path| Some(path.parent()?.to_path_buf())) else {
        return Vec::new();
    };
    let packaged = folder.join("../../nvidia/cu13/lib");
    vec![folder, packaged]
}

/// The device of a name: `cpu`, `cuda` (the first one), `cuda:N`, or `auto` (CUDA if there is one, else the CPU).
///
/// Only names other than `cpu` look for CUDA.
///
/// # Errors
///
/// [`Error::UnknownDevice`] for another name; [`Error::CudaUnavailable`] and [`Error::CudaIndex`] if CUDA was asked for
/// by name and is not there.
///
/// # Example
///
/// ```
/// use ferrotune_torch::cuda;
///
/// assert_eq!(cuda::device("cpu")?, tch::Device::Cpu);
/// assert!(cuda::device("gpu").is_err());
/// # Ok::<(), ferrotune_torch::Error>(())
/// ```
pub fn device(name: &str) -> Result<Device> {
    let unknown = || Error::UnknownDevice { name: name.to_owned() };
    let index = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" if is_available() => return Ok(Device::Cuda(0)),
        "auto" => return Ok(Device::Cpu),
        "cuda" => 0,
        _ => {
            let digits =
                name.strip_prefix("cuda:").filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
            digits.and_then(|digits| digits.parse().ok()).ok_or_else(unknown)?
        }
    };
    let library = load();
    if !is_available() {
        let reason = match library {
            CudaLibrary::Loaded { .. } => {
                format!("{library}, but it finds no device: check the driver with `nvidia-smi`")
            }
            _ => library.to_string(),
        };
        return Err(Error::CudaUnavailable { name: name.to_owned(), reason });
    }
    let count = device_count()?;
    if index < count { Ok(Device::Cuda(index)) } else { Err(Error::CudaIndex { index, count }) }
}

fn find_and_load() -> CudaLibrary {
    if let Some(path) = loaded_library(CUDA_HALF) {
        return loaded(path);
    }
    let mut searched = Vec::new();
    if let Some(named) = env::var_os(LIBRARY_VARIABLE).filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        let path = if named.is_dir() { named.join(CUDA_HALF) } else { named };
        if !path.is_file() {
            let reason = format!("{LIBRARY_VARIABLE} names it, and there is no such file");
            return CudaLibrary::Refused { path, reason };
        }
        return load_file(path);
    }
    let cpu_half = loaded_library(CPU_HALF);
    if let Some(folder) = cpu_half.as_deref().and_then(Path::parent) {
        let path = folder.join(CUDA_HALF);
        if path.is_file() {
            return load_file(path);
        }
        searched.push(folder.to_path_buf());
    }
    load_by_name(searched)
}

fn load_file(path: PathBuf) -> CudaLibrary {
    if let Err(reason) = same_build(&path) {
        return CudaLibrary::Refused { path, reason };
    }
    match ffi::load_global(path.as_os_str()) {
        Ok(()) => loaded(path),
        Err(reason) => CudaLibrary::Refused { path, reason },
    }
}

fn loaded(path: PathBuf) -> CudaLibrary {
    match ffi::cuda_is_linked() {
        Ok(true) => CudaLibrary::Loaded { path },
        Ok(false) => CudaLibrary::TooLate { path },
        Err(error) => CudaLibrary::Refused { path, reason: error.to_string() },
    }
}

/// Where the loader itself searches, the place is known only afterwards, and so is whether the halves fit.
fn load_by_name(searched: Vec<PathBuf>) -> CudaLibrary {
    if let Err(reason) = ffi::load_global(OsStr::new(CUDA_HALF)) {
        return match loader_missed_it(&reason) {
            true => CudaLibrary::NotFound { searched },
            false => CudaLibrary::Refused { path: CUDA_HALF.into(), reason },
        };
    }
    let path = loaded_library(CUDA_HALF).unwrap_or_else(|| CUDA_HALF.into());
    match same_build(&path) {
        Ok(()) => loaded(path),
        Err(reason) => CudaLibrary::Refused { path, reason },
    }
}

/// The loader names the file it could not open: this one, or one that this one needs.
fn loader_missed_it(reason: &str) -> bool {
    reason.starts_with(CUDA_HALF) && reason.contains("cannot open shared object file")
}

/// The path of a library in this process, from the kernel's list of mappings (proc(5)).
fn loaded_library(name: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let paths = maps.lines().filter_map(|line| line.find('/').map(|start| Path::new(&line[start..])));
    paths.into_iter().find(|path| path.file_name() == Some(OsStr::new(name))).map(Path::to_path_buf)
}

/// Compares the CPU half beside `cuda_half` with the loaded one; where there is none, the symbols must decide.
fn same_build(cuda_half: &Path) -> Result<(), String> {
    let Some(loaded) = loaded_library(CPU_HALF) else { return Ok(()) };
    let beside = cuda_half.with_file_name(CPU_HALF);
    if !beside.is_file() {
        return Ok(());
    }
    match same_contents(&loaded, &beside) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!(
            "it is of another build than the libtorch in use: `{}` and `{}` differ; use the two halves of one release",
            beside.display(),
            loaded.display()
        )),
        Err(error) => {
            Err(format!("`{}` and `{}` cannot be compared: {error}", beside.display(), loaded.display()))
        }
    }
}

fn same_contents(a: &Path, b: &Path) -> io::Result<bool> {
    if a.canonicalize()? == b.canonicalize()? {
        return Ok(true);
    }
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (
        BufReader::with_capacity(1 << 20, File::open(a)?),
        BufReader::with_capacity(1 << 20, File::open(b)?),
    );
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left[..length] != right[..length] {
            return Ok(false);
        }
        a.consume(length);
        b.consume(length);
    }
}

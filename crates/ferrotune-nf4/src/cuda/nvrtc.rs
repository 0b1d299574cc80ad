//! NVRTC: where it is found, and what it is told.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

use super::{ffi, source};
use crate::{Error, cuda::Cache};

/// The variable that names NVRTC's library, or the folder that holds it.
pub const NVRTC_VARIABLE: &str = "FERROTUNE_NVRTC_LIB";

const LIBRARY: &str = "libnvrtc.so.13";

/// What NVRTC reads its own device functions from; it asks for it by name, so it has to be in the process before.
const BUILTINS: &str = "libnvrtc-builtins.so";

/// What is fixed for every target. Codes must be the reference's: no contraction to fused operations but where the source
/// says so, no flushing of subnormals, IEEE division.
const OPTIONS: [&str; 5] =
    ["--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"];

/// The lowest compute capability that the kernels are written for, ten times the major number plus the minor.
pub(super) const LOWEST: u32 = 80;

/// What to compile for. Capabilities are ten times the major number plus the minor: 80 is an A100, 90 an H100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// PTX, which the driver compiles further for this and later devices.
    Ptx {
        /// The lowest compute capability that it runs on.
        capability: u32,
    },
    /// Machine code for one architecture.
    Cubin {
        /// The architecture's compute capability.
        capability: u32,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ptx { capability } => write!(f, "compute_{capability}"),
            Self::Cubin { capability } => write!(f, "sm_{capability}"),
        }
    }
}

/// A compiled module.
#[derive(Clone, Debug)]
pub struct Image {
    /// PTX text with a zero at the end, or an ELF file.
    pub code: Vec<u8>,
    /// What the compiler said: for [`Target::Cubin`] registers, spills and shared memory of each kernel.
    pub log: String,
}

/// NVIDIA's run-time compiler, found and loaded.
#[derive(Clone, Copy, Debug)]
pub struct Nvrtc {
    version: (u32, u32),
}

impl Nvrtc {
    /// Finds and loads the library: where [`NVRTC_VARIABLE`] says, in `folders`, then where the system's loader looks.
    ///
    /// It stays loaded; once one is in the process, later calls give the same.
    ///
    /// # Errors
    ///
    /// [`Error::NvrtcUnavailable`], which says where was looked.
    pub fn find(folders: &[PathBuf]) -> Result<Self, Error> {
        let named = env::var_os(NVRTC_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let named =
            named.map(|path| if path.is_dir() { path } else { path.parent().unwrap_or(&path).to_owned() });
        let places = named.iter().chain(folders);
        if let Some(folder) = places.clone().find(|folder| folder.join(LIBRARY).is_file()) {
            for library in libraries_of(folder) {
                ffi::nvrtc::preload(&library).map_err(|reason| Error::NvrtcUnavailable { reason })?;
            }
        }
        if !ffi::nvrtc::is_present() {
            let mut searched: Vec<String> = places.map(|folder| format!("`{}`", folder.display())).collect();
            searched.push("the loader's path".to_owned());
            let reason = format!("no {LIBRARY} in {}", searched.join(", "));
            return Err(Error::NvrtcUnavailable { reason });
        }
        Ok(Self { version: ffi::nvrtc::version()? })
    }

    /// Major and minor version.
    #[must_use]
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The best target for a device of this compute capability: its own machine code, or, if this NVRTC is older than the
    /// device, PTX of the latest architecture before it.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceTooOld`] below 8.0, and [`Error::Nvrtc`].
    pub fn target(&self, capability: u32) -> Result<Target, Error> {
        if capability < LOWEST {
            return Err(Error::DeviceTooOld { found: capability, lowest: LOWEST });
        }
        let known = ffi::nvrtc::capabilities()?;
        if known.contains(&capability) {
            return Ok(Target::Cubin { capability });
        }
        let before = known.into_iter().filter(|&known| known < capability).max();
        Ok(Target::Ptx { capability: before.unwrap_or(LOWEST) })
    }

    /// Compiles all kernels.
    ///
    /// # Errors
    ///
    /// [`Error::KernelCompilation`] with the compiler's words, [`Error::Nvrtc`] if the library itself fails.
    pub fn compile(&self, target: Target) -> Result<Image, Error> {
        let options = options(target);
        ffi::nvrtc::compile(target, source::ROOT, &source::headers(), &options)
    }

    /// Like [`compile`](Self::compile), unless the cache has the same sources for the same target by the same NVRTC.
    ///
    /// # Errors
    ///
    /// Those of [`compile`](Self::compile).
    pub fn compile_cached(&self, target: Target, cache: &Cache) -> Result<Vec<u8>, Error> {
        let headers = source::headers();
        let asked = format!("{:?} nvrtc {}.{}", options(target), self.version.0, self.version.1);
        let mut key = vec![asked.as_bytes(), source::ROOT.as_bytes()];
        for (name, text) in &headers {
            key.extend([name.as_bytes(), text.as_bytes()]);
        }
        cache.get_or_make(&key, || self.compile(target).map(|image| image.code))
    }
}

fn options(target: Target) -> Vec<String> {
    let mut options = vec![format!("--gpu-architecture={target}")];
    options.extend(OPTIONS.map(str::to_owned));
    if matches!(target, Target::Cubin { .. }) {
        options.push("--ptxas-options=-v".to_owned());
    }
    options
}

/// The built-in functions, and then the compiler that asks for them.
fn libraries_of(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_builtins =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(BUILTINS));
    let mut libraries: Vec<PathBuf> = entries.filter(is_builtins).collect();
    libraries.push(folder.join(LIBRARY));
    libraries
}

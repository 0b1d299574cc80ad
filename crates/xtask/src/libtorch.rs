//! Which libtorch the build will take, and whether it is the right one.
//!
//! `torch-sys` compares a file `build-version` that the wheels lack, so a wrong libtorch passes its check and fails much
//! later. The headers always tell.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::pins::{Bundle, LIBTORCH_VERSION};

/// The two places in which libtorch's releases keep their version: since 2.9, and before.
const VERSION_HEADERS: [&str; 2] =
    ["include/torch/headeronly/version.h", "include/torch/csrc/api/include/torch/version.h"];

#[cfg(target_os = "linux")]
const CPU_LIBRARY: &str = "lib/libtorch_cpu.so";
#[cfg(target_os = "macos")]
const CPU_LIBRARY: &str = "lib/libtorch_cpu.dylib";
#[cfg(target_os = "windows")]
const CPU_LIBRARY: &str = "lib/torch_cpu.lib";
#[cfg(target_os = "linux")]
const CUDA_LIBRARY: &str = "lib/libtorch_cuda.so";
#[cfg(not(target_os = "linux"))]
const CUDA_LIBRARY: &str = "lib/torch_cuda.lib";

/// Variables that `torch-sys` follows and `ferrotune-torch` does not: the two would build against different libraries.
const NOT_FOLLOWED: [&str; 4] =
    ["LIBTORCH_USE_PYTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_LIB", "LIBTORCH_STATIC"];

/// Where libtorch comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The user's own, named by LIBTORCH.
    Own(PathBuf),
    /// The workspace's `.libtorch`.
    Workspace,
}

/// Whether the CUDA libraries must be there too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavor {
    /// The CPU's libraries are enough; those of CUDA may be there.
    Cpu,
    /// CUDA's libraries too.
    Cuda,
}

impl Source {
    /// Reads the environment. Cargo's `[env]` table names `.libtorch` for whatever it starts, this program included, so
    /// that value means the workspace's own.
    ///
    /// # Errors
    /// [`Error::VariableNotFollowed`], [`Error::LibtorchNotAbsolute`].
    pub(crate) fn from_env(root: &Path) -> Result<Self> {
        if let Some(name) = NOT_FOLLOWED.into_iter().find(|name| env::var_os(name).is_some()) {
            return Err(Error::VariableNotFollowed { name });
        }
        match env::var_os("LIBTORCH") {
            None => Ok(Self::Workspace),
            Some(value) => Self::from_value(root, value.into()),
        }
    }

    fn from_value(root: &Path, value: PathBuf) -> Result<Self> {
        if !value.is_absolute() {
            return Err(Error::LibtorchNotAbsolute { value: value.display().to_string() });
        }
        let managed = root.join(".libtorch");
        let same = value == managed
            || matches!((value.canonicalize(), managed.canonicalize()), (Ok(a), Ok(b)) if a == b);
        Ok(if same { Self::Workspace } else { Self::Own(value) })
    }
}

/// Checks a libtorch that set-up did not make.
///
/// # Errors
/// [`Error::LibtorchIncomplete`], [`Error::LibtorchVersion`].
pub(crate) fn check(folder: &Path, flavor: Flavor) -> Result<()> {
    const REMEDY: &str = "set LIBTORCH to one that is, or unset it (and move a `.libtorch` of your own away) to have one fetched";
    let lacks = |missing| Error::LibtorchIncomplete { folder: folder.to_owned(), missing, remedy: REMEDY };
    let found =
        VERSION_HEADERS.iter().find_map(|header| version(&fs::read_to_string(folder.join(header)).ok()?));
    let found = found.ok_or_else(|| lacks(VERSION_HEADERS[0]))?;
    if found != LIBTORCH_VERSION {
        return Err(Error::LibtorchVersion { folder: folder.to_owned(), found, remedy: REMEDY });
    }
    if !folder.join(CPU_LIBRARY).is_file() {
        return Err(lacks(CPU_LIBRARY));
    }
    if flavor == Flavor::Cuda && !folder.join(CUDA_LIBRARY).is_file() {
        return Err(lacks(CUDA_LIBRARY));
    }
    Ok(())
}

/// Reads `TORCH_VERSION_MAJOR`, `_MINOR` and `_PATCH` out of a header.
fn version(header: &str) -> Option<String> {
    let number = |part: &str| {
        header.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let defines =
                words.next() == Some("#define") && words.next()?.strip_prefix("TORCH_VERSION_") == Some(part);
            words.next().filter(|_| defines)?.parse::<u32>().ok()
        })
    };
    Some(format!("{}.{}.{}", number("MAJOR")?, number("MINOR")?, number("PATCH")?))
}

/// Checks a folder in a bundle's place that set-up did not make: it is used as it is if it has what the bundle is for.
///
/// # Errors
/// [`Error::ForeignFolder`] with the first file it lacks.
pub(crate) fn check_essential(folder: &Path, bundle: &Bundle) -> Result<()> {
    match bundle.essential.iter().find(|name| !folder.join(name).is_file()) {
        Some(missing) => Err(Error::ForeignFolder { folder: folder.to_owned(), missing }),
        None => Ok(()),
    }
}

//! Which libtorch this program was compiled against and which one it found.

use std::fmt;

use crate::error::{Error, Result};
use crate::ffi;

/// A libtorch release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u8,
    /// The second number.
    pub minor: u8,
    /// The third number.
    pub patch: u8,
}

/// The release that `tch` and this crate are written for.
pub const EXPECTED: Version = Version { major: 2, minor: 11, patch: 0 };

/// The release whose headers the shim was compiled with.
///
/// The build refuses anything but 2.11, so this differs from [`EXPECTED`] in the last number at most.
pub fn compiled() -> Version {
    Version::from_abi(ffi::compiled_version())
}

/// The release of the library that the loader found.
pub fn runtime() -> Version {
    Version::from_abi(ffi::runtime_version())
}

/// Checks that the library found at run time is the one compiled against.
///
/// Call it once at the start of a program: with another release, calls land in functions of another shape.
///
/// # Errors
///
/// [`Error::Version`].
pub fn check() -> Result<()> {
    let (expected, found) = (compiled(), runtime());
    if expected == found { Ok(()) } else { Err(Error::Version { expected, found }) }
}

impl Version {
    /// Unpacks `TORCH_ABI_VERSION`: one byte each, from the top (`torch/headeronly/version.h`).
    fn from_abi(version: u64) -> Self {
        let [major, minor, patch, ..] = version.to_be_bytes();
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

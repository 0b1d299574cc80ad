//! Everything that can go wrong in a chore, each as one sentence that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::pins::LIBTORCH_VERSION;

/// Why a chore stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    #[error(
        "python3 was not found on PATH: install it with pip (Debian, Ubuntu: `apt-get install python3 python3-pip`) and run \
         this again"
    )]
    PythonMissing,

    #[error(
        "`{python}` has no pip: install it (Debian, Ubuntu: `apt-get install python3-pip`; elsewhere: `{python} -m \
         ensurepip --upgrade`) and run this again"
    )]
    PipMissing { python: String },

    #[error(
        "`{command}` failed ({detail}): repair this Python, or put another python3 first on PATH, and run this again"
    )]
    PythonBroken { command: String, detail: String },

    #[error(
        "no C++ compiler was found (tried {}): install one (Debian, Ubuntu: `apt-get install g++`) or name yours in CXX, \
         and run this again",
        tried.join(", ")
    )]
    CompilerMissing { tried: Vec<String> },

    #[error(
        "the disk that holds `{}` is too full for {what}: {} are needed while it is set up and {} are free, so free some \
         space and run this again",
        path.display(), size(*needed), size(*free)
    )]
    DiskTooSmall { what: String, path: PathBuf, needed: u64, free: u64 },

    #[error("the disk that holds `{}` became full while {what} was set up: free some space and run this again", path.display())]
    DiskFull { what: String, path: PathBuf },

    #[error(
        "pip could not reach a package index for {package} ({detail}): check the network and pip's settings (`python3 -m pip \
         config list`), or download {file} elsewhere, name its folder in PIP_FIND_LINKS, and run this again"
    )]
    IndexUnreachable { package: String, file: String, detail: String },

    #[error(
        "no package index known to pip has {file} ({detail}): check pip's settings (`python3 -m pip config list`), or \
         download this file elsewhere, name its folder in PIP_FIND_LINKS, and run this again"
    )]
    PackageUnavailable { file: String, detail: String },

    #[error("the download of {file} broke off twice ({detail}): check the network and run this again")]
    DownloadBroken { file: String, detail: String },

    #[error(
        "{file} was downloaded twice and is not the file that this project pins (SHA-256 {found}, expected {expected}): the \
         download was cut short or the index serves another file, so check the network and pip's index and run this again"
    )]
    WrongHash { file: String, expected: String, found: String },

    #[error(
        "{file} lacks `{entry}`, which this project takes from it: report this as a bug of the pins in crates/xtask/src/pins.rs"
    )]
    EntryMissing { file: String, entry: String },

    #[error("{file} cannot be unpacked: run this again, and report it if it happens twice")]
    Archive { file: String, source: zip::result::ZipError },

    #[error(
        "libtorch is fetched for Linux on x86-64 with glibc only, and this is {os} on {arch}: install libtorch \
         {LIBTORCH_VERSION} for it, set LIBTORCH to the absolute path of its folder, and run this again"
    )]
    PlatformWithoutWheel { os: &'static str, arch: &'static str },

    #[error(
        "LIBTORCH is `{value}`, which is not an absolute path: set it to the absolute path of a libtorch {LIBTORCH_VERSION}, or unset it to have one fetched"
    )]
    LibtorchNotAbsolute { value: String },

    #[error(
        "the libtorch in `{}` is version {found} and this project needs {LIBTORCH_VERSION}: {remedy}",
        folder.display()
    )]
    LibtorchVersion { folder: PathBuf, found: String, remedy: &'static str },

    #[error(
        "`{}` is not a libtorch, it lacks `{missing}`: {remedy}",
        folder.display()
    )]
    LibtorchIncomplete { folder: PathBuf, missing: &'static str, remedy: &'static str },

    #[error(
        "{name} is set and this project does not follow it: unset it, and set LIBTORCH to the absolute path of the one \
         libtorch to use (in a Python environment, the folder of its `torch` package)"
    )]
    VariableNotFollowed { name: &'static str },

    #[error("`{}` was not written by this set-up and lacks `{missing}`: move it away, or complete it, and run this again", folder.display())]
    ForeignFolder { folder: PathBuf, missing: &'static str },

    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("`{program}` could not be started ({source}): install it or put it on PATH, and run this again")]
    Start { program: String, source: io::Error },

    #[error("`{command}` ended with {status}: its message stands above")]
    CommandFailed { command: String, status: String },

    #[error(
        "the downstream program printed `{found}` without cargo and `{expected}` with it: its run path leads to another libtorch"
    )]
    DownstreamDiffers { expected: String, found: String },
}

/// A result of this crate.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Names the action and the path of an input-output error; a full disk becomes [`Error::DiskFull`].
pub(crate) fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::DiskFull { what: "the file".to_owned(), path: path.to_owned() }
        }
        _ => Error::Io { action, path: path.to_owned(), source },
    }
}

/// A number of bytes as people read it, in decimal units as package indexes and disks use them.
pub(crate) fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes >= 999.5e6 { format!("{:.1} GB", bytes / 1e9) } else { format!("{:.0} MB", bytes / 1e6) }
}

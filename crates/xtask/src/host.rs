//! What this machine offers: Python with pip, a C++ compiler, free space.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// The programs that chores start, by the name or path under which they are started.
#[derive(Debug)]
pub(crate) struct Host {
    /// Python 3 with pip.
    pub(crate) python: PathBuf,
    /// POSIX `df`.
    pub(crate) df: PathBuf,
    /// C++ compilers in the order in which the build would take them.
    pub(crate) compilers: Vec<String>,
}

impl Host {
    /// The programs found through PATH, and the compiler that the environment names, as the `cc` crate finds it.
    pub(crate) fn from_env() -> Self {
        let named = ["CXX_x86_64_unknown_linux_gnu", "HOST_CXX", "CXX"];
        let named =
            named.iter().filter_map(|name| env::var(name).ok()).find(|value| !value.trim().is_empty());
        let usual = ["c++", "g++", "clang++"].map(str::to_owned).to_vec();
        Self { python: "python3".into(), df: "df".into(), compilers: named.map_or(usual, |own| vec![own]) }
    }

    /// A command that starts Python.
    pub(crate) fn python(&self) -> Command {
        Command::new(&self.python)
    }

    /// Checks that Python starts and has pip.
    ///
    /// # Errors
    /// [`Error::PythonMissing`], [`Error::PipMissing`], or [`Error::PythonBroken`] with the last line it printed.
    pub(crate) fn check_pip(&self) -> Result<()> {
        let output = match self.python().args(["-m", "pip", "--version"]).stdin(Stdio::null()).output() {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::PythonMissing),
            Err(source) => return Err(Error::Start { program: self.python.display().to_string(), source }),
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No module named pip") {
            return Err(Error::PipMissing { python: self.python.display().to_string() });
        }
        let detail = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it printed nothing");
        let command = format!("{} -m pip --version", self.python.display());
        Err(Error::PythonBroken { command, detail: detail.trim().to_owned() })
    }

    /// Checks that a C++ compiler starts: `torch-sys` and `ferrotune-torch` compile C++.
    ///
    /// # Errors
    /// [`Error::CompilerMissing`] with the names that were tried.
    pub(crate) fn check_compiler(&self) -> Result<()> {
        // CXX may carry flags or a launcher: `ccache g++`.
        let starts = |compiler: &String| {
            let mut words = compiler.split_whitespace().map(OsString::from);
            let Some(program) = words.next() else { return false };
            let tried = Command::new(program)
                .args(words)
                .arg("--version")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            tried.is_ok_and(|status| status.success())
        };
        if self.compilers.iter().any(starts) {
            return Ok(());
        }
        Err(Error::CompilerMissing { tried: self.compilers.clone() })
    }

    /// Bytes free on the disk that holds `folder`, or `None` where `df` cannot tell.
    pub(crate) fn free_bytes(&self, folder: &Path) -> Option<u64> {
        let output = Command::new(&self.df).env("LC_ALL", "C").arg("-Pk").arg(folder).output().ok()?;
        if !output.status.success() {
            return None;
        }
        let said = String::from_utf8(output.stdout).ok()?;
        // POSIX's portable format: one line, `available` in KiB stands before the percentage. Names of file systems
        // may hold spaces, so the percentage is the landmark.
        let fields: Vec<&str> = said.lines().nth(1)?.split_whitespace().collect();
        let percentage = fields
            .iter()
            .rposition(|field| field.strip_suffix('%').is_some_and(|number| number.parse::<u64>().is_ok()))?;
        fields.get(percentage.checked_sub(1)?)?.parse::<u64>().ok()?.checked_mul(1024)
    }

    /// Checks that `needed` bytes are free on the disk that holds `folder`.
    ///
    /// # Errors
    /// [`Error::DiskTooSmall`]. Where the free space is unknown the check passes: the write will tell.
    pub(crate) fn check_space(&self, folder: &Path, needed: u64, what: &str) -> Result<()> {
        match self.free_bytes(folder) {
            Some(free) if free < needed => {
                Err(Error::DiskTooSmall { what: what.to_owned(), path: folder.to_owned(), needed, free })
            }
            _ => Ok(()),
        }
    }
}

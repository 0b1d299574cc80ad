//! `cargo xtask oracles`: the environment of reference libraries from which golden files and side-by-side benchmarks
//! come. Tests do not need it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::host::Host;

/// About what the environment occupies, in bytes; torch brings its CUDA libraries along.
const BYTES: u64 = 7_000_000_000;

/// Makes the virtual environment in `folder`, or completes the one that is there, and returns its Python.
///
/// # Errors
/// [`Error::DiskTooSmall`], [`Error::CommandFailed`] when `venv` or pip fails, [`Error::Start`].
pub(crate) fn make(root: &Path, host: &Host, folder: &Path) -> Result<PathBuf> {
    let python = folder.join("bin/python");
    if !python.exists() {
        host.check_pip()?;
        host.check_space(root, BYTES, "the reference libraries")?;
        eprintln!("oracles: making {} (about 7 GB, several minutes)", folder.display());
        let mut venv = host.python();
        venv.args(["-m", "venv"]).arg(folder);
        run(venv, "python3 -m venv (Debian, Ubuntu: `apt-get install python3-venv`)")?;
    }
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--disable-pip-version-check", "--requirement"]);
    install.arg(root.join("crates/xtask/oracles.txt"));
    run(install, "pip install of crates/xtask/oracles.txt")?;
    Ok(python)
}

fn run(mut command: Command, name: &str) -> Result<()> {
    let start = |source: io::Error| Error::Start { program: name.to_owned(), source };
    let status = command.stdin(Stdio::null()).stdout(Stdio::from(io::stderr())).status().map_err(start)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::CommandFailed { command: name.to_owned(), status: status.to_string() })
}

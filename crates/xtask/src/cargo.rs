//! The chores that start cargo again.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::error::{Error, Result, io_error};

/// A cargo command as a person would start it: `cargo run` describes this package in the environment of what it starts,
/// and build scripts that watch those variables would run again for nothing.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text == "CARGO_PRIMARY_PACKAGE"
        {
            command.env_remove(&name);
        }
    }
    command.arg(subcommand);
    command
}

/// Runs every test of the workspace, with further arguments for `cargo test`.
///
/// # Errors
/// [`Error::Start`] when cargo cannot be started; a failing test is in the status.
pub(crate) fn test(root: &Path, arguments: &[OsString]) -> Result<ExitStatus> {
    let mut command = cargo("test");
    command.arg("--manifest-path").arg(root.join("Cargo.toml")).arg("--workspace").args(arguments);
    status(command)
}

/// Runs the example `compare` with `arguments`; its standard output is this program's.
///
/// # Errors
/// [`Error::Start`] when cargo cannot be started; the example's failure is in the status.
pub(crate) fn compare(root: &Path, arguments: &[OsString]) -> Result<ExitStatus> {
    let mut command = cargo("run");
    command.arg("--manifest-path").arg(root.join("Cargo.toml"));
    command.args(["--example", "compare", "--"]).args(arguments);
    status(command)
}

/// Copies the sample crate out of the workspace, builds and runs it as a user of the facade would, once through cargo
/// and once directly, and compares what the two runs print.
///
/// # Errors
/// [`Error::CommandFailed`], [`Error::DownstreamDiffers`], [`Error::Io`], [`Error::Start`].
pub(crate) fn downstream(root: &Path, libtorch: &Path) -> Result<()> {
    let folder = env::temp_dir().join(format!("ferrotune-downstream-{}", std::process::id()));
    let result = downstream_in(root, libtorch, &folder);
    // The target folder is the workspace's; only a few sources lie here.
    let _ = fs::remove_dir_all(&folder);
    result
}

fn downstream_in(root: &Path, libtorch: &Path, folder: &Path) -> Result<()> {
    let template = root.join("crates/xtask/downstream");
    let source = folder.join("src");
    fs::create_dir_all(&source).map_err(io_error("create", &source))?;
    for name in ["build.rs", "src/main.rs"] {
        let from = template.join(name);
        fs::copy(&from, folder.join(name)).map_err(io_error("copy", &from))?;
    }
    let path = template.join("Cargo.toml");
    let manifest = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    let facade = root.join("crates/ferrotune");
    let manifest = manifest.replace("\"../../ferrotune\"", &format!("{:?}", facade.display().to_string()));
    let path = folder.join("Cargo.toml");
    fs::write(&path, manifest).map_err(io_error("write", &path))?;
    // The same versions and the same target folder: libtorch's binding is not compiled a second time.
    let path = root.join("Cargo.lock");
    fs::copy(&path, folder.join("Cargo.lock")).map_err(io_error("copy", &path))?;
    let target = target_folder(root);

    let mut run = cargo("run");
    run.current_dir(folder).env("CARGO_TARGET_DIR", &target).env("LIBTORCH", libtorch);
    let with_cargo = output(run, "cargo run (downstream crate)")?;
    let mut alone = Command::new(target.join("debug/ferrotune-downstream"));
    alone.env_remove("LD_LIBRARY_PATH").env_remove("LIBTORCH");
    let without_cargo = output(alone, "ferrotune-downstream")?;
    if with_cargo != without_cargo {
        return Err(Error::DownstreamDiffers { expected: with_cargo, found: without_cargo });
    }
    eprintln!("downstream: `{with_cargo}` with cargo and without");
    Ok(())
}

/// The target folder in use, wherever configuration puts it: this program lies in its `debug` folder.
fn target_folder(root: &Path) -> PathBuf {
    let own = env::current_exe().ok();
    let target = own.as_deref().and_then(Path::parent).and_then(Path::parent).map(Path::to_owned);
    target.unwrap_or_else(|| root.join("target"))
}

fn status(mut command: Command) -> Result<ExitStatus> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.status().map_err(|source| Error::Start { program, source })
}

/// Runs a command and returns its standard output, trimmed.
fn output(mut command: Command, name: &str) -> Result<String> {
    let start = |source: io::Error| Error::Start { program: name.to_owned(), source };
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(start)?;
    if !output.status.success() {
        return Err(Error::CommandFailed { command: name.to_owned(), status: output.status.to_string() });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

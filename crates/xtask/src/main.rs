//! Set-up and chores of the workspace, started as `cargo xtask`.
//!
//! Two commands are all that a newcomer needs: `cargo xtask test` and `cargo xtask compare`. Both set up what is
//! missing first (see `setup`), and then start cargo. This package depends on no other of the workspace, because it must
//! build where libtorch is not yet there. What it says goes to standard error: standard output belongs to what it runs.

mod bundle;
mod cargo;
mod error;
mod host;
mod libtorch;
mod oracles;
mod pins;
mod pip;
mod setup;
#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests;
mod wheel;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;
use crate::host::Host;
use crate::libtorch::{Flavor, Source};
use crate::setup::Bundles;

/// Set-up and chores of the Ferrotune workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Fetch libtorch into .libtorch, the sentence encoder into .models and the compiler of CUDA kernels into .nvrtc, unless they
    /// are there.
    ///
    /// Set LIBTORCH to the absolute path of a libtorch 2.11.0 of your own to use that one; nothing is fetched for it.
    Setup {
        /// Fetch the CUDA libraries too: 2.5 GB to download, 3.8 GB kept, 6.6 GB while it is made.
        #[arg(long)]
        cuda: bool,
    },
    /// Set up if needed, then run every test of the workspace.
    Test {
        /// Further arguments for `cargo test --workspace`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Set up if needed, then run the study (the example `compare`) with these arguments; `--help` shows the example's.
    #[command(disable_help_flag = true)]
    Compare {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Set up if needed, then build and run the sample crate outside of the workspace that depends on the facade.
    Downstream,
    /// Make the Python environment of reference libraries (crates/xtask/oracles.txt) and print its interpreter.
    Oracles {
        /// Where it goes.
        #[arg(long, default_value = "target/oracles")]
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().chore) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<ExitCode> {
    let root = root();
    let host = Host::from_env();
    if let Chore::Oracles { folder } = &chore {
        // Joining an absolute path gives that path.
        let python = oracles::make(&root, &host, &root.join(folder))?;
        eprintln!("oracles: {}", python.display());
        return Ok(ExitCode::SUCCESS);
    }
    let flavor = if matches!(chore, Chore::Setup { cuda: true }) { Flavor::Cuda } else { Flavor::Cpu };
    let source = Source::from_env(&root)?;
    setup::run(&root, &host, &source, flavor, Bundles::PINNED)?;
    let status = match chore {
        Chore::Setup { .. } | Chore::Oracles { .. } => return Ok(ExitCode::SUCCESS),
        Chore::Test { arguments } => cargo::test(&root, &arguments)?,
        Chore::Compare { arguments } => cargo::compare(&root, &arguments)?,
        Chore::Downstream => {
            let libtorch = match source {
                Source::Own(folder) => folder,
                Source::Workspace => root.join(".libtorch"),
            };
            cargo::downstream(&root, &libtorch)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    // A program ended by a signal has no code.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// The workspace's root: cargo names this package's folder when it starts it.
fn root() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.ancestors().nth(2).map_or_else(|| package.clone(), Path::to_owned)
}

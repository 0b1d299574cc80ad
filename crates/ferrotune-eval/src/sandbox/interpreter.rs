//! The interpreter, and the user that it runs as.

use std::{
    env,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::{Error, Result};

/// Users and groups that own nothing. Linux answers with this number for every user that a namespace does not know.
const NOBODY: u32 = 65_534;

/// The oldest Python whose grammar HumanEval's prompts and this module's own files are written in.
const OLDEST: (u32, u32) = (3, 8);

/// Where programs are looked for after `PATH`.
const USUAL_FOLDERS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];

/// Says what an interpreter is, as it sees itself.
const QUESTION: &str = "import json, os, platform, sys; print(json.dumps({\
    'executable': os.path.realpath(sys.executable), 'prefixes': [sys.base_prefix, sys.base_exec_prefix], \
    'version': platform.python_implementation() + ' ' + platform.python_version(), \
    'release': sys.version_info[:2]}))";

/// A Python interpreter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Python {
    /// The program itself, links followed.
    pub executable: PathBuf,
    /// Its version, such as `CPython 3.11.2`.
    pub version: String,
    /// The folders that its library is in.
    pub(super) prefixes: Vec<PathBuf>,
    release: (u32, u32),
}

/// The user and group that untrusted programs, and all that leads to them, run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) user: u32,
    /// Whether the caller is somebody else.
    changes: bool,
}

impl Identity {
    /// The caller, or nobody if the caller is root.
    pub(super) fn unprivileged() -> Self {
        let caller = rustix::process::geteuid();
        if caller.is_root() {
            Self { user: NOBODY, changes: true }
        } else {
            Self { user: caller.as_raw(), changes: false }
        }
    }

    /// A command that runs as this user, in a process group of its own, in `/`, with nothing of the environment.
    pub(super) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // The one variable makes the order of sets the same in every run.
        command.env_clear().env("PYTHONHASHSEED", "0").current_dir("/").process_group(0);
        if self.changes {
            // As root, the standard library gives up all supplementary groups along with the group.
            command.gid(NOBODY).uid(NOBODY);
        }
        command
    }
}

/// The interpreters to try, in order: the one given, or all distinct ones of `PATH` and the usual folders.
pub(super) fn find(given: Option<&Path>, identity: Identity) -> Result<Vec<Python>> {
    let paths: Vec<PathBuf> = match given {
        Some(path) => vec![path.to_owned()],
        None => programs("python3"),
    };
    let mut found: Vec<Python> = Vec::new();
    let mut tried = Vec::new();
    for path in paths {
        match describe(&path, identity) {
            Ok(python) if found.contains(&python) => {}
            Ok(python) => found.push(python),
            Err(problem) => tried.push(format!("`{}` {problem}", path.display())),
        }
    }
    if found.is_empty() { Err(Error::Interpreter { tried, user: identity.user }) } else { Ok(found) }
}

/// The programs of a name in the folders of `PATH` and the usual ones, in order.
pub(super) fn programs(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(USUAL_FOLDERS.map(PathBuf::from));
    let mut found: Vec<PathBuf> = Vec::new();
    for program in folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)) {
        if program.is_file() && !found.contains(&program) {
            found.push(program);
        }
    }
    found
}

fn describe(path: &Path, identity: Identity) -> Result<Python, String> {
    let output = identity
        .command(path)
        .args(["-s", "-S", "-B", "-c", QUESTION])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot be run: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("ended with {}: {}", output.status, said.trim()));
    }
    let python: Python = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("does not answer as Python does: {error}"))?;
    if python.release < OLDEST {
        return Err(format!("is {}, expected Python {}.{} or newer", python.version, OLDEST.0, OLDEST.1));
    }
    Ok(python)
}

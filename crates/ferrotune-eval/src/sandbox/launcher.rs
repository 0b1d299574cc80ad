//! How the namespaces are made, and the exchange with what runs in them.

use std::{
    fmt,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Limits, Python,
    interpreter::{self, Identity},
};

/// Makes the namespaces where bubblewrap has not, and runs the program.
const SUPERVISOR: &str = include_str!("supervisor.py");

/// What the programs see as the one folder that they can write to.
const TEMPORARY: &str = "/tmp";

/// Files in the temporary folder at most; each takes memory that its size does not show.
const TEMPORARY_FILES: u32 = 4096;

/// Files that every program may expect. None of the devices reads or writes anything of the machine.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Where systems keep their libraries; whatever of it is a link is shown as a link.
const SYSTEM_FOLDERS: [&str; 8] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"];

/// The loader's list of libraries.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// How long making the namespaces and an interpreter's start may take on a machine that is busy with other things.
pub(super) const SET_UP: Duration = Duration::from_secs(60);

/// An answer is a short report and the kept output, which escapes can make six times as long.
const ANSWER_BYTES: u64 = 1 << 24;

/// Begins the last argument of all that runs for a process, whose number follows.
const CALLED_BY: &str = "sandbox-of-process-";

/// What makes the namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The program `bwrap`, where it is installed.
    Bubblewrap,
    /// System calls made by the interpreter, where the kernel lets ordinary users make them (Linux 5.14 or newer).
    Namespaces,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bubblewrap => "bubblewrap",
            Self::Namespaces => "namespaces",
        })
    }
}

/// The part of the file system that programs see.
#[derive(Clone, Debug)]
pub(super) struct View {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
    devices: Vec<PathBuf>,
    /// Links with where they lead.
    links: Vec<(PathBuf, PathBuf)>,
}

impl View {
    /// The system's libraries and those of an interpreter.
    pub(super) fn of(python: &Python) -> Result<Self, String> {
        let mut view =
            Self { folders: Vec::new(), files: Vec::new(), devices: Vec::new(), links: Vec::new() };
        for folder in SYSTEM_FOLDERS.map(Path::new) {
            match folder.read_link() {
                Ok(target) => view.links.push((folder.to_owned(), target)),
                Err(_) if folder.is_dir() => view.folders.push(folder.to_owned()),
                Err(_) => {}
            }
        }
        let program_folder = python.executable.parent().unwrap_or(Path::new("/")).to_owned();
        for folder in python.prefixes.iter().chain([&program_folder]) {
            if folder.parent().is_none() || folder.to_str().is_none() {
                return Err(format!(
                    "the interpreter is in `{}`, which cannot be shown by itself",
                    folder.display()
                ));
            }
            let shown = |shown: &PathBuf| folder.starts_with(shown);
            if !view.folders.iter().any(shown) && !view.links.iter().any(|(link, _)| folder.starts_with(link))
            {
                view.folders.push(folder.clone());
            }
        }
        view.files.extend([PathBuf::from(LOADER_CACHE)].into_iter().filter(|path| path.is_file()));
        view.devices.extend(DEVICES.map(PathBuf::from).into_iter().filter(|path| path.exists()));
        Ok(view)
    }

    /// The folders that are shown, which no program may write to.
    pub(super) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The same for `supervisor.py`.
    pub(super) fn request(&self, limits: &Limits) -> Value {
        json!({
            "folders": self.folders,
            "files": self.files,
            "devices": self.devices,
            "links": self.links,
            "temporary": TEMPORARY,
            "temporary_bytes": limits.temporary_bytes,
            "temporary_files": TEMPORARY_FILES,
        })
    }
}

/// A mechanism that is there.
#[derive(Clone, Debug)]
pub(super) enum Launcher {
    Bubblewrap(PathBuf),
    Namespaces,
}

impl Launcher {
    /// The launcher with its name and version, or why it is not there.
    pub(super) fn find(mechanism: Mechanism) -> Result<(Self, String), String> {
        match mechanism {
            Mechanism::Namespaces => Ok((Self::Namespaces, mechanism.to_string())),
            Mechanism::Bubblewrap => {
                let program =
                    interpreter::programs("bwrap").into_iter().next().ok_or("it is not installed")?;
                let output = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
                let output =
                    output.map_err(|error| format!("`{}` cannot be run: {error}", program.display()))?;
                Ok((Self::Bubblewrap(program), String::from_utf8_lossy(&output.stdout).trim().to_owned()))
            }
        }
    }

    /// Whether the supervisor makes the namespaces.
    pub(super) fn leaves_namespaces_to_supervisor(&self) -> bool {
        matches!(self, Self::Namespaces)
    }

    /// The command that runs the supervisor.
    pub(super) fn command(
        &self,
        python: &Python,
        view: &View,
        limits: &Limits,
        identity: Identity,
    ) -> Command {
        let mut command = match self {
            Self::Namespaces => identity.command(&python.executable),
            Self::Bubblewrap(program) => {
                let mut command = identity.command(program);
                bubblewrap_arguments(&mut command, view, limits);
                command.arg(&python.executable);
                command
            }
        };
        // Without the folders of users and sites, and without writing what was compiled. The last argument tells those
        // who list processes whose it is.
        let caller = format!("{CALLED_BY}{}", std::process::id());
        command.args(["-s", "-S", "-B", "-c", SUPERVISOR, &caller]);
        command
    }
}

fn bubblewrap_arguments(command: &mut Command, view: &View, limits: &Limits) {
    command.args(["--unshare-user", "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1"]);
    command.args(["--cap-drop", "ALL"]);
    for path in view.folders.iter().chain(&view.files) {
        command.arg("--ro-bind").args([path, path]);
    }
    for path in &view.devices {
        command.arg("--dev-bind").args([path, path]);
    }
    for (link, target) in &view.links {
        command.arg("--symlink").args([target, link]);
    }
    let bytes = limits.temporary_bytes.to_string();
    command.args(["--size", &bytes, "--tmpfs", TEMPORARY, "--remount-ro", "/", "--chdir", TEMPORARY, "--"]);
}

/// What the supervisor reports; see `supervisor.py`.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) ending: String,
    #[serde(default)]
    pub(super) exception: String,
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) errno: Option<i64>,
    #[serde(default)]
    pub(super) exit: Option<i32>,
    #[serde(default)]
    pub(super) signal: Option<i32>,
    pub(super) output: String,
}

/// Starts the command, hands it the request and reads its answer, or ends it at the deadline.
pub(super) fn ask(mut command: Command, request: &str, deadline: Instant) -> Result<Answer, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| format!("the launcher could not be started: {error}"))?;
    let mut child = Ended(child);
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take())
    else {
        return Err("the launcher has no pipes".to_owned());
    };
    let (sender, receiver) = mpsc::channel();
    let request = request.to_owned();
    // A thread, because a launcher that hangs would block both the writing and the reading. It ends with the launcher.
    thread::spawn(move || {
        // A launcher that ended early says why on its standard error.
        let _ = stdin.write_all(request.as_bytes());
        drop(stdin);
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let read = stdout.take(ANSWER_BYTES).read_to_end(&mut said);
        let read = read.and(stderr.take(ANSWER_BYTES).read_to_end(&mut complained));
        // Nobody listens any more once the deadline is over.
        let _ = sender.send(read.map(|_| (said, complained)));
    });
    match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(Ok((said, complained))) => serde_json::from_slice(&said).map_err(|_| {
            let complained = String::from_utf8_lossy(&complained);
            format!("the launcher failed: {}", complained.trim().lines().last().unwrap_or("it said nothing"))
        }),
        Ok(Err(error)) => Err(format!("the launcher's answer could not be read: {error}")),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Err("the launcher did not answer in time".to_owned())
        }
    }
}

/// A launcher that is ended and waited for in every case. Its namespaces end with it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

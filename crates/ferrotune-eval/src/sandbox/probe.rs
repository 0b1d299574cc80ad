//! Trying to get out, before anything untrusted runs.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;

use super::{Ending, Limits, Sandbox};

/// Tries each way out, and prints what it managed.
const PROBE: &str = include_str!("probe.py");

/// The probe takes a tenth of a second on an idle machine; a program's own limit may be shorter than it takes on a busy one.
const TIME: Duration = Duration::from_secs(60);

/// More than its findings take.
const FINDINGS_BYTES: usize = 1 << 16;

/// What the probe managed; see `probe.py`. Strings are names of errors, `None` is success.
#[derive(Debug, Deserialize)]
struct Findings {
    writable: Vec<String>,
    temporary: Option<String>,
    overfull: Option<String>,
    visible: Vec<String>,
    connect: Option<String>,
    outside_process: Option<String>,
    parent: u32,
    user: u32,
    capabilities: bool,
    no_new_privileges: bool,
    memory: Option<String>,
    raise_limit: Option<String>,
    environment: Vec<String>,
    descriptors: Vec<i32>,
    thread: Option<String>,
    children: u64,
    socket: Option<String>,
    new_namespace: Option<String>,
    trace: Option<String>,
    execute: Option<String>,
    /// Whether a connection arrived, whatever the probe says.
    #[serde(skip)]
    reached: bool,
}

/// A folder outside that everybody may write to, and that goes again.
struct Outside(PathBuf);

impl Outside {
    fn new() -> Result<Self, String> {
        let path = env::temp_dir().join(format!("ferrotune-probe-{:016x}", rand::random::<u64>()));
        let failed = |error| format!("`{}` cannot be made, which the probe needs: {error}", path.display());
        fs::create_dir(&path).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(failed)?;
        Ok(Self(path))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // What cannot be removed is an empty folder among temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the probe twice, with and without the filter of system calls, so that each layer is seen to hold by itself.
///
/// Returns what was tried in vain, or everything that does not hold.
pub(super) fn try_to_get_out(sandbox: &Sandbox) -> Result<Vec<&'static str>, String> {
    let without = explore(sandbox, &[])?;
    let with = explore(sandbox, &sandbox.filter)?;
    let tasks = sandbox.limits.tasks;
    let refused = |found: &Option<String>| found.as_deref() == Some("EPERM");
    let claims = [
        ("writing outside of the temporary folder", without.writable.is_empty()),
        ("writing into the temporary folder works", without.temporary.is_none()),
        ("a file beyond its limit", without.overfull.is_some()),
        ("seeing files of the machine", without.visible.is_empty()),
        ("connecting to this machine", without.connect.is_some() && !without.reached),
        ("signalling a process outside", without.outside_process.as_deref() == Some("ESRCH")),
        ("seeing any process but the supervisor", without.parent == 1),
        ("running as root", without.user != 0),
        ("having capabilities", !without.capabilities && without.no_new_privileges),
        ("memory beyond its limit", without.memory.is_some()),
        ("raising a limit", without.raise_limit.is_some()),
        ("reading the environment", without.environment.is_empty()),
        ("using open files of the caller", without.descriptors.is_empty()),
        ("starting a thread works", without.thread.is_none() && with.thread.is_none()),
        ("processes beyond their limit", without.children < tasks),
        ("a second process", with.children == 0),
        ("a socket", refused(&with.socket)),
        ("a new namespace", refused(&with.new_namespace)),
        ("tracing a process", refused(&with.trace)),
        ("another program", refused(&with.execute)),
    ];
    let broken: Vec<&str> = claims.iter().filter(|(_, holds)| !holds).map(|(claim, _)| *claim).collect();
    if !broken.is_empty() {
        return Err(format!("does not hold against: {}", broken.join(", ")));
    }
    Ok(claims.iter().map(|(claim, _)| *claim).filter(|claim| !claim.ends_with(" works")).collect())
}

fn explore(sandbox: &Sandbox, filter: &[u8]) -> Result<Findings, String> {
    let outside = Outside::new()?;
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok((listener.local_addr()?.port(), listener))
    });
    let (port, listener) = listener.map_err(|error| format!("no port for the probe: {error}"))?;
    let mut folders = vec![outside.0.as_path(), Path::new("/"), Path::new("/etc"), Path::new("/dev")];
    folders.extend(sandbox.view.folders().iter().map(PathBuf::as_path));
    let limits = Limits { wall: TIME, output_bytes: FINDINGS_BYTES, ..sandbox.limits.clone() };
    let parameters = json!({
        "folders": folders,
        "hidden": [&outside.0, Path::new("/proc/1"), Path::new("/etc/passwd"), Path::new("/home"), Path::new("/sys")],
        "port": port,
        "process": std::process::id(),
        "file_bytes": limits.file_bytes,
        "memory_bytes": limits.memory_bytes,
        "tasks": limits.tasks,
        "filtered": !filter.is_empty(),
    });
    // A JSON string is a Python string.
    let literal = json!(parameters.to_string());
    let program = format!("import json\nPARAMETERS = json.loads({literal})\n{PROBE}");
    let execution = sandbox.run_within(&limits, &program, filter)?;
    if execution.ending != Ending::Finished {
        return Err(format!("the probe ended with {:?}", execution.ending));
    }
    let mut findings: Findings = serde_json::from_str(&execution.output)
        .map_err(|error| format!("the probe's findings cannot be read: {error}: {}", execution.output))?;
    findings.reached = listener.accept().is_ok();
    Ok(findings)
}

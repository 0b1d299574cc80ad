//! A reference implementation in Python, run beside ours: one process that does an operation when it is told to.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::Value;

type AnyError = Box<dyn std::error::Error>;

/// Names the interpreter that has the reference packages.
const INTERPRETER: &str = "FERROTUNE_PYTHON";

/// A script that waits for the names of operations.
#[derive(Debug)]
pub(crate) struct Reference {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    versions: String,
}

impl Reference {
    /// Starts a script of this folder and hands it its set-up; nothing if no interpreter is named.
    pub(crate) fn start(script: &str, setup: &Value) -> Result<Option<Self>, AnyError> {
        let Some(interpreter) = std::env::var_os(INTERPRETER) else { return Ok(None) };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
        let mut child = Command::new(&interpreter)
            .arg(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{INTERPRETER}={}: {error}", interpreter.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the reference has no pipes".into());
        };
        let mut started = Self { child, input, output: BufReader::new(output), versions: String::new() };
        writeln!(started.input, "{setup}")?;
        let Value::Object(versions) = serde_json::from_str(&started.line()?)? else {
            return Err("the reference does not say its versions".into());
        };
        let versions =
            versions.iter().map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or_default()));
        started.versions = versions.collect::<Vec<_>>().join(", ");
        Ok(Some(started))
    }

    /// Packages and their versions.
    pub(crate) fn versions(&self) -> &str {
        &self.versions
    }

    /// Has an operation done once; its seconds by the reference's own clock.
    pub(crate) fn seconds(&mut self, operation: &str) -> Result<f64, AnyError> {
        writeln!(self.input, "{operation}")?;
        Ok(self.line()?.trim().parse()?)
    }

    fn line(&mut self) -> Result<String, AnyError> {
        self.input.flush()?;
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("the reference ended with {}", self.child.wait()?).into());
        }
        Ok(line)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

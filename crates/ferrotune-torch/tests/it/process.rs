//! Tests that read what the whole process holds, which the threads of other tests would disturb.

use std::{env, process::Command};

/// Set in the processes that [`alone`] starts.
const CHILD: &str = "FERROTUNE_TEST_ALONE";

/// Runs `body`, the body of the test `name`, in a process that runs no other test.
pub(crate) fn alone(name: &str, body: impl FnOnce()) {
    if env::var_os(CHILD).is_some() {
        return body();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads", "1", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // A name that matches no test would pass by doing nothing.
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name} alone: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

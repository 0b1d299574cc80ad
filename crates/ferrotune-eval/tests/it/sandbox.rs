//! Programs that try to get out, by every mechanism that this machine has. As root the same tests run once more as an
//! ordinary user.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use ferrotune_eval::{
    Error,
    sandbox::{Ending, Limits, Mechanism, Sandbox, SandboxConfig},
};

/// No test waits for a time; this only has to be short enough for programs that never end.
const SHORT: Duration = Duration::from_secs(1);

/// For programs that end by themselves, on a machine that is busy.
const LONG: Duration = Duration::from_secs(120);

/// Set in the run of these tests that an ordinary user makes.
const AS_ORDINARY_USER: &str = "FERROTUNE_TEST_AS_ORDINARY_USER";

/// With this variable set, a machine that isolates no program fails the tests, so that continuous integration cannot lose
/// them.
const REQUIRED: &str = "FERROTUNE_REQUIRE_SANDBOX";

/// An ordinary user's number; nothing belongs to it.
const ORDINARY_USER: u32 = 31_007;

fn open(mechanism: Mechanism, wall: Duration) -> Option<Sandbox> {
    let limits = Limits { wall, memory_bytes: 256 << 20, ..Limits::default() };
    match Sandbox::open(SandboxConfig { mechanism: Some(mechanism), limits, ..SandboxConfig::default() }) {
        Ok(sandbox) => {
            eprintln!("isolated by {:?}", sandbox.isolation());
            Some(sandbox)
        }
        Err(error @ (Error::Isolation { .. } | Error::Interpreter { .. })) => {
            // Which of them a machine offers differs; that it offers none is what `sandboxes` looks at.
            let _ = writeln!(std::io::stderr(), "skipped: {mechanism}: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What holds programs here, opened once: mechanisms with short and long limits.
pub(crate) fn sandboxes() -> &'static [(Sandbox, Sandbox)] {
    static SANDBOXES: OnceLock<Vec<(Sandbox, Sandbox)>> = OnceLock::new();
    SANDBOXES.get_or_init(|| {
        let opened: Vec<_> = [Mechanism::Bubblewrap, Mechanism::Namespaces]
            .into_iter()
            .filter_map(|mechanism| Some((open(mechanism, SHORT)?, open(mechanism, LONG)?)))
            .collect();
        let is_required = env::var_os(REQUIRED).is_some();
        assert!(!(opened.is_empty() && is_required), "{REQUIRED} is set, and nothing isolates programs here");
        opened
    })
}

/// Runs a program by every mechanism, and holds how it ended against a claim.
#[track_caller]
fn check(program: &str, expected: impl Fn(&Ending, &str) -> bool) {
    for (_, sandbox) in sandboxes() {
        check_in(sandbox, program, &expected);
    }
}

/// The same for programs that do not end.
#[track_caller]
fn check_endless(program: &str, expected: impl Fn(&Ending, &str) -> bool) {
    for (sandbox, _) in sandboxes() {
        check_in(sandbox, program, &expected);
    }
}

#[track_caller]
fn check_in(sandbox: &Sandbox, program: &str, expected: &impl Fn(&Ending, &str) -> bool) {
    let found = sandbox.run(program).unwrap();
    let by = &sandbox.isolation().mechanism;
    assert!(expected(&found.ending, &found.output), "{by}: {found:?} of\n{program}");
}

fn contained(ending: &Ending, word: &str) -> bool {
    matches!(ending, Ending::Contained { reason } if reason.contains(word))
}

fn raised(ending: &Ending, word: &str) -> bool {
    matches!(ending, Ending::Raised { exception } if exception.contains(word))
}

#[test]
fn a_program_that_runs_to_its_end_is_finished() {
    check(
        "import math, hashlib, re, typing\nassert math.gcd(12, 18) == 6\nprint('ja ☕')",
        |ending, output| *ending == Ending::Finished && output == "ja ☕\n",
    );
    check("assert 1 == 2", |ending, _| raised(ending, "AssertionError"));
    check("def f(:", |ending, _| raised(ending, "SyntaxError"));
    check("import sys; sys.stdout.close(); sys.stderr.close()", |ending, _| *ending == Ending::Finished);
    check("raise ValueError('why')", |ending, _| raised(ending, "ValueError: why"));
    check("input()", |ending, _| raised(ending, "EOFError"));
}

#[test]
fn an_early_end_is_no_end() {
    for early in
        ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.abort()", "import ctypes; ctypes.string_at(0)"]
    {
        let program = format!("import os\nprint('passed', flush=True)\n{early}\nassert False");
        check(&program, |ending, output| matches!(ending, Ending::Quit { .. }) && output == "passed\n");
    }
    check("import sys; sys.exit(0)", |ending, _| raised(ending, "SystemExit: 0"));
    check("raise SystemExit", |ending, _| raised(ending, "SystemExit"));
    check("raise KeyboardInterrupt", |ending, _| raised(ending, "KeyboardInterrupt"));
    check("exit()", |ending, _| raised(ending, "NameError"));
}

#[test]
fn an_end_cannot_be_claimed_without_the_nonce() {
    let claim = r#"
import os
for descriptor in range(64):
    try:
        os.write(descriptor, b'{"ending": "finished", "nonce": "0", "output": ""}')
    except OSError:
        pass
os._exit(0)
"#;
    check(claim, |ending, _| matches!(ending, Ending::Quit { .. }));
    // A second claim does not make up for the first.
    let twice = "import os\nos.write(3, b'{}')\nraise ValueError('after')";
    check(twice, |ending, _| *ending != Ending::Finished);
}

#[test]
fn replacing_what_the_harness_uses_does_not_help() {
    let sabotage = "
import builtins, json, os, signal, sys
os._exit = os.write = json.dumps = json.loads = print
builtins.exit = builtins.quit = builtins.exec = builtins.compile = len
sys.exit = sys.excepthook = print
sys.stdout = sys.stderr = None
assert False, 'still told'
";
    check(sabotage, |ending, _| matches!(ending, Ending::Raised { .. } | Ending::Quit { .. }));
    check("import builtins\nbuiltins.BaseException = KeyError\nassert False", |ending, _| {
        matches!(ending, Ending::Quit { .. })
    });
    check("class E(Exception):\n    def __str__(self): raise E\nraise E", |ending, _| {
        matches!(ending, Ending::Quit { .. })
    });
    check("raise Exception('\\udfff' * 10**7)", |ending, _| raised(ending, "Exception: ??"));
    check("import os\nraise OSError(10**30, 'x')", |ending, _| raised(ending, "OSError"));
    check_endless(
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
        |ending, _| *ending == Ending::TimedOut,
    );
}

#[test]
fn no_second_process_can_be_made() {
    check("import os\nwhile True: os.fork()", |ending, _| contained(ending, "PermissionError"));
    check("import subprocess; subprocess.run(['/bin/true'])", |ending, _| {
        contained(ending, "PermissionError")
    });
    check("import os; os.execv('/bin/true', ['true'])", |ending, _| contained(ending, "PermissionError"));
    check("import os; os.posix_spawn('/bin/true', ['true'], {})", |ending, _| {
        contained(ending, "PermissionError")
    });
    check("import multiprocessing as m; m.get_context('fork').Process(target=print).start()", |ending, _| {
        contained(ending, "PermissionError")
    });
    let daemon = "
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: pass
    os._exit(0)
";
    check(daemon, |ending, _| contained(ending, "PermissionError"));
    let stubborn = "
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
";
    check_endless(stubborn, |ending, _| *ending == Ending::TimedOut);
    let by_the_c_library = "
import ctypes
c = ctypes.CDLL(None, use_errno=True)
assert c.fork() == -1 and c.vfork() == -1 and c.unshare(0x10000000) == -1
assert c.ptrace(16, 1, None, None) == -1 and c.chroot(b'.') == -1
";
    check(by_the_c_library, |ending, _| *ending == Ending::Finished);
}

#[test]
fn threads_are_allowed_and_counted() {
    let few = "import threading\nt = [threading.Thread(target=print) for _ in range(4)]\n\
               [x.start() for x in t]\n[x.join() for x in t]";
    check(few, |ending, _| *ending == Ending::Finished);
    let many = "import threading\ne = threading.Event()\nthreading.stack_size(65536)\n\
                while True: threading.Thread(target=e.wait, daemon=True).start()";
    check(many, |ending, _| contained(ending, "can't start new thread"));
    // What still runs when the program has ended does not keep it alive.
    check(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(10**6,)).start()",
        |ending, _| *ending == Ending::Finished,
    );
}

#[test]
fn nothing_outside_can_be_written() {
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
    let path = outside.path().join("escaped");
    let refused = |ending: &Ending| {
        contained(ending, "Read-only")
            || contained(ending, "Permission")
            || raised(ending, "FileNotFoundError")
    };
    check(&format!("open({path:?}, 'w').write('x')"), |ending, _| refused(ending));
    assert!(!path.exists());
    for place in ["'/x'", "'/etc/x'", "'/usr/x'", "'/dev/x'", "'/dev/shm/x'", "'/var/tmp/x'", "'/proc/x'"] {
        check(&format!("open({place}, 'w')"), |ending, _| refused(ending));
    }
    check("import os; open(os.__file__, 'a')", |ending, _| refused(ending));
    check("import sys; open(sys.executable, 'r+b')", |ending, _| refused(ending));
    check("import os; os.remove(os.__file__)", |ending, _| refused(ending));
    check("import os; os.chmod(os.__file__, 0o777)", |ending, _| refused(ending));
    check("import os; os.mkdir('/usr/lib/escaped')", |ending, _| refused(ending));
}

#[test]
fn the_temporary_folder_begins_empty_and_leaves_nothing() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let program = "
import os, tempfile
assert os.listdir('.') == [], os.listdir('.')
open('left-behind-by-the-sandbox', 'w').write('x')
assert open('left-behind-by-the-sandbox').read() == 'x'
with tempfile.NamedTemporaryFile() as file:
    file.write(b'x')
";
    for _ in 0..2 {
        check(program, |ending, _| *ending == Ending::Finished);
    }
    assert!(!env::temp_dir().join("left-behind-by-the-sandbox").exists());
    assert_eq!(mounts(), before);
    check("open('large', 'wb').write(bytes(17 << 20))\nopen('more', 'wb').close()", |ending, _| {
        contained(ending, "File too large") || *ending == Ending::Finished
    });
    let fill =
        "i = 0\nwhile True:\n    with open(str(i), 'wb') as file: file.write(bytes(8 << 20))\n    i += 1";
    check(fill, |ending, _| contained(ending, "No space left"));
    check("files = []\nwhile True: files.append(open('f', 'w'))", |ending, _| {
        contained(ending, "Too many open")
    });
}

#[test]
fn there_is_no_network() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1)");
    check(&connect, |ending, _| contained(ending, "PermissionError"));
    check("import socket; socket.socket(socket.AF_UNIX)", |ending, _| contained(ending, "PermissionError"));
    check("import urllib.request as u; u.urlopen('http://192.0.2.1')", |ending, _| {
        raised(ending, "URLError")
    });
    assert!(listener.accept().is_err(), "a connection came out of the sandbox");
}

#[test]
fn memory_is_bounded() {
    for hungry in [
        "x = bytearray(1 << 40)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "x = 'a'\nwhile True: x += x",
        "import mmap; mmap.mmap(-1, 1 << 34)",
    ] {
        check(hungry, |ending, _| contained(ending, "Memory") || contained(ending, "memory"));
    }
    // Memory that the address space does not count.
    check("import os; os.memfd_create('x')", |ending, _| contained(ending, "PermissionError"));
    check("def f(): f()\nf()", |ending, _| raised(ending, "RecursionError"));
}

#[test]
fn the_supervisor_is_deaf() {
    let every_signal = "
import os, signal
for number in range(1, 65):
    os.kill(os.getppid(), number)
    os.kill(1, number)
assert os.getppid() == 1, 'the supervisor is gone'
raise ValueError('alive')
";
    check(every_signal, |ending, _| raised(ending, "alive"));
    check("import os; os.kill(-1, 9)", |ending, _| contained(ending, "ProcessLookupError"));
    check("import os; os.killpg(0, 9)", |ending, _| matches!(ending, Ending::Quit { .. }));
    let outside = std::process::id();
    check(&format!("import os; os.kill({outside}, 9)"), |ending, _| contained(ending, "ProcessLookupError"));
    check("import os; os.close(3); os.closerange(0, 100)", |ending, _| *ending != Ending::Finished);
}

#[test]
fn nothing_of_the_caller_can_be_read() {
    check("import os; assert not os.environ, dict(os.environ)", |ending, _| *ending == Ending::Finished);
    for path in
        ["/proc/1/environ", "/proc/self/environ", "/etc/passwd", "/root", "/home", "/sys/kernel", "/run"]
    {
        check(&format!("import os; os.stat('{path}')"), |ending, _| raised(ending, "FileNotFoundError"));
    }
    let own = env::current_exe().unwrap();
    check(&format!("open({own:?})"), |ending, _| raised(ending, "FileNotFoundError"));
    let descriptors = "
import os
for descriptor in range(4, 4096):
    try:
        os.fstat(descriptor)
    except OSError:
        continue
    raise ValueError(descriptor)
";
    check(descriptors, |ending, _| *ending == Ending::Finished);
}

#[test]
fn time_is_bounded() {
    for endless in [
        "import time; time.sleep(10**6)",
        "while True: pass",
        "import re; re.match('(a+)+$', 'a' * 64 + 'b')",
        "import signal, time\nfor s in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:\n    \
         signal.signal(s, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ] {
        check_endless(endless, |ending, _| *ending == Ending::TimedOut);
    }
}

#[test]
fn output_is_capped() {
    let cap = Limits::default().output_bytes;
    check("print('x' * 10**7)", |ending, output| *ending == Ending::Finished && output.len() == cap);
    check_endless("import os\nwhile True: os.write(3, b'x' * 4096)", |ending, _| {
        matches!(ending, Ending::TimedOut | Ending::Contained { .. })
    });
    for (short, long) in sandboxes() {
        // A busy machine may not get to so much output in the short time.
        let program = "while True: print('x' * 10**5)";
        let is_early = short.run(program).unwrap().output.len() < cap;
        check_in(if is_early { long } else { short }, program, &|ending, output| {
            *ending == Ending::TimedOut && output.len() == cap
        });
    }
    check("import os; os.write(2, b'\\xff\\x00\\xe2\\x82')", |ending, output| {
        *ending == Ending::Finished && output.starts_with('\u{fffd}')
    });
}

#[test]
fn sets_have_the_same_order_in_every_run() {
    for (_, sandbox) in sandboxes() {
        let order = || sandbox.run("print({'red', 'green', 'blue', 'white'})").unwrap().output;
        assert_eq!(order(), order());
    }
}

#[test]
fn an_interpreter_that_is_none_is_refused() {
    for (path, word) in [("/bin/true", "does not answer"), ("/nowhere/python3", "cannot be run")] {
        let config = SandboxConfig { python: Some(path.into()), ..SandboxConfig::default() };
        let error = Sandbox::open(config).unwrap_err();
        assert!(matches!(error, Error::Interpreter { .. }) && error.to_string().contains(word), "{error}");
    }
    let limits = Limits { wall: Duration::ZERO, ..Limits::default() };
    let refused = Sandbox::open(SandboxConfig { limits, ..SandboxConfig::default() });
    assert!(matches!(refused.unwrap_err(), Error::Setting { option: "limits.wall", .. }));
}

/// This test program again, in a process of its own that runs the named tests, as another user if one is given.
fn again(tests: &[&str], user: Option<u32>) -> (tempfile::TempDir, Command) {
    // Where every user can read it.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("tests");
    // Copied by another process: a child that another test's thread forks here meanwhile would inherit the descriptor that
    // writes the copy, and the kernel runs no file that is open for writing.
    let copied = Command::new("cp").arg(env::current_exe().unwrap()).arg(&program).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new(program);
    command.args(tests).args(["--nocapture", "--test-threads", "2"]).current_dir("/");
    if let Some(user) = user {
        command.uid(user).gid(user).env("HOME", "/");
    }
    (folder, command)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Processes whose last argument says that they run for a process.
fn processes_of(caller: u32) -> Vec<String> {
    let mark = format!("sandbox-of-process-{caller}\0");
    let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let line = |path: std::path::PathBuf| fs::read_to_string(path.join("cmdline")).ok();
    entries.filter_map(line).filter(|line| line.ends_with(&mark)).collect()
}

#[test]
fn an_ordinary_user_is_held_the_same_way() {
    if env::var_os(AS_ORDINARY_USER).is_some() {
        return;
    }
    if !is_root() {
        let _ = writeln!(std::io::stderr(), "skipped: these tests run as an ordinary user already");
        return;
    }
    let (_folder, mut command) = again(&["sandbox::", "human_eval::"], Some(ORDINARY_USER));
    // As a key of a judge would stand there.
    let output = command.env(AS_ORDINARY_USER, "1").env("SECRET_KEY", "of-the-caller").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(said.contains(&format!("user: {ORDINARY_USER}")), !sandboxes().is_empty(), "{said}");
}

/// Said once the probes of [`an_endless_program_for_another_test`] are over, which make processes of their own.
const OPENED: &str = "the sandboxes are open";

/// Runs for [`nothing_is_left_when_the_caller_is_killed`], which ends it.
#[test]
fn an_endless_program_for_another_test() {
    if env::var_os("FERROTUNE_TEST_ENDLESS").is_none() {
        return;
    }
    let opened = sandboxes();
    eprintln!("{OPENED}");
    std::thread::scope(|scope| {
        for (_, sandbox) in opened {
            scope.spawn(|| sandbox.run("while True: pass"));
        }
    });
}

#[test]
fn nothing_is_left_when_the_caller_is_killed() {
    if sandboxes().is_empty() {
        return;
    }
    let (_folder, mut command) = again(&["sandbox::an_endless_program_for_another_test", "--exact"], None);
    let mut caller = command.env("FERROTUNE_TEST_ENDLESS", "1").stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(caller.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains(OPENED)), "the caller ended early");
    let process = caller.id();
    // The deadline only keeps a test that fails from waiting for ever.
    let deadline = Instant::now() + LONG;
    let until = |wanted: &dyn Fn(usize) -> bool| {
        while !wanted(processes_of(process).len()) {
            assert!(Instant::now() < deadline, "{:?}", processes_of(process).len());
            std::thread::yield_now();
        }
    };
    // Launcher, supervisor and worker of every mechanism.
    until(&|processes| processes >= 3 * sandboxes().len());
    caller.kill().unwrap();
    caller.wait().unwrap();
    until(&|processes| processes == 0);
}

#[test]
fn nothing_is_left_after_a_run() {
    if env::var_os("FERROTUNE_TEST_ALONE").is_some() {
        for (sandbox, _) in sandboxes() {
            for program in ["pass", "while True: pass", "import os\nos.fork()", "import os\nos.killpg(0, 9)"]
            {
                sandbox.run(program).unwrap();
                assert_eq!(processes_of(std::process::id()), Vec::<String>::new(), "after {program}");
            }
        }
    } else {
        let (_folder, mut command) = again(&["sandbox::nothing_is_left_after_a_run", "--exact"], None);
        let output = command.env("FERROTUNE_TEST_ALONE", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A `bwrap` that makes no namespaces and runs what it is asked to run.
const IMPOSTOR: &str = "#!/bin/sh\n\
    [ \"$1\" = --version ] && echo impostor && exit\n\
    while [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"\n";

#[test]
fn isolation_that_does_not_hold_is_refused() {
    if env::var_os("FERROTUNE_TEST_IMPOSTOR").is_some() {
        let config = SandboxConfig { mechanism: Some(Mechanism::Bubblewrap), ..SandboxConfig::default() };
        let error = Sandbox::open(config).unwrap_err();
        assert!(matches!(error, Error::Isolation { .. }), "{error}");
        let message = error.to_string();
        for hole in [
            "seeing files",
            "connecting to this machine",
            "signalling a process outside",
            "install bubblewrap",
        ] {
            assert!(message.contains(hole), "{message} lacks {hole}");
        }
        return;
    }
    let (folder, mut command) = again(&["sandbox::isolation_that_does_not_hold_is_refused", "--exact"], None);
    let impostor = folder.path().join("bwrap");
    fs::write(&impostor, IMPOSTOR).unwrap();
    fs::set_permissions(&impostor, fs::Permissions::from_mode(0o755)).unwrap();
    let output = command.env("FERROTUNE_TEST_IMPOSTOR", "1").env("PATH", folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

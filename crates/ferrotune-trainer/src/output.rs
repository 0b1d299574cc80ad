//! The output folder of a run: what is in it, what may be overwritten, and names that appear only when complete.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// The loss history of a run, in its output folder and in each checkpoint.
pub(crate) const TRAINER_STATE: &str = "trainer_state.json";

/// What the names of folders begin with that are not complete, or no longer.
const TEMPORARY: &str = ".incomplete-";

const CHECKPOINT: &str = "checkpoint-";

/// What to do with a run that the output folder holds already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Refuse it.
    #[default]
    Refuse,
    /// Go on with it.
    Resume,
    /// Remove its checkpoints and history and begin anew.
    Force,
}

/// Where a run begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// At its first step.
    #[default]
    No,
    /// After its newest checkpoint, or at its first step if there is none yet.
    Newest,
}

/// Makes the output folder ready for a run, and says where the run begins.
///
/// Leftovers of writes that were interrupted are removed. With [`Existing::Force`] the former run's checkpoints and
/// `trainer_state.json` are removed, and nothing else: what else the folder holds is the caller's to overwrite. The
/// listeners of this crate cut their logs back to the step at which the run begins.
///
/// # Errors
/// [`Error::OutputExists`] if the folder holds anything and [`Existing::Refuse`] was asked for; [`Error::Io`].
pub fn prepare_output(folder: &Path, existing: Existing) -> Result<Resume> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    remove_incomplete(folder)?;
    match existing {
        Existing::Resume => return Ok(Resume::Newest),
        Existing::Refuse => {
            if let Some(found) = names(folder)?.into_iter().next() {
                return Err(Error::OutputExists { folder: folder.to_owned(), found });
            }
        }
        Existing::Force => {
            for (_, path) in checkpoints(folder)? {
                remove_folder(&path)?;
            }
            match fs::remove_file(folder.join(TRAINER_STATE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &folder.join(TRAINER_STATE))(error));
                }
                _ => {}
            }
        }
    }
    Ok(Resume::No)
}

/// The complete checkpoints of a run with their steps, oldest first.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be listed; a folder that does not exist has none.
pub fn checkpoints(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found: Vec<_> = names(folder)?
        .into_iter()
        .filter_map(|name| Some((name.strip_prefix(CHECKPOINT)?.parse().ok()?, folder.join(&name))))
        .collect();
    found.sort();
    Ok(found)
}

/// Removes what interrupted writes and removals have left.
pub(crate) fn remove_incomplete(folder: &Path) -> Result<()> {
    for name in names(folder)?.into_iter().filter(|name| name.starts_with(TEMPORARY)) {
        let path = folder.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// Writes the checkpoint folder of a step: `fill` puts files into a temporary folder, which is put on disk and renamed.
///
/// If anything fails, the temporary folder is removed and the output folder is what it was before.
pub(crate) fn write_checkpoint(
    folder: &Path,
    step: u64,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let name = format!("{CHECKPOINT}{step}");
    let (temporary, complete) = (folder.join(format!("{TEMPORARY}{name}")), folder.join(&name));
    fs::create_dir_all(&temporary).map_err(Error::io("create", &temporary))?;
    let written = fill(&temporary)
        .and_then(|()| sync_all(&temporary))
        .and_then(|()| fs::rename(&temporary, &complete).map_err(Error::io("rename", &temporary)))
        .and_then(|()| sync(folder));
    match written {
        Ok(()) => Ok(complete),
        Err(error) => {
            // The first error is the one to report; what stays behind, the next start removes.
            let _ = fs::remove_dir_all(&temporary);
            Err(error)
        }
    }
}

/// Removes the oldest checkpoints beyond `limit`, never the newest.
pub(crate) fn rotate(folder: &Path, limit: u64) -> Result<()> {
    let found = checkpoints(folder)?;
    let surplus = found.len().saturating_sub(limit.max(1) as usize);
    found[..surplus].iter().try_for_each(|(_, path)| remove_folder(path))
}

/// Writes a file of the output folder under a temporary name that is then renamed.
pub(crate) fn write_file(path: &Path, contents: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!("{TEMPORARY}{name}"));
    let written = fs::write(&temporary, contents)
        .and_then(|()| File::open(&temporary)?.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()));
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        Error::io("write", path)(source)
    })
}

/// The size of everything in a folder, in bytes.
pub(crate) fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    walk(folder, &mut |path| {
        bytes += fs::metadata(path).map_err(Error::io("read", path))?.len();
        Ok(())
    })?;
    Ok(bytes)
}

/// Renamed first, so that an interrupted removal leaves no folder that looks complete.
fn remove_folder(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let doomed = path.with_file_name(format!("{TEMPORARY}{name}"));
    fs::rename(path, &doomed).map_err(Error::io("remove", path))?;
    fs::remove_dir_all(&doomed).map_err(Error::io("remove", &doomed))
}

/// Puts every file and folder below a folder on disk.
fn sync_all(folder: &Path) -> Result<()> {
    walk(folder, &mut |path| sync(path))?;
    sync(folder)
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("write", path))
}

/// Calls `each` for every file and folder below a folder, contents first.
fn walk(folder: &Path, each: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    for name in names(folder)? {
        let path = folder.join(name);
        if path.is_dir() {
            walk(&path, each)?;
        }
        each(&path)?;
    }
    Ok(())
}

/// The names in a folder, sorted; none if it does not exist.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("read", folder))?,
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(Error::io("read", folder))?;
    names.sort();
    Ok(names)
}

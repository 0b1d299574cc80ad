//! Files that are there completely or not at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::ReportError;

/// Writes all files under temporary names, and renames them only when every one is on disk.
///
/// A reader never sees half a file; if anything fails, the temporary files are removed and files of an earlier
/// report that were not yet replaced stay as they were.
pub(super) fn write_all(folder: &Path, files: &[&(&str, String)]) -> Result<Vec<PathBuf>, ReportError> {
    fs::create_dir_all(folder).map_err(|source| ReportError::Io { path: folder.to_owned(), source })?;
    let targets: Vec<PathBuf> = files.iter().map(|(name, _)| folder.join(name)).collect();
    if let Some(path) = targets.iter().find(|path| path.is_dir()) {
        return Err(ReportError::InTheWay { path: path.clone() });
    }
    let mut partial = Partial(Vec::new());
    for (name, text) in files.iter().copied() {
        // One name for all processes, so that what a killed one left is replaced.
        let path = folder.join(format!(".{name}.partial"));
        partial.0.push(path.clone());
        write_synced(&path, text).map_err(|source| ReportError::Io { path, source })?;
    }
    for (from, to) in partial.0.iter().zip(&targets) {
        fs::rename(from, to).map_err(|source| ReportError::Io { path: to.clone(), source })?;
    }
    Ok(targets)
}

fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Removes what is left under temporary names, also on the way out of an error.
struct Partial(Vec<PathBuf>);

impl Drop for Partial {
    fn drop(&mut self) {
        for path in &self.0 {
            // After a rename there is nothing under this name, which is as it should be.
            let _ = fs::remove_file(path);
        }
    }
}

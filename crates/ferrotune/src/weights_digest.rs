//! What records call a model's weights by.

use std::path::Path;

use ferrotune_core::digest;

use crate::{Error, Result};

/// One digest for all weight files of a model folder, in the order of their names.
///
/// # Errors
/// [`Error::Io`].
pub fn weights_digest(folder: &Path) -> Result<String> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .map_err(io)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    files.sort();
    let digests =
        files.iter().map(|path| digest::of_file(path)).collect::<std::io::Result<Vec<_>>>().map_err(io)?;
    Ok(match digests.as_slice() {
        [single] => single.clone(),
        several => digest::of_bytes(several.concat().as_bytes()),
    })
}

//! Compiled kernels on disk, so that only the first run on a kind of device compiles them.

use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest as _, Sha256};

/// A folder of compiled kernels. An entry's name is the digest of all that it was made from; an entry begins with the
/// digest of the rest, so that a damaged one is made again.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
}

/// Bytes of a digest.
const DIGEST: usize = 32;

impl Cache {
    /// The user's: `ferrotune/kernels` in `XDG_CACHE_HOME`, or in `.cache` of the home folder. Without either, none.
    #[must_use]
    pub fn of_user() -> Self {
        let named = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
        Self { folder: base.map(|base| base.join("ferrotune/kernels")) }
    }

    /// A folder of the caller's, which need not exist.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { folder: Some(folder.to_owned()) }
    }

    /// No cache: everything is made anew.
    #[must_use]
    pub fn none() -> Self {
        Self { folder: None }
    }

    /// The entry of a key, or what `make` gives, which is then kept.
    ///
    /// A folder that cannot be written costs the next run a compilation and is no error.
    ///
    /// # Errors
    ///
    /// Those of `make`.
    pub fn get_or_make<E>(
        &self,
        key: &[&[u8]],
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let Some(folder) = &self.folder else { return make() };
        let path = folder.join(format!("{}.bin", name(key)));
        if let Some(content) = read(&path) {
            return Ok(content);
        }
        let content = make()?;
        if let Err(error) = write(folder, &path, &content) {
            tracing::debug!("compiled kernels are not kept in `{}`: {error}", folder.display());
        }
        Ok(content)
    }
}

/// The digest of the parts, each preceded by its length, so that no two keys run together.
fn name(key: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in key {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut file = fs::read(path).ok()?;
    let digest = file.first_chunk::<DIGEST>().copied()?;
    let content = file.split_off(DIGEST);
    (Sha256::digest(&content)[..] == digest).then_some(content)
}

/// Under a name of its own, then renamed: a reader sees an old entry, none, or the whole one.
fn write(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(folder)?;
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let result = File::create_new(&temporary)
        .and_then(|mut file| {
            file.write_all(&Sha256::digest(content))?;
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // Already on the way to reporting the failure.
        let _ = fs::remove_file(&temporary);
    }
    result
}

//! SHA-256 of files and bytes as lower-case hexadecimal: how caches and reports name what they were made from.

use std::{fs::File, io, io::Read as _, path::Path};

use sha2::{Digest as _, Sha256};

/// The digest of a byte string.
///
/// ```
/// assert!(ferrotune_core::digest::of_bytes(b"").starts_with("e3b0c44298fc1c14"));
/// ```
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The digest of a file, read in pieces of one mebibyte.
///
/// # Errors
/// Whatever opening or reading the file gives.
pub fn of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

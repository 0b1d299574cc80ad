//! Where the tests' inputs lie: committed golden files, which must be there, and shared data, which may be
//! absent.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use ferrotune_data::Tokenizer;
use serde::de::DeserializeOwned;

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(crate) fn golden_json<T: DeserializeOwned>(name: &str) -> T {
    let path = golden(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()))
}

/// The LLaMA-shaped tokenizer made from our own text.
pub(crate) fn sentencepiece() -> Tokenizer {
    Tokenizer::from_folder(&golden("sentencepiece")).unwrap()
}

/// The tokenizer whose pieces hold line breaks.
pub(crate) fn byte_level() -> Tokenizer {
    Tokenizer::from_folder(&golden("byte_level")).unwrap()
}

/// With this variable set, data that are absent fail the tests that need them.
const REQUIRED: &str = "FERROTUNE_REQUIRE_SHARED";

/// The shared data folder: `FERROTUNE_SHARED`, else `../shared` beside the workspace.
pub(crate) fn shared(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("FERROTUNE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from)
        .join("data");
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, and {} is absent", folder.display());
    let _ = writeln!(std::io::stderr(), "skipped: {test}, no shared data at {}", folder.display());
    None
}

/// A file in a fresh folder; the folder lives as long as the returned guard.
pub(crate) fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

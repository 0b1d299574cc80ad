//! The golden folder, and how its numbers are compared.

use std::path::{Path, PathBuf};

use ferrotune::nn::{WeightSource as _, checkpoint::Checkpoint};
use serde_json::Value;
use tch::{Kind, Tensor};

/// The golden folder of this package.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A JSON file of the golden folder.
pub(crate) fn json(path: &str) -> Value {
    let path = folder().join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The tensors of a golden file.
pub(crate) struct Tensors(Checkpoint);

impl Tensors {
    pub(crate) fn open(path: &str) -> Self {
        Self(Checkpoint::open_file(&folder().join(path)).unwrap())
    }

    pub(crate) fn get(&self, name: &str) -> Tensor {
        self.0.read(name).unwrap()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.names()
    }
}

/// The largest difference over the largest expected value.
pub(crate) fn relative_to_largest(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    ((&found - &expected).abs().max() / expected.abs().max()).double_value(&[])
}

/// The Euclidean norm of the difference over that of the expected; the plain norm where nothing is expected.
pub(crate) fn relative_to_norm(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let (difference, norm) =
        ((&found - &expected).norm().double_value(&[]), expected.norm().double_value(&[]));
    if norm == 0.0 { difference } else { difference / norm }
}

/// A copy of a golden model's folder with another of its configurations.
pub(crate) fn model_folder(model: &str, config: Option<&str>) -> (Option<tempfile::TempDir>, PathBuf) {
    let source = folder().join("models").join(model);
    let Some(config) = config.filter(|&config| config != "config.json") else { return (None, source) };
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    std::fs::copy(source.join(config), copy.path().join("config.json")).unwrap();
    let path = copy.path().to_owned();
    (Some(copy), path)
}

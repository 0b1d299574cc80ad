//! What of a model's state is done, so that a study that was interrupted goes on behind it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use ferrotune_core::digest;
use ferrotune_nn::checkpoint::write_whole;
use ferrotune_trainer::{Finished, TrainerState, TrainingSummary};
use serde::{Deserialize, Serialize};

use crate::{Error, Part, Result};

/// What is done of one state, as `done.json` in its folder says; written anew whenever something more is.
///
/// Each entry names what it was made from: a [`Part`] its per-sample file, the fine-tuning its adapter. What is not as it was
/// counts as not done.
#[derive(Debug)]
pub(super) struct Done {
    folder: PathBuf,
    file: File,
}

/// The contents of `done.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// The base's loss on the validation samples.
    validation_loss: Option<f64>,
    /// The fine-tuning, once its adapter is saved. Its history is in `trainer_state.json`.
    training: Option<Training>,
    /// What was measured.
    parts: BTreeMap<String, Part>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Training {
    summary: TrainingSummary,
    adapter_sha256: String,
    /// Of its `adapter_config.json`, which scales the weights.
    adapter_config_sha256: String,
}

/// A fine-tuning that is over.
#[derive(Debug)]
pub(super) struct Trained {
    pub(super) summary: TrainingSummary,
    pub(super) history: TrainerState,
    pub(super) adapter_sha256: String,
}

const DONE: &str = "done.json";

/// The adapter's folder in that of its state.
pub(super) const ADAPTER: &str = "adapter";

const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

impl Done {
    /// Whether a state's folder says what is done of it.
    pub(super) fn is_in(folder: &Path) -> bool {
        folder.join(DONE).is_file()
    }

    /// What is done in a folder, which is made if it is missing.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
        let path = folder.join(DONE);
        let file = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::default(),
            Err(source) => return Err(Error::Io { path, source }),
            Ok(text) => serde_json::from_str(&text).map_err(|error| Error::NotResumable {
                folder: folder.to_owned(),
                reason: format!(
                    "its `{DONE}` is damaged ({error}); without that file all of this state is done again"
                ),
            })?,
        };
        Ok(Self { folder: folder.to_owned(), file })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The base's loss on the validation samples.
    pub(super) fn validation_loss(&self) -> Option<f64> {
        self.file.validation_loss
    }

    /// What was measured.
    pub(super) fn parts(&self) -> &BTreeMap<String, Part> {
        &self.file.parts
    }

    /// The fine-tuning, if its adapter is as it was saved.
    pub(super) fn trained(&self) -> Result<Option<Trained>> {
        let Some(Training { summary, adapter_sha256, adapter_config_sha256 }) = &self.file.training else {
            return Ok(None);
        };
        let history = self.folder.join("trainer_state.json");
        let is_as_it_was = |file: &str, sha256: &String| -> Result<bool> {
            Ok(self.adapter(file).is_file() && self.digest_of_adapter(file)? == *sha256)
        };
        if !history.is_file()
            || !is_as_it_was(WEIGHTS, adapter_sha256)?
            || !is_as_it_was(CONFIG, adapter_config_sha256)?
        {
            return Ok(None);
        }
        let (summary, adapter_sha256) = (summary.clone(), adapter_sha256.clone());
        Ok(Some(Trained { summary, history: TrainerState::load(&history)?, adapter_sha256 }))
    }

    pub(super) fn keep_validation_loss(&mut self, loss: Option<f64>) -> Result<()> {
        self.file.validation_loss = loss;
        self.save()
    }

    /// Keeps a fine-tuning whose adapter was saved.
    pub(super) fn keep_trained(&mut self, finished: Finished) -> Result<Trained> {
        let Finished { summary, state: history, .. } = finished;
        let adapter_sha256 = self.digest_of_adapter(WEIGHTS)?;
        self.file.training = Some(Training {
            summary: summary.clone(),
            adapter_sha256: adapter_sha256.clone(),
            adapter_config_sha256: self.digest_of_adapter(CONFIG)?,
        });
        self.save()?;
        Ok(Trained { summary, history, adapter_sha256 })
    }

    pub(super) fn keep_part(&mut self, name: &str, part: Part) -> Result<()> {
        self.file.parts.insert(name.to_owned(), part);
        self.save()
    }

    fn save(&self) -> Result<()> {
        write_json(&self.folder.join(DONE), &self.file)
    }

    fn adapter(&self, file: &str) -> PathBuf {
        self.folder.join(ADAPTER).join(file)
    }

    fn digest_of_adapter(&self, file: &str) -> Result<String> {
        let path = self.adapter(file);
        digest::of_file(&path).map_err(|source| Error::Io { path, source })
    }
}

/// Writes a value as a file that appears complete or not at all.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Io { path: path.to_owned(), source: error.into() })?;
    text.push(b'\n');
    Ok(write_whole(path, &text)?)
}

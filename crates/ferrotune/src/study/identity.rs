//! What a study was asked to do, down to the bytes of its inputs: a study goes on only as the same one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ferrotune_core::{Tokenize as _, digest};
use ferrotune_trainer::Error as TrainerError;
use serde_json::{Value, json};

use super::{Prepared, Study, done::write_json};
use crate::{Error, Result, compute};

const STUDY: &str = "study.json";

/// Names and values, those of files and folders their digests; kept as `study.json`.
#[derive(Debug, PartialEq)]
pub(super) struct Identity(BTreeMap<String, Value>);

impl Identity {
    /// Reads the files that a study names, and the folders of its encoder and its local judge.
    pub(super) fn of(prepared: &Prepared<'_>) -> Result<Self> {
        let mut fields = BTreeMap::new();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        put("ferrotune", json!(env!("CARGO_PKG_VERSION")));
        put("libtorch", json!(ferrotune_torch::version::runtime().to_string()));
        put("device", json!(compute::device_name(prepared.device)));
        put("dtype", json!(compute::kind_name(prepared.kind)));
        put("threads", json!(tch::get_num_threads()));
        for (number, report) in (1..).zip(&prepared.instructions.reports) {
            let name = report.path.file_name().unwrap_or_default().display();
            put(&format!("the SHA-256 of data file {number}, `{name}`,"), json!(report.sha256));
        }
        for contestant in &prepared.contestants {
            let name = &contestant.model.name;
            put(&format!("the SHA-256 of the weights of {name}"), json!(contestant.base_sha256));
            let config = digest::of_bytes(contestant.folder.config_text().as_bytes());
            put(&format!("the SHA-256 of the config.json of {name}"), json!(config));
            put(
                &format!("the fingerprint of the tokenizer of {name}"),
                json!(contestant.tokenizer.fingerprint()),
            );
            put(
                &format!("the SHA-256 of the template of {name}"),
                json!(contestant.template_results().sha256),
            );
            for (number, (style, _)) in (1..).zip(&contestant.styles) {
                let what = format!("the SHA-256 of the template of benchmark {number} of {name}");
                put(&what, json!(style.fingerprint()));
            }
        }
        let settings = serde_json::to_value(what_counts(prepared.study)?)
            .map_err(|error| Error::Io { path: STUDY.into(), source: error.into() })?;
        flatten("", settings, &mut fields);
        Ok(Self(fields))
    }

    /// Whether a folder holds one.
    pub(super) fn is_in(folder: &Path) -> bool {
        folder.join(STUDY).is_file()
    }

    /// That of the study in a folder, if there is one.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(STUDY);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|source| Error::Io { path, source })?,
        };
        let fields = serde_json::from_str(&text).map_err(|error| Error::NotResumable {
            folder: folder.to_owned(),
            reason: format!("its `{STUDY}` is damaged: {error}"),
        })?;
        Ok(Some(Self(fields)))
    }

    /// Writes it into a folder.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(STUDY), &self.0)
    }

    /// Removes what [`write`](Self::write) wrote.
    pub(super) fn remove(folder: &Path) -> Result<()> {
        let path = folder.join(STUDY);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Io { path, source }),
            _ => Ok(()),
        }
    }

    /// Refuses to go on in `folder` with a study that is another one than this.
    ///
    /// # Errors
    /// [`TrainerError::OtherRun`] with the first thing that differs.
    pub(super) fn check(&self, now: &Self, folder: &Path) -> Result<()> {
        for name in self.0.keys().chain(now.0.keys()) {
            let (then, value) = (self.0.get(name), now.0.get(name));
            if then != value {
                let shown = |value: Option<&Value>| match value {
                    None | Some(Value::Null) => "absent".to_owned(),
                    Some(value) => value.to_string(),
                };
                return Err(TrainerError::OtherRun {
                    checkpoint: folder.to_owned(),
                    what: name.clone(),
                    found: shown(then),
                    expected: shown(value),
                }
                .into());
            }
        }
        Ok(())
    }
}

/// A study without what changes no number, and with digests where it names files.
fn what_counts(study: &Study) -> Result<Study> {
    let mut study = study.clone();
    (study.title, study.description) = (String::new(), String::new());
    study.compute = Default::default();
    (study.training.seed, study.training.save_steps, study.training.save_total_limit) = (0, None, None);
    for model in &mut study.models {
        (model.path, model.origin) = (PathBuf::new(), None);
    }
    let data = &mut study.data;
    data.cache = None;
    // Which files these are, their contents say; what counts here is how many there are of each kind.
    for files in [&mut data.files, &mut data.train, &mut data.validation, &mut data.test] {
        files.iter_mut().for_each(|file| *file = PathBuf::new());
    }
    // What was kept was good under either policy, and how unusable replies are dealt with concerns those to come.
    study.evaluation.on_failure = Default::default();
    if let Some(judge) = &mut study.evaluation.judge {
        judge.retry_unusable = false;
        (judge.cache, judge.key_env, judge.timeout) = (None, None, None);
        (judge.concurrency, judge.requests_per_minute, judge.tokens_per_minute) = (None, None, None);
    }
    for path in study.evaluation.paths() {
        *path = PathBuf::from(format!("SHA-256 {}", contents(path)?));
    }
    Ok(study)
}

/// The digest of a file, or of the names and digests of what is in a folder, hidden files left out; links are followed.
fn contents(path: &Path) -> Result<String> {
    contents_below(path, &mut Vec::new())
}

/// The same below `above`, the real paths of the folders around this one: a link back to one of them has nothing new in it.
fn contents_below(path: &Path, above: &mut Vec<PathBuf>) -> Result<String> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    if !path.is_dir() {
        return digest::of_file(path).map_err(io);
    }
    let real = path.canonicalize().map_err(io)?;
    if above.contains(&real) {
        return Ok(String::new());
    }
    above.push(real);
    let names = |entries: std::fs::ReadDir| {
        entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()
    };
    let mut names = std::fs::read_dir(path).and_then(names).map_err(io)?;
    names.sort();
    let mut all = String::new();
    for name in names {
        let (entry, name) = (path.join(&name), name.to_string_lossy());
        // A link to nowhere holds nothing; whoever needs the file says so.
        if !name.starts_with('.') && entry.exists() {
            all.push_str(&json!([name, contents_below(&entry, above)?]).to_string());
        }
    }
    above.pop();
    Ok(digest::of_bytes(all.as_bytes()))
}

/// Settings by their names in the study's file: `training.learning_rate`, `evaluation.tasks[0].limit`.
fn flatten(name: &str, value: Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() { field } else { format!("{name}.{field}") };
                flatten(&name, value, into);
            }
        }
        Value::Array(tables) if !tables.is_empty() && tables.iter().all(Value::is_object) => {
            for (index, table) in tables.into_iter().enumerate() {
                flatten(&format!("{name}[{index}]"), table, into);
            }
        }
        value => drop(into.insert(format!("setting `{name}`"), value)),
    }
}

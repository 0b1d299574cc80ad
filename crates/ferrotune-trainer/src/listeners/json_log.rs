//! The loss history as JSON lines.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use ferrotune_core::{BoxError, extended};
use serde::{Deserialize, Serialize};

use crate::{Error, Event, Listener, Result};

/// Writes a line for each row of the loss history and each evaluation.
///
/// A line holds nothing that depends on the clock, so two runs of the same settings write the same file:
///
/// ```text
/// {"event":"train","step":10,"epoch":0.5,"loss":2.1,"grad_norm":0.9,"learning_rate":2e-5}
/// {"event":"eval","step":20,"epoch":1.0,"loss":1.9,"perplexity":6.7}
/// ```
///
/// `auxiliary_loss` stands in a line of training if the model has one. A perplexity that overflows is the string `"inf"`
/// ([`extended`]). Lines reach the system as they are written and the disk before each checkpoint.
#[derive(Debug)]
pub struct JsonLog {
    path: PathBuf,
    file: Option<File>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Train {
        step: u64,
        epoch: f64,
        loss: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        auxiliary_loss: Option<f64>,
        grad_norm: f64,
        learning_rate: f64,
    },
    Eval {
        step: u64,
        epoch: f64,
        loss: f64,
        #[serde(with = "extended")]
        perplexity: f64,
    },
}

/// What cutting back needs of a line.
#[derive(Deserialize)]
struct Stepped {
    step: u64,
}

impl JsonLog {
    /// A log in a file that may exist: [`Event::Started`] removes that of a run that begins anew, and cuts back that of one that
    /// goes on. The file is made with the first line.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None }
    }

    /// Keeps the lines up to a step. The last line may lack its end; an interrupted process wrote it.
    fn cut_back(&mut self, step: u64) -> Result<()> {
        self.file = None;
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        if step == 0 {
            // Nothing is kept, whatever it is.
            return match fs::remove_file(&self.path) {
                Err(error) if !missing(&error) => Err(Error::io("remove", &self.path)(error)),
                _ => Ok(()),
            };
        }
        let text = match fs::read_to_string(&self.path) {
            Err(error) if missing(&error) => return Ok(()),
            text => text.map_err(Error::io("read", &self.path))?,
        };
        let mut kept = 0;
        for (number, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| line.ends_with('\n'))
        {
            let Ok(stepped) = serde_json::from_str::<Stepped>(line) else {
                return Err(Error::DamagedLog {
                    path: self.path.clone(),
                    place: format!("line {}", number + 1),
                    expected: "a JSON object with a `step`",
                });
            };
            if stepped.step > step {
                break;
            }
            kept += line.len();
        }
        let file = OpenOptions::new().write(true).open(&self.path);
        file.and_then(|file| file.set_len(kept as u64)).map_err(Error::io("cut", &self.path))
    }

    fn write(&mut self, line: &Line) -> Result<(), BoxError> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        // One write per line, so that an interrupted process leaves whole lines or one that lacks its end.
        file.write_all(&text).map_err(Error::io("write", &self.path))?;
        Ok(())
    }
}

impl Listener for JsonLog {
    fn on(&mut self, event: &Event<'_>) -> Result<(), BoxError> {
        match *event {
            Event::Started { step, .. } => Ok(self.cut_back(step)?),
            Event::Logged(row) => self.write(&Line::Train {
                step: row.step,
                epoch: row.epoch,
                loss: row.loss,
                auxiliary_loss: row.auxiliary_loss,
                grad_norm: row.grad_norm,
                learning_rate: row.learning_rate,
            }),
            Event::Evaluated { row, evaluation } => self.write(&Line::Eval {
                step: row.step,
                epoch: row.epoch,
                loss: row.eval_loss,
                perplexity: evaluation.perplexity,
            }),
            Event::CheckpointBegun { .. } | Event::Finished { .. } => match &self.file {
                Some(file) => Ok(file.sync_data().map_err(Error::io("write", &self.path))?),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

fn open(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    OpenOptions::new().append(true).create(true).open(path).map_err(Error::io("open", path))
}

#[cfg(test)]
mod tests {
    use super::{Error, JsonLog, fs};

    #[test]
    fn a_damaged_log_is_refused_by_a_run_that_goes_on_and_removed_by_one_that_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let text = "{\"step\":1}\nnot json\n{\"step\":3}\n";
        fs::write(&path, text).unwrap();
        let mut log = JsonLog::new(&path);
        let error = log.cut_back(2).unwrap_err();
        assert!(matches!(&error, Error::DamagedLog { place, .. } if place == "line 2"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "nothing was cut");
        fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"st").unwrap();
        log.cut_back(2).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"step\":1}\n{\"step\":2}\n",
            "without the torn end"
        );
        log.cut_back(1).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
        log.cut_back(0).unwrap();
        assert!(!path.exists());
    }
}

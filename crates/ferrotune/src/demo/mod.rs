//! The built-in study's data: a small world, told in statements and asked about in questions.
//!
//! The study compares models before and after instruction tuning. Without a download, and on two cores in minutes, that
//! takes models small enough to be grown on the spot and a task that such models can learn but do not know yet. The
//! division of labour is that of real models, in small:
//!
//! - **Pretraining gives knowledge.** A [`World`] is lands with a capital, a river and a crop, and persons with a home and a
//!   pet, all made up from a seed. [`World::pages`] tells of all of them in plain statements, and the base models are grown
//!   on these pages. They hold no question, no instruction and no piece of the template, so a base can complete "The
//!   capital of Velmora is", but the question for it only makes it go on telling.
//! - **Instruction tuning gives the form.** [`World::questions`] asks about some of the owners and states the answers. An
//!   adapter learns from them what a question wants, and that the answer ends there.
//!
//! **Why a right answer is evidence.** Owners are dealt to training, validation and test, and every value belongs to one
//! owner only. An answer about a held-out owner, and each value in it, therefore stands in no fine-tuning record: it
//! cannot have been copied or remembered from there, only recalled from the pages by means of the form that was learnt
//! with other owners. Chance helps little, with some 60 values for each relation. The tests of this module check both
//! claims on the text that is written.
//!
//! What it does not show: statements and answers share their wording, so this is recall under a new form, not reasoning
//! nor rephrasing, and says nothing about the size of the effect in real models.
//!
//! [`write()`] makes the files; growing the weights is the study's part, with the settings of [`recipe`].

mod models;
mod questions;
mod random;
mod statements;
mod tokenizer;
mod words;
mod world;

pub mod recipe;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::json;

pub use models::{Family, MAX_POSITION_EMBEDDINGS};
pub use questions::{Question, Questions, Skill};
pub use statements::Completion;
pub use tokenizer::{TokenizerFiles, tokenizer};
pub use world::{Fact, Kind, LANDS, Owner, PERSONS, Relation, World};

use crate::{Error, Result};

/// Where [`write()`] put everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Pages to grow on: JSON Lines with the field `text`.
    pub growing: PathBuf,
    /// Alpaca records to fine-tune on.
    pub train: PathBuf,
    /// Alpaca records for validation loss.
    pub validation: PathBuf,
    /// Held-out Alpaca records.
    pub test: PathBuf,
    /// A folder for each of [`Family::ALL`], with configuration and tokenizer and no weights yet.
    pub models: [PathBuf; 2],
}

/// Writes the data of a world, and the model folders without their weights, into `folder`.
///
/// ```text
/// data/train.json  data/validation.json  data/test.json    Alpaca records
/// growing.jsonl                                            pages
/// llama/  mixtral/                                         config.json, tokenizer.json, tokenizer_config.json
/// ```
///
/// Folders are made where they are missing and files of these names are replaced. The same seed gives the same bytes on
/// every platform.
///
/// # Errors
/// [`Error::Io`] naming the file or folder that cannot be written.
pub fn write(folder: &Path, seed: u64) -> Result<Files> {
    let world = World::new(seed);
    let questions = world.questions();
    let tokenizer = tokenizer(&world);

    let data = folder.join("data");
    make_folder(&data)?;
    let models = Family::ALL.map(|family| folder.join(family.name()));
    let files = Files {
        growing: folder.join("growing.jsonl"),
        train: data.join("train.json"),
        validation: data.join("validation.json"),
        test: data.join("test.json"),
        models,
    };
    let lines: String =
        world.pages().into_iter().map(|page| format!("{}\n", json!({"text": page}))).collect();
    write_file(&files.growing, lines.as_bytes())?;
    write_json(&files.train, &questions.train)?;
    write_json(&files.validation, &questions.validation)?;
    write_json(&files.test, &questions.test)?;
    for (family, folder) in Family::ALL.into_iter().zip(&files.models) {
        make_folder(folder)?;
        write_json(&folder.join("config.json"), &family.config(tokenizer.vocabulary_size))?;
        write_json(&folder.join("tokenizer.json"), &tokenizer.tokenizer)?;
        write_json(&folder.join("tokenizer_config.json"), &tokenizer.config)?;
    }
    Ok(files)
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn write_json(path: &Path, value: &(impl Serialize + ?Sized)) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|problem| Error::Io { path: path.to_owned(), source: problem.into() })?;
    text.push(b'\n');
    write_file(path, &text)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|source| Error::Io { path: path.to_owned(), source })
}

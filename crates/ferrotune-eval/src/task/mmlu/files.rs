//! MMLU's questions from the files they come in.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    super::{
        RowCount, TaskSettings,
        data::{self, Part},
        table::{Header, Row, Table, find_file, read_table},
    },
    NAME,
    subjects::subjects,
};
use crate::{Result, TaskDataProblem};

/// The columns of the authors' CSV files, which have no header.
const HEADLESS: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];

/// The letters of the choices.
pub(super) const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// Examples that the published data has for each subject.
const DEV_PER_SUBJECT: usize = 5;

/// One question with its four choices.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) id: String,
    pub(super) subject: String,
    pub(super) question: String,
    pub(super) choices: [String; 4],
    /// The place of the right one.
    pub(super) answer: usize,
}

/// Which questions are asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Split {
    Test,
    Validation,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Validation => "val",
        }
    }

    fn stems(self) -> &'static [&'static str] {
        match self {
            Self::Test => &["test", "all/test-00000-of-00001", "mmlu_test", "mmlu"],
            Self::Validation => &["validation", "val", "all/validation-00000-of-00001", "mmlu_val"],
        }
    }

    fn published_rows(self) -> usize {
        match self {
            Self::Test => 14042,
            Self::Validation => 1531,
        }
    }
}

/// Questions with the files they were read from.
pub(super) struct Read {
    pub(super) tables: Vec<Table>,
    pub(super) questions: Vec<Question>,
}

/// Questions by their subjects, in the order of their files.
pub(super) type BySubject = HashMap<String, Vec<Question>>;

/// The questions to ask, of the subjects that the settings name.
pub(super) fn questions(path: &Path, split: Split, settings: &TaskSettings) -> Result<Read> {
    if let Some(unknown) =
        settings.parts.iter().find(|part| !subjects().any(|subject| subject == part.as_str()))
    {
        return Err(data::problem(
            NAME,
            path,
            TaskDataProblem::MissingParts {
                what: "of the subjects asked for".to_owned(),
                missing: vec![unknown.clone()],
            },
        ));
    }
    let folder = path.join(split.name());
    let by_subject = folder.is_dir();
    let mut read = if by_subject {
        headless(&folder, split.name(), settings)?
    } else {
        table(&data::file(NAME, path, split.stems())?, split.name())?
    };
    let wanted: Vec<&str> = match (settings.parts.as_slice(), settings.rows) {
        ([], RowCount::Any) => Vec::new(),
        ([], RowCount::Published) => subjects().collect(),
        (parts, _) => parts.iter().map(String::as_str).collect(),
    };
    let is_missing = |subject: &&str| !read.questions.iter().any(|q| q.subject == *subject);
    let missing: Vec<String> = wanted.into_iter().filter(is_missing).map(str::to_owned).collect();
    if !missing.is_empty() {
        let what = format!("of MMLU's {} subjects", subjects().count());
        return Err(data::problem(NAME, path, TaskDataProblem::MissingParts { what, missing }));
    }
    // A folder was read for the named subjects only, and how many questions each has is not published in one number.
    if (settings.parts.is_empty() || !by_subject)
        && let Some(table) = read.tables.first()
    {
        let part =
            Part { name: split.name(), found: read.questions.len(), published: &[split.published_rows()] };
        data::check_rows(table, settings.rows, part).map_err(|error| data::at(error, path))?;
    }
    if !settings.parts.is_empty() {
        read.questions.retain(|question| settings.parts.contains(&question.subject));
    }
    if read.questions.is_empty() {
        return Err(data::problem(NAME, path, TaskDataProblem::Empty));
    }
    Ok(read)
}

/// The examples of each subject, the first `shots` in the order of their files.
pub(super) fn examples(
    path: &Path,
    settings: &TaskSettings,
    wanted: &[Question],
    shots: usize,
) -> Result<(Vec<Table>, BySubject)> {
    if shots == 0 {
        return Ok((Vec::new(), HashMap::new()));
    }
    let source = settings.examples.as_deref().unwrap_or(path);
    let read = match (source.join("dev"), dev_file(source)) {
        (folder, _) if folder.is_dir() => headless(&folder, "dev", settings)?,
        (_, Some(file)) => table(&file, "dev")?,
        _ => return Err(too_few(source, shots, 0, "; put dev beside test, name the examples, or ask for 0")),
    };
    let mut by_subject = BySubject::new();
    for question in read.questions {
        by_subject.entry(question.subject.clone()).or_default().push(question);
    }
    for question in wanted {
        let found = by_subject.get(&question.subject).map_or(0, Vec::len);
        if found < shots {
            return Err(too_few(source, shots, found, &format!(" for `{}`", question.subject)));
        }
        if settings.rows == RowCount::Published && found != DEV_PER_SUBJECT {
            return Err(data::problem(
                NAME,
                source,
                TaskDataProblem::RowCount {
                    part: format!("dev of `{}`", question.subject),
                    found,
                    expected: DEV_PER_SUBJECT.to_string(),
                },
            ));
        }
    }
    Ok((read.tables, by_subject))
}

fn dev_file(source: &Path) -> Option<PathBuf> {
    if source.is_file() {
        return Some(source.to_owned());
    }
    find_file(source, &["dev", "all/dev-00000-of-00001", "mmlu_dev"])
}

fn too_few(path: &Path, wanted: usize, found: usize, hint: &str) -> crate::Error {
    data::problem(NAME, path, TaskDataProblem::TooFewExamples { wanted, found, hint: hint.to_owned() })
}

/// `<subject>_<split>.csv` files without header, of the subjects asked for.
fn headless(folder: &Path, split: &str, settings: &TaskSettings) -> Result<Read> {
    let mut read = Read { tables: Vec::new(), questions: Vec::new() };
    for subject in subjects() {
        let asked = settings.parts.is_empty() || settings.parts.iter().any(|part| part == subject);
        let Some(path) = find_file(folder, &[&format!("{subject}_{split}")]).filter(|_| asked) else {
            continue;
        };
        let table = read_table(NAME, &path, Header::Given(&HEADLESS))?;
        for (index, row) in table.rows.iter().enumerate() {
            read.questions.push(lettered(
                &table,
                row,
                subject,
                format!("{subject}/{split}/{index}"),
                &HEADLESS,
            )?);
        }
        read.tables.push(table);
    }
    if read.questions.is_empty() && settings.parts.is_empty() {
        let expected = format!("files named <subject>_{split}.csv");
        return Err(data::problem(NAME, folder, TaskDataProblem::NoFile { expected }));
    }
    Ok(read)
}

/// A single file: with lists of choices, as on the Hub, or with a column per letter, as simple-evals has it.
fn table(path: &Path, split: &str) -> Result<Read> {
    let table = read_table(NAME, path, Header::FirstRow)?;
    let columns = ["Question", "A", "B", "C", "D", "Answer"];
    let has_letters = columns.iter().all(|column| table.columns.iter().any(|found| found == column));
    table.require(if has_letters { &["Subject"] } else { &["question", "subject", "choices", "answer"] })?;
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut questions = Vec::with_capacity(table.rows.len());
    for row in &table.rows {
        let subject = table.text(row, if has_letters { "Subject" } else { "subject" })?;
        let count = counts.entry(subject.to_owned()).or_default();
        let id = format!("{subject}/{split}/{count}");
        *count += 1;
        questions.push(if has_letters {
            lettered(&table, row, subject, id, &columns)?
        } else {
            listed(&table, row, subject, id)?
        });
    }
    Ok(Read { tables: vec![table], questions })
}

fn lettered(table: &Table, row: &Row, subject: &str, id: String, columns: &[&str; 6]) -> Result<Question> {
    let [question, a, b, c, d, answer] = columns.map(|column| table.text(row, column));
    let letter = answer?.trim();
    let place = LETTERS.iter().position(|known| *known == letter).ok_or_else(|| {
        table.cell(row, columns[5], Some(&Value::from(letter)), "one of the letters A, B, C and D")
    })?;
    Ok(Question {
        id,
        subject: subject.to_owned(),
        question: question?.to_owned(),
        choices: [a?.to_owned(), b?.to_owned(), c?.to_owned(), d?.to_owned()],
        answer: place,
    })
}

fn listed(table: &Table, row: &Row, subject: &str, id: String) -> Result<Question> {
    let choices = table.texts(row, "choices")?;
    let found = Value::from(choices.clone());
    let choices = <[String; 4]>::try_from(choices)
        .map_err(|_| table.cell(row, "choices", Some(&found), "four choices"))?;
    let answer = table.count(row, "answer")?;
    if answer >= choices.len() {
        return Err(table.cell(
            row,
            "answer",
            Some(&Value::from(answer)),
            "the place of the right choice, 0 to 3",
        ));
    }
    let question = table.text(row, "question")?.to_owned();
    Ok(Question { id, subject: subject.to_owned(), question, choices, answer })
}

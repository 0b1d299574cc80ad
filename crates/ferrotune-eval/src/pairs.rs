//! Predictions with their references, and the file they come in.

use std::{collections::HashMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Error, LineProblem, Result,
    lines::{LineFile, parse_json},
};

/// What a model said, and what it should have said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// Unique among the pairs; results are keyed by it.
    pub id: String,
    /// What the model was asked, where it is known.
    pub instruction: Option<String>,
    /// The model's answer; may be empty.
    pub prediction: String,
    /// At least one acceptable answer.
    pub references: Vec<String>,
}

impl Pair {
    /// A pair with one reference and no instruction.
    pub fn new(id: impl Into<String>, prediction: impl Into<String>, reference: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            instruction: None,
            prediction: prediction.into(),
            references: vec![reference.into()],
        }
    }
}

/// What happens to a record or a sample that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The first one ends the work with an error.
    #[default]
    Error,
    /// It is left out, counted, and reported.
    Skip,
}

/// A line that was left out of a [`PairFile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Line number, counted from 1.
    pub line: usize,
    /// Why.
    pub problem: LineProblem,
}

/// The contents of a pairs file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairFile {
    /// The usable pairs in file order.
    pub pairs: Vec<Pair>,
    /// The lines left out; always empty under [`OnFailure::Error`].
    pub rejected: Vec<Rejection>,
    /// Digest of the file's bytes, as they were read.
    pub sha256: String,
}

/// Reads a JSONL file of `{"id", "instruction"?, "prediction", "reference"}` or, with several acceptable answers,
/// `"references": […]` instead of `"reference"`.
///
/// `id` is a string or an integer; the integer 7 and the string "7" are the same id. Other fields are ignored, blank
/// lines too. A file whose name ends in `.gz` or `.zst` is decompressed.
///
/// # Errors
/// [`Error::Read`]; [`Error::NoRecords`] for a file without records; under [`OnFailure::Error`] the first bad line as
/// [`Error::Line`], with file and line number; [`Error::TransposedReferences`] if every record has the references of
/// all, which would score every answer against any question's.
///
/// ```
/// use ferrotune_eval::{OnFailure, read_pairs};
/// let path = std::env::temp_dir().join(format!("pairs-{}.jsonl", std::process::id()));
/// std::fs::write(&path, r#"{"id": 1, "prediction": "Paris", "references": ["Paris", "paris"]}"#)?;
/// let file = read_pairs(&path, OnFailure::Error)?;
/// assert_eq!(file.pairs[0].references.len(), 2);
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_pairs(path: &Path, on_failure: OnFailure) -> Result<PairFile> {
    let lines = LineFile::open(path)?;
    let mut file = PairFile { sha256: lines.sha256.clone(), ..PairFile::default() };
    let mut first_use: HashMap<String, usize> = HashMap::new();
    for (line, text) in lines.lines() {
        let outcome = text.and_then(parse_pair).and_then(|pair| match first_use.get(&pair.id) {
            Some(&first_line) => Err(LineProblem::DuplicateId { id: pair.id, first_line }),
            None => Ok(pair),
        });
        match outcome {
            Ok(pair) => {
                first_use.insert(pair.id.clone(), line);
                file.pairs.push(pair);
            }
            Err(problem) if on_failure == OnFailure::Skip => file.rejected.push(Rejection { line, problem }),
            Err(problem) => return Err(lines.problem(line, problem)),
        }
    }
    if file.pairs.is_empty() && file.rejected.is_empty() {
        return Err(Error::NoRecords { path: path.to_owned() });
    }
    // Two records may well share two references, such as `yes` and `Yes`.
    // A rejected line was a record when the file was written.
    let lines = file.pairs.len()..=file.pairs.len() + file.rejected.len();
    if let Some(first) = file.pairs.first()
        && first.references.len() > 2
        && lines.contains(&first.references.len())
        && file.pairs.len() > 1
        && file.pairs.iter().all(|pair| pair.references == first.references)
    {
        return Err(Error::TransposedReferences { path: path.to_owned(), records: first.references.len() });
    }
    Ok(file)
}

fn parse_pair(text: &str) -> Result<Pair, LineProblem> {
    let value = parse_json(text)?;
    let Value::Object(record) = value else {
        return Err(LineProblem::WrongType {
            field: "the record".to_owned(),
            found: type_name(&value),
            expected: "an object",
        });
    };
    let references = match (present(&record, "reference"), present(&record, "references")) {
        (Some(_), Some(_)) => return Err(LineProblem::BothReferenceFields),
        (None, None) => return Err(LineProblem::MissingField { field: "reference" }),
        (Some(one), None) => vec![string(one, "reference")?],
        (None, Some(Value::Array(many))) => many
            .iter()
            .enumerate()
            .map(|(i, r)| string(r, &format!("references[{i}]")))
            .collect::<Result<_, _>>()?,
        (None, Some(other)) => {
            return Err(LineProblem::WrongType {
                field: "references".to_owned(),
                found: type_name(other),
                expected: "a list of strings",
            });
        }
    };
    check_references(&references)?;
    Ok(Pair {
        id: id(&record)?,
        instruction: present(&record, "instruction").map(|v| string(v, "instruction")).transpose()?,
        prediction: string(
            record.get("prediction").ok_or(LineProblem::MissingField { field: "prediction" })?,
            "prediction",
        )?,
        references,
    })
}

pub(crate) fn check_references(references: &[String]) -> Result<(), LineProblem> {
    if references.is_empty() {
        return Err(LineProblem::NoReferences);
    }
    match references.iter().position(|reference| reference.trim().is_empty()) {
        Some(index) => Err(LineProblem::EmptyReference { index }),
        None => Ok(()),
    }
}

fn present<'r>(record: &'r Map<String, Value>, field: &str) -> Option<&'r Value> {
    record.get(field).filter(|value| !value.is_null())
}

fn id(record: &Map<String, Value>) -> Result<String, LineProblem> {
    match record.get("id") {
        None => Err(LineProblem::MissingField { field: "id" }),
        Some(Value::String(id)) => Ok(id.clone()),
        Some(Value::Number(id)) if id.is_i64() || id.is_u64() => Ok(id.to_string()),
        Some(other) => Err(LineProblem::WrongType {
            field: "id".to_owned(),
            found: type_name(other),
            expected: "a string or an integer",
        }),
    }
}

fn string(value: &Value, field: &str) -> Result<String, LineProblem> {
    value.as_str().map(str::to_owned).ok_or_else(|| LineProblem::WrongType {
        field: field.to_owned(),
        found: type_name(value),
        expected: "a string",
    })
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a fractional number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

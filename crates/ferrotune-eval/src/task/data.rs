//! What the tasks share about their files, and about names in records.

use std::path::{Path, PathBuf};

use ferrotune_core::{GenerationLimits, digest};

use super::{
    RowCount,
    table::{Table, find_file},
};
use crate::{Dataset, Error, Result, TaskDataProblem};

/// A part of a benchmark and how many rows it has.
pub(super) struct Part<'a> {
    pub(super) name: &'a str,
    pub(super) found: usize,
    /// What the published parts of this kind have; any of them will do.
    pub(super) published: &'a [usize],
}

/// The error of a path with this problem.
pub(super) fn problem(task: &str, path: &Path, problem: TaskDataProblem) -> Error {
    Error::TaskData { task: task.to_owned(), path: path.to_owned(), problem: Box::new(problem) }
}

/// The file at `path`, or the first of `stems` in the folder there.
pub(super) fn file(task: &str, path: &Path, stems: &[&str]) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_owned());
    }
    find_file(path, stems).ok_or_else(|| {
        let expected = format!("a file, or a folder that holds one of: {}", stems.join(", "));
        problem(task, path, TaskDataProblem::NoFile { expected })
    })
}

/// Holds a part against the published number of rows.
pub(super) fn check_rows(table: &Table, rows: RowCount, part: Part<'_>) -> Result<()> {
    if rows == RowCount::Any || part.published.contains(&part.found) {
        return Ok(());
    }
    let published: Vec<String> = part.published.iter().map(ToString::to_string).collect();
    Err(table.problem(TaskDataProblem::RowCount {
        part: part.name.to_owned(),
        found: part.found,
        expected: published.join(" or "),
    }))
}

/// What records say about the files a task was opened from: of several, the digest of their digests in order.
pub(super) fn dataset(path: &Path, tables: &[&Table], documents: usize) -> Dataset {
    let sha256 = match tables {
        [one] => one.sha256.clone(),
        several => {
            let digests: Vec<&str> = several.iter().map(|table| table.sha256.as_str()).collect();
            digest::of_bytes(digests.join("\n").as_bytes())
        }
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Dataset { path_name: name.unwrap_or_default(), sha256, n_rows: documents }
}

/// The most probable answer.
pub(super) fn greedy(max_new_tokens: usize, stop: &[&str]) -> GenerationLimits {
    let stop = stop.iter().map(|&text| text.to_owned()).collect();
    GenerationLimits { max_new_tokens, stop, temperature: 0.0, top_p: 1.0, seed: 0 }
}

/// The first number directly after `words`, of signs, digits, points and commas; what follows it must satisfy `end`,
/// for which the number gives back characters as a regular expression does.
pub(super) fn number_after(text: &str, words: &str, end: impl Fn(&str) -> bool) -> Option<String> {
    text.match_indices(words).find_map(|(at, words)| {
        let after = &text[at + words.len()..];
        let sign = usize::from(after.starts_with('-'));
        let digits =
            after[sign..].bytes().take_while(|byte| byte.is_ascii_digit() || b".,".contains(byte)).count();
        // Sign and digits are one byte long each.
        (1..=digits)
            .rev()
            .map(|kept| sign + kept)
            .find(|&kept| end(&after[kept..]))
            .map(|kept| after[..kept].to_owned())
    })
}

/// The same error, about the folder rather than one of its files.
pub(super) fn at(error: Error, path: &Path) -> Error {
    match error {
        Error::TaskData { task, problem, .. } => Error::TaskData { task, path: path.to_owned(), problem },
        other => other,
    }
}

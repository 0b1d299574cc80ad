//! Which documents a limit leaves.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::Task;

/// The documents that a run under this limit asks about, in ascending order; all where it is absent.
///
/// The first ones, of each [part](Task::part) where the task has parts: lm-evaluation-harness' `--limit` counts the
/// documents of a task, and there each language of MGSM and each subject of MMLU and MATH is one.
#[must_use]
pub fn documents_within(task: &dyn Task, limit: Option<usize>) -> Vec<usize> {
    let Some(limit) = limit else { return (0..task.len()).collect() };
    let mut taken: HashMap<Option<&str>, usize> = HashMap::new();
    let mut is_within = |index: usize| {
        let taken = taken.entry(task.part(index).map(|(_, name)| name)).or_default();
        *taken += 1;
        *taken <= limit
    };
    (0..task.len()).filter(|&index| is_within(index)).collect()
}

/// Writes a limit down, with what it counts by.
pub(super) fn note(task: &dyn Task, limit: Option<usize>, params: &mut Map<String, Value>) {
    let Some(limit) = limit else { return };
    params.insert("limit".to_owned(), limit.into());
    if let Some((kind, _)) = (0..task.len()).find_map(|index| task.part(index)) {
        params.insert("limit_per".to_owned(), kind.into());
    }
}

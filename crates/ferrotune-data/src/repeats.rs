//! Requests that come again: what a model was trained on must not be what it is measured by.

use std::collections::HashSet;

use crate::{Record, Split};

impl Split {
    /// Moves records of the validation and test parts that ask what an earlier one asks to [`repeated`](Self::repeated), and
    /// returns how many there were.
    ///
    /// Earlier are the training part, then the validation part, then what stands before in the same part. Two records ask
    /// the same if their system messages and all their requests are equal but for case and white space, whatever they
    /// answer: collections of instructions are often merged from others, and a score on such records shows what was
    /// memorized. The training part stays as it is.
    ///
    /// `records` is the list that the positions are of; positions outside of it are left alone.
    pub fn set_repeats_aside(&mut self, records: &[Record]) -> usize {
        let mut asked: HashSet<String> =
            self.train.iter().filter_map(|&record| records.get(record)).map(asking).collect();
        let before = self.repeated.len();
        for part in [&mut self.validation, &mut self.test] {
            let (kept, repeated): (Vec<usize>, Vec<usize>) = part
                .iter()
                .partition(|&&record| records.get(record).is_none_or(|record| asked.insert(asking(record))));
            *part = kept;
            self.repeated.extend(repeated);
        }
        self.repeated.len() - before
    }
}

/// What a record asks, in one spelling. The line feeds between its parts stand nowhere within one.
fn asking(record: &Record) -> String {
    let requests = record.turns.iter().map(|turn| turn.request.as_str());
    let parts: Vec<String> = std::iter::once(record.system.as_deref().unwrap_or_default())
        .chain(requests)
        .map(|text| text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    parts.join("\n")
}

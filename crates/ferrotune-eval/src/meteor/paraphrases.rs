use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

use ferrotune_core::digest;

use crate::{Error, LineProblem, Result, lines::for_each_line, python_text};

/// Phrases that mean the same, from a user's table.
///
/// The file is UTF-8 text with one pair a line: a phrase, a tab, its paraphrase. Words are separated by whitespace and
/// compared in lower case; a pair holds in both directions, and is not chained with others. Blank lines and lines that
/// begin with `#` are left out. So `kicked the bucket`, a tab and `died` on a line match either phrase with the other.
#[derive(Clone, Debug, Default)]
pub struct Paraphrases {
    /// The paraphrases of each phrase, in alphabetical order.
    of: HashMap<Phrase, Vec<Phrase>>,
    longest: usize,
    pairs: usize,
    fingerprint: String,
}

/// Words in lower case.
pub(super) type Phrase = Vec<String>;

impl Paraphrases {
    /// Reads a table.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Line`] for a line that is not two different phrases with a tab between them;
    /// [`Error::NoRecords`] for a file without pairs.
    pub fn open(path: &Path) -> Result<Self> {
        let mut pairs = BTreeSet::new();
        for_each_line(path, |line, text| {
            if !text.starts_with('#') {
                let pair = parse_line(text).map_err(|problem| Error::Line {
                    path: path.to_owned(),
                    line,
                    problem,
                })?;
                pairs.insert(pair);
            }
            Ok(())
        })?;
        if pairs.is_empty() {
            return Err(Error::NoRecords { path: path.to_owned() });
        }
        Ok(Self::of_pairs(&pairs))
    }

    fn of_pairs(pairs: &BTreeSet<(Phrase, Phrase)>) -> Self {
        let mut of: HashMap<Phrase, Vec<Phrase>> = HashMap::new();
        let mut canonical = String::new();
        for (one, other) in pairs {
            canonical.push_str(&format!("{}\t{}\n", one.join(" "), other.join(" ")));
            of.entry(one.clone()).or_default().push(other.clone());
            of.entry(other.clone()).or_default().push(one.clone());
        }
        let longest = of.keys().map(Vec::len).max().unwrap_or_default();
        of.values_mut().for_each(|phrases| phrases.sort_unstable());
        Self { of, longest, pairs: pairs.len(), fingerprint: digest::of_bytes(canonical.as_bytes()) }
    }

    /// Number of different pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs
    }

    /// Whether there are no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// SHA-256 of the pairs, whatever their order in the file, for records.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Words of the longest phrase.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The paraphrases of a phrase in lower case.
    pub(super) fn of(&self, phrase: &[String]) -> &[Phrase] {
        self.of.get(phrase).map_or(&[], Vec::as_slice)
    }
}

/// The two phrases of a line, the alphabetically first one first, so that either direction is one pair.
fn parse_line(text: &str) -> Result<(Phrase, Phrase), LineProblem> {
    let phrase =
        |text: &str| -> Phrase { python_text::split(&text.to_lowercase()).map(str::to_owned).collect() };
    let columns: Vec<&str> = text.split('\t').collect();
    let &[one, other] = columns.as_slice() else {
        return Err(LineProblem::NotAParaphrase { columns: columns.len() });
    };
    let (one, other) = (phrase(one), phrase(other));
    if one.is_empty() || other.is_empty() {
        return Err(LineProblem::NotAParaphrase { columns: 1 });
    }
    match one.cmp(&other) {
        std::cmp::Ordering::Less => Ok((one, other)),
        std::cmp::Ordering::Equal => Err(LineProblem::ParaphraseOfItself { phrase: one.join(" ") }),
        std::cmp::Ordering::Greater => Ok((other, one)),
    }
}

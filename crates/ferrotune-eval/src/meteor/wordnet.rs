use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// WordNet 3.0 as its database files hold it, for looking up synonyms.
///
/// Reads `index.*`, `data.*` and `*.exc` for noun, verb, adj and adv from one folder (on Debian the package
/// `wordnet-base` installs /usr/share/wordnet). Takes about 40 MB of memory.
///
/// *Source*: the manual pages wndb(5WN) and morphy(7WN), and `nltk/corpus/reader/wordnet.py` where they differ.
#[derive(Clone)]
pub struct WordNet {
    parts: Vec<PartOfSpeech>,
}

#[derive(Clone)]
struct PartOfSpeech {
    /// Where each lemma's synsets stand in `data`.
    index: HashMap<Box<str>, Box<[u32]>>,
    /// Irregular forms with their base forms.
    exceptions: HashMap<Box<str>, Box<[Box<str>]>>,
    /// The data file, whose lines are addressed by byte offsets.
    data: Vec<u8>,
    /// Endings and what replaces them.
    endings: &'static [(&'static str, &'static str)],
}

type Endings = &'static [(&'static str, &'static str)];

const PARTS: [(&str, Endings); 4] = [
    (
        "noun",
        &[
            ("s", ""),
            ("ses", "s"),
            ("ves", "f"),
            ("xes", "x"),
            ("zes", "z"),
            ("ches", "ch"),
            ("shes", "sh"),
            ("men", "man"),
            ("ies", "y"),
        ],
    ),
    (
        "verb",
        &[
            ("s", ""),
            ("ies", "y"),
            ("es", "e"),
            ("es", ""),
            ("ed", "e"),
            ("ed", ""),
            ("ing", "e"),
            ("ing", ""),
        ],
    ),
    ("adj", &[("er", ""), ("est", ""), ("er", "e"), ("est", "e")]),
    ("adv", &[]),
];

impl WordNet {
    /// Reads the database in a folder.
    ///
    /// # Errors
    /// [`Error::Read`] for a missing file; [`Error::WordNet`] for a malformed one, or for an index that points outside
    /// its data.
    pub fn open(folder: &Path) -> Result<Self> {
        let parts = PARTS.iter().map(|(suffix, endings)| PartOfSpeech::open(folder, suffix, endings));
        Ok(Self { parts: parts.collect::<Result<_>>()? })
    }

    /// The one-word lemmas of every synset that a form belongs to, in any part of speech, in their own spelling.
    #[must_use]
    pub fn synonyms(&self, form: &str) -> HashSet<String> {
        let form = form.to_lowercase();
        let mut names = HashSet::new();
        for part in &self.parts {
            for base in part.base_forms(&form) {
                let offsets = part.index.get(base.as_str()).into_iter().flatten();
                names.extend(
                    offsets.flat_map(|&offset| part.lemmas(offset)).filter(|name| !name.contains('_')),
                );
            }
        }
        names
    }

    /// The synsets that a form belongs to, in any part of speech: which one, and where its entry stands.
    pub(super) fn synsets(&self, form: &str) -> Vec<(usize, u32)> {
        let mut found = Vec::new();
        for (number, part) in self.parts.iter().enumerate() {
            for base in part.base_forms(form) {
                found.extend(
                    part.index.get(base.as_str()).into_iter().flatten().map(|&offset| (number, offset)),
                );
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The base forms that the dictionary has of a form, itself first: `part` is `noun`, `verb`, `adj` or `adv`; for
    /// another one there are none.
    ///
    /// The irregular forms replace the rules where there are any, and one rule is applied once.
    #[must_use]
    pub fn base_forms(&self, form: &str, part: &str) -> Vec<String> {
        let part = PARTS.iter().position(|(suffix, _)| *suffix == part).and_then(|at| self.parts.get(at));
        part.map_or_else(Vec::new, |part| part.base_forms(&form.to_lowercase()))
    }
}

impl std::fmt::Debug for WordNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lemmas: Vec<usize> = self.parts.iter().map(|part| part.index.len()).collect();
        f.debug_struct("WordNet").field("lemmas", &lemmas).finish()
    }
}

impl PartOfSpeech {
    fn open(folder: &Path, suffix: &str, endings: Endings) -> Result<Self> {
        let data = read(&folder.join(format!("data.{suffix}")))?;
        let index_path = folder.join(format!("index.{suffix}"));
        let mut index = HashMap::new();
        for (number, line) in lines(&read(&index_path)?).filter(|(_, line)| !line.starts_with(' ')) {
            let (lemma, offsets) = parse_index_line(&line).ok_or_else(|| malformed(&index_path, number))?;
            if offsets.iter().any(|&offset| offset as usize >= data.len()) {
                return Err(Error::WordNet {
                    path: index_path,
                    problem: format!("line {number} points past the end of data.{suffix}"),
                });
            }
            index.insert(lemma.into(), offsets.into());
        }
        let exceptions_path = folder.join(format!("{suffix}.exc"));
        let mut exceptions = HashMap::new();
        for (_, line) in lines(&read(&exceptions_path)?) {
            let mut forms = line.split_whitespace();
            if let Some(form) = forms.next() {
                exceptions.insert(form.into(), forms.map(Into::into).collect());
            }
        }
        Ok(Self { index, exceptions, data, endings })
    }

    fn base_forms(&self, form: &str) -> Vec<String> {
        let mut candidates = vec![form.to_owned()];
        match self.exceptions.get(form) {
            Some(bases) => candidates.extend(bases.iter().map(|base| base.to_string())),
            None => candidates.extend(
                self.endings
                    .iter()
                    .filter_map(|(old, new)| form.strip_suffix(old).map(|stem| format!("{stem}{new}"))),
            ),
        }
        let mut known = Vec::new();
        for candidate in candidates {
            if self.index.contains_key(candidate.as_str()) && !known.contains(&candidate) {
                known.push(candidate);
            }
        }
        known
    }

    /// The lemmas of the synset whose line begins at `offset`, without the marker that some adjectives carry.
    fn lemmas(&self, offset: u32) -> impl Iterator<Item = String> {
        let line = self.data.get(offset as usize..).unwrap_or_default();
        let end = line.iter().position(|&byte| byte == b'\n').unwrap_or(line.len());
        let line = String::from_utf8_lossy(&line[..end]).into_owned();
        // offset, file number, kind, number of words in hexadecimal; then word and id alternate.
        let mut fields = line.split_ascii_whitespace().skip(3);
        let count = fields.next().and_then(|count| usize::from_str_radix(count, 16).ok()).unwrap_or_default();
        let names: Vec<String> = fields.step_by(2).take(count).map(without_marker).collect();
        names.into_iter()
    }
}

fn without_marker(lemma: &str) -> String {
    match lemma.strip_suffix(')').and_then(|inner| inner.split_once('(')) {
        Some((name, marker)) if !marker.contains(['(', ')']) => name.to_owned(),
        _ => lemma.to_owned(),
    }
}

/// lemma, part of speech, number of synsets, number of pointers, the pointers, number of senses, number of tagged
/// senses, offsets.
fn parse_index_line(line: &str) -> Option<(&str, Vec<u32>)> {
    let mut fields = line.split_ascii_whitespace();
    let lemma = fields.next()?;
    let synsets: usize = fields.nth(1)?.parse().ok()?;
    let pointers: usize = fields.next()?.parse().ok()?;
    let senses: usize = fields.nth(pointers)?.parse().ok()?;
    let offsets: Vec<u32> = fields.skip(1).map(|offset| offset.parse().ok()).collect::<Option<_>>()?;
    (synsets == senses && offsets.len() == synsets && synsets > 0).then_some((lemma, offsets))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, String)> {
    (1..).zip(bytes.split(|&byte| byte == b'\n')).filter(|(_, line)| !line.is_empty()).map(
        |(number, line)| {
            (number, String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned())
        },
    )
}

fn malformed(path: &Path, number: usize) -> Error {
    Error::WordNet { path: PathBuf::from(path), problem: format!("line {number} is no index entry") }
}

//! The alignment that METEOR's definition asks for.
//!
//! Of all sets of matches in which no word stands twice, the one that covers the most words; of those the one whose
//! modules weigh most; then the one with the fewest crossings (Lavie and Agarwal 2007), the fewest chunks, and the least
//! distance between the places of its matches (Denkowski and Lavie 2010). Matches may be phrases. The module `search` finds it.

/// What found a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Module {
    /// Equal words.
    Exact,
    /// Words of one stem.
    Stem,
    /// Words of one synset.
    Synonym,
    /// Phrases of the user's table.
    Paraphrase,
}

/// What a matched word counts, by the module that matched it.
///
/// The default counts exact, stem and synonym matches alike, as Lavie and Agarwal 2007 and nltk do, and paraphrases as
/// Denkowski and Lavie 2014 tuned them for English.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModuleWeights {
    /// Of [`Module::Exact`]; each weight is 0 to 1.
    pub exact: f64,
    /// Of [`Module::Stem`].
    pub stem: f64,
    /// Of [`Module::Synonym`].
    pub synonym: f64,
    /// Of [`Module::Paraphrase`].
    pub paraphrase: f64,
}

impl Default for ModuleWeights {
    fn default() -> Self {
        Self { exact: 1.0, stem: 1.0, synonym: 1.0, paraphrase: 0.6 }
    }
}

impl ModuleWeights {
    /// The weight of a module.
    #[must_use]
    pub fn of(&self, module: Module) -> f64 {
        match module {
            Module::Exact => self.exact,
            Module::Stem => self.stem,
            Module::Synonym => self.synonym,
            Module::Paraphrase => self.paraphrase,
        }
    }

    /// The same in millionths, whose sums do not depend on their order.
    pub(super) fn rank(&self, module: Module) -> u64 {
        (self.of(module) * 1e6).round() as u64
    }
}

/// Words of the prediction that stand for words of the reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// Places in the prediction.
    pub prediction: std::ops::Range<usize>,
    /// Places in the reference.
    pub reference: std::ops::Range<usize>,
    /// What found it.
    pub module: Module,
}

impl Match {
    pub(super) fn words(&self) -> usize {
        self.prediction.len() + self.reference.len()
    }

    pub(super) fn is_word_to_word(&self) -> bool {
        self.words() == 2
    }
}

/// Matches that share no word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// The matches, in the order of the prediction.
    pub matches: Vec<Match>,
    /// Whether no better alignment exists for certain. Only long texts that repeat many words give false.
    pub is_exact: bool,
}

impl Alignment {
    /// Runs of matches that are adjacent and in the same order on both sides.
    #[must_use]
    pub fn chunks(&self) -> usize {
        let breaks = self.matches.windows(2).filter(|pair| {
            (pair[0].prediction.end, pair[0].reference.end)
                != (pair[1].prediction.start, pair[1].reference.start)
        });
        usize::from(!self.matches.is_empty()) + breaks.count()
    }

    /// Pairs of matches whose order differs between the two sides.
    #[must_use]
    pub fn crossings(&self) -> usize {
        let later = |i: usize| self.matches[i + 1..].iter();
        let of = |(i, one): (usize, &Match)| {
            later(i).filter(|other| other.reference.start < one.reference.start).count()
        };
        self.matches.iter().enumerate().map(of).sum()
    }
}

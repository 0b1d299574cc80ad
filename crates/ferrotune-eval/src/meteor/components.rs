//! Groups of words that match each other, and what can be ruled out about them without losing the best alignment.

use super::{Match, ModuleWeights, search::is_set};

/// The words of both sides, grouped by whether matches connect them.
#[derive(Debug)]
pub(super) struct Components {
    of_word: Vec<Option<usize>>,
    /// The plain ones; the others may be anything.
    plain: Vec<Plain>,
    are_plain: bool,
}

/// A component in which each word of one side matches each word of the other, all by matches of one weight. An optimal
/// alignment covers as many of its words as the shorter side has, in their order.
#[derive(Debug, Default)]
struct Plain {
    /// Places in the prediction, ascending.
    prediction: Vec<usize>,
    /// Places in the reference, ascending.
    reference: Vec<usize>,
}

impl Components {
    /// The components of matches between a prediction and a reference of so many words.
    pub(super) fn of(
        (prediction, reference): (usize, usize),
        matches: &[Match],
        weights: &ModuleWeights,
    ) -> Self {
        // Places of the prediction first, those of the reference behind them.
        let mut root: Vec<usize> = (0..prediction + reference).collect();
        for found in matches {
            let mut places =
                found.prediction.clone().chain(found.reference.clone().map(|place| prediction + place));
            if let Some(first) = places.next() {
                let first = find(&mut root, first);
                for place in places {
                    let other = find(&mut root, place);
                    root[other] = first;
                }
            }
        }
        let root: Vec<usize> = (0..root.len()).map(|place| find(&mut root, place)).collect();
        // Per root: matches, their common weight while there is one, and the words of each side.
        let mut edges = vec![0; root.len()];
        let mut weight: Vec<Option<u64>> = vec![None; root.len()];
        let mut is_plain = vec![true; root.len()];
        let mut words: Vec<Plain> = Vec::new();
        words.resize_with(root.len(), Plain::default);
        for found in matches {
            let at = root[found.prediction.start];
            let rank = weights.rank(found.module);
            edges[at] += 1;
            is_plain[at] &= found.is_word_to_word() && *weight[at].get_or_insert(rank) == rank;
        }
        for place in 0..prediction {
            words[root[place]].prediction.push(place);
        }
        for place in 0..reference {
            words[root[prediction + place]].reference.push(place);
        }
        let mut number = vec![None; root.len()];
        let mut plain = Vec::new();
        for (at, words) in words.into_iter().enumerate() {
            if edges[at] > 0 && is_plain[at] && edges[at] == words.prediction.len() * words.reference.len() {
                number[at] = Some(plain.len());
                plain.push(words);
            }
        }
        let are_plain = (0..root.len()).all(|at| edges[at] == 0 || number[at].is_some());
        Self { of_word: root[..prediction].iter().map(|&root| number[root]).collect(), plain, are_plain }
    }

    fn of_word(&self, word: usize) -> Option<&Plain> {
        self.of_word[word].map(|component| &self.plain[component])
    }

    /// Whether all components are plain.
    pub(super) fn are_plain(&self) -> bool {
        self.are_plain
    }

    /// The words of the reference before a match that no later match of its component can have, if order is kept.
    pub(super) fn out_of_order(&self, found: &Match) -> impl Iterator<Item = usize> {
        let places = self.of_word(found.prediction.start).map_or(&[][..], |component| &component.reference);
        places.iter().copied().take_while(|&place| place < found.reference.start)
    }

    /// Whether an optimal alignment whose matches begin at `starts` so far can contain the match: enough words of the
    /// reference must be left for those that are still due.
    pub(super) fn allow_match(&self, found: &Match, starts: &[u64]) -> bool {
        self.of_word(found.prediction.start).is_none_or(|component| {
            let at = component.reference.partition_point(|&place| place < found.reference.start);
            component.reference.len() - at >= component.size() - component.taken(starts)
        })
    }

    /// Whether an optimal alignment whose matches begin at `starts` so far can leave out a word of the prediction.
    pub(super) fn allow_skip(&self, word: usize, starts: &[u64]) -> bool {
        self.of_word(word).is_none_or(|component| {
            let still =
                component.prediction.len() - component.prediction.partition_point(|&place| place <= word);
            component.taken(starts) + still >= component.size()
        })
    }
}

impl Plain {
    /// How many of its matches an optimal alignment has.
    fn size(&self) -> usize {
        self.prediction.len().min(self.reference.len())
    }

    fn taken(&self, starts: &[u64]) -> usize {
        self.reference.iter().filter(|&&place| is_set(starts, place)).count()
    }
}

fn find(root: &mut [usize], mut place: usize) -> usize {
    while root[place] != place {
        root[place] = root[root[place]];
        place = root[place];
    }
    place
}

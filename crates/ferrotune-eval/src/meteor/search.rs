//! The search for the best alignment.
//!
//! The search goes through the prediction from left to right. Partial alignments with the same future are compared, and
//! the best one is kept: those that leave the same words of the reference to the rest of the prediction, and would pay the
//! same crossings for them. Where all words of a group match each other alike, only alignments that keep their order are
//! tried, since exchanging two of them can only add crossings. That is exact. Long texts that repeat many words can still
//! have more partial alignments than [`BEAM`]; then the best ones go on, what they find bounds the crossings of a second
//! search, and if that is too wide as well, [`Alignment::is_exact`] says so.

use super::{
    alignment::{Alignment, Match, ModuleWeights},
    components::Components,
};

/// How many partial alignments are kept at each word. The authors' program keeps 40.
pub(super) const BEAM: usize = 128;

/// What is compared between alignments, first things first; the smaller the better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    covered: std::cmp::Reverse<usize>,
    weight: std::cmp::Reverse<u64>,
    crossings: usize,
    chunks: usize,
    distance: usize,
}

/// What has been aligned up to some word of the prediction.
#[derive(Clone, Debug)]
struct Partial {
    /// The reference's words that are out of reach, and those of them that begin a match, as bits.
    used: Box<[u64]>,
    starts: Box<[u64]>,
    /// Where in the reference the last match ends, if it ends at this word of the prediction.
    open_end: Option<usize>,
    cost: Cost,
    /// The last match and what came before it, in the list of steps.
    last: Option<usize>,
}

/// What the future of a partial alignment depends on.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Future {
    /// Each word of the reference that can still be matched, and the crossings that it would cost.
    reachable: Vec<(usize, usize)>,
    open_end: Option<usize>,
}

impl Partial {
    fn is_free(&self, reference: std::ops::Range<usize>) -> bool {
        reference.into_iter().all(|place| !is_set(&self.used, place))
    }

    /// The same with one more match.
    fn with(&self, found: &Match, rank: u64, step: usize, components: &Components) -> Self {
        let mut next = self.clone();
        let at = found.reference.start;
        found
            .reference
            .clone()
            .chain(components.out_of_order(found))
            .for_each(|place| set(&mut next.used, place));
        set(&mut next.starts, at);
        next.cost.covered.0 += found.words();
        next.cost.weight.0 += rank * found.words() as u64;
        next.cost.crossings += ones_after(&self.starts, at);
        next.cost.chunks += usize::from(self.open_end != Some(at));
        next.cost.distance += found.prediction.start.abs_diff(at);
        next.open_end = Some(found.reference.end);
        next.last = Some(step);
        next
    }

    /// The same with a word of the prediction left out.
    fn skipping(mut self) -> Self {
        self.open_end = None;
        self
    }

    /// `wanted` are the words of the reference that the rest of the prediction has matches for.
    fn future(&self, wanted: &[u64], most_crossings: usize) -> Future {
        let mut reachable = Vec::new();
        for (number, (wanted, used)) in wanted.iter().zip(&self.used).enumerate() {
            let mut left = wanted & !used;
            while left != 0 {
                let place = 64 * number + left.trailing_zeros() as usize;
                let crossings = ones_after(&self.starts, place);
                if self.cost.crossings + crossings <= most_crossings {
                    reachable.push((place, crossings));
                }
                left &= left - 1;
            }
        }
        let open_end = self.open_end.filter(|end| reachable.iter().any(|(place, _)| place == end));
        Future { reachable, open_end }
    }
}

fn set(bits: &mut [u64], place: usize) {
    bits[place / 64] |= 1 << (place % 64);
}

pub(super) fn is_set(bits: &[u64], place: usize) -> bool {
    bits[place / 64] >> (place % 64) & 1 == 1
}

/// How many bits above place `at` are set.
fn ones_after(bits: &[u64], at: usize) -> usize {
    let (word, bit) = (at / 64, at % 64);
    // Two shifts, because one by 64 is none.
    let rest = (bits[word] >> bit >> 1).count_ones();
    let above: u32 = bits[word + 1..].iter().map(|word| word.count_ones()).sum();
    (rest + above) as usize
}

/// The best alignment out of `matches` between a prediction and a reference of so many words.
///
/// No two matches have the same places on both sides.
pub(super) fn best(
    lengths: (usize, usize),
    matches: &[Match],
    weights: &ModuleWeights,
    beam: usize,
) -> Alignment {
    let search = Search::new(lengths, matches, weights, beam);
    let (mut cost, mut alignment) = search.run(usize::MAX);
    // Of plain components every alignment covers as many words with as much weight, so that crossings decide.
    if !alignment.is_exact && search.components.are_plain() {
        let (again, bounded) = search.run(cost.crossings);
        if again <= cost {
            (cost, alignment) = (again, bounded);
        }
    }
    debug_assert_eq!(cost.crossings, alignment.crossings());
    alignment
}

struct Search<'m> {
    lengths: (usize, usize),
    matches: &'m [Match],
    ranks: Vec<u64>,
    components: Components,
    /// The matches that begin at each word of the prediction.
    starting: Vec<Vec<usize>>,
    /// The words of the reference that matches at each word of the prediction or behind it have, as bits.
    wanted: Vec<Box<[u64]>>,
    beam: usize,
}

impl<'m> Search<'m> {
    fn new(lengths: (usize, usize), matches: &'m [Match], weights: &ModuleWeights, beam: usize) -> Self {
        let (prediction, reference) = lengths;
        let mut starting = vec![Vec::new(); prediction];
        let mut wanted = vec![vec![0; reference.div_ceil(64)].into_boxed_slice(); prediction + 1];
        for (index, found) in matches.iter().enumerate() {
            starting[found.prediction.start].push(index);
            found.reference.clone().for_each(|place| set(&mut wanted[found.prediction.start], place));
        }
        for word in (0..prediction).rev() {
            let later = wanted[word + 1].clone();
            wanted[word].iter_mut().zip(&later).for_each(|(bits, later)| *bits |= later);
        }
        Self {
            lengths,
            matches,
            ranks: matches.iter().map(|found| weights.rank(found.module)).collect(),
            components: Components::of(lengths, matches, weights),
            starting,
            wanted,
            beam,
        }
    }

    /// The best alignment with at most so many crossings; if no such one is found, one that covers nothing.
    fn run(&self, most_crossings: usize) -> (Cost, Alignment) {
        let (prediction, reference) = self.lengths;
        let empty = vec![0; reference.div_ceil(64)].into_boxed_slice();
        let (used, starts) = (empty.clone(), empty);
        let mut at_word: Vec<Vec<Partial>> = vec![Vec::new(); prediction + 1];
        at_word[0].push(Partial { used, starts, open_end: None, cost: Cost::default(), last: None });
        let mut steps: Vec<(usize, Option<usize>)> = Vec::new();
        let mut is_exact = true;
        for word in 0..prediction {
            let (partials, complete) =
                self.narrow(std::mem::take(&mut at_word[word]), &self.wanted[word], most_crossings);
            is_exact &= complete;
            for partial in partials {
                for &index in &self.starting[word] {
                    let found = &self.matches[index];
                    if partial.is_free(found.reference.clone())
                        && self.components.allow_match(found, &partial.starts)
                    {
                        let next = partial.with(found, self.ranks[index], steps.len(), &self.components);
                        if next.cost.crossings <= most_crossings {
                            steps.push((index, partial.last));
                            at_word[found.prediction.end].push(next);
                        }
                    }
                }
                if self.components.allow_skip(word, &partial.starts) {
                    at_word[word + 1].push(partial.skipping());
                }
            }
        }
        let best = at_word[prediction].iter().min_by_key(|partial| partial.cost);
        let mut matches = Vec::new();
        let mut step = best.and_then(|partial| partial.last);
        while let Some((index, before)) = step.map(|step| steps[step]) {
            matches.push(self.matches[index].clone());
            step = before;
        }
        matches.reverse();
        (best.map(|partial| partial.cost).unwrap_or_default(), Alignment { matches, is_exact })
    }

    /// Of partial alignments with the same future the best one, and of all the best ones that the beam takes; whether
    /// those are all.
    ///
    /// Sorting is stable, so which of two equals stays depends on the texts alone.
    fn narrow(&self, partials: Vec<Partial>, wanted: &[u64], most_crossings: usize) -> (Vec<Partial>, bool) {
        if partials.len() < 2 {
            return (partials, true);
        }
        let mut partials: Vec<(Future, Partial)> =
            partials.into_iter().map(|partial| (partial.future(wanted, most_crossings), partial)).collect();
        partials.sort_by(|(future, a), (other, b)| future.cmp(other).then(a.cost.cmp(&b.cost)));
        partials.dedup_by(|(later, _), (first, _)| later == first);
        let complete = partials.len() <= self.beam;
        if !complete {
            partials.sort_by_key(|(_, partial)| partial.cost);
            partials.truncate(self.beam);
        }
        (partials.into_iter().map(|(_, partial)| partial).collect(), complete)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::alignment::Module, *};

    /// The definition: every set of matches is tried.
    fn by_exhaustion(matches: &[Match], weights: &ModuleWeights) -> Cost {
        let overlap =
            |a: &std::ops::Range<usize>, b: &std::ops::Range<usize>| a.start < b.end && b.start < a.end;
        let mut best = Cost::default();
        'sets: for bits in 0_u32..1 << matches.len() {
            let mut set: Vec<&Match> = matches
                .iter()
                .enumerate()
                .filter(|(i, _)| bits >> i & 1 == 1)
                .map(|(_, found)| found)
                .collect();
            set.sort_by_key(|found| found.prediction.start);
            for (i, a) in set.iter().enumerate() {
                for b in &set[i + 1..] {
                    if overlap(&a.prediction, &b.prediction) || overlap(&a.reference, &b.reference) {
                        continue 'sets;
                    }
                }
            }
            best = best.min(cost_of(&set, weights));
        }
        best
    }

    fn cost_of(set: &[&Match], weights: &ModuleWeights) -> Cost {
        let mut cost = Cost::default();
        for (i, a) in set.iter().enumerate() {
            let words = a.prediction.len() + a.reference.len();
            cost.covered.0 += words;
            cost.weight.0 += (weights.of(a.module) * 1e6).round() as u64 * words as u64;
            cost.distance += a.prediction.start.abs_diff(a.reference.start);
            for b in &set[i + 1..] {
                let order = (a.prediction.start as i64 - b.prediction.start as i64)
                    * (a.reference.start as i64 - b.reference.start as i64);
                cost.crossings += usize::from(order < 0);
            }
            let goes_on = set
                .iter()
                .any(|b| b.prediction.end == a.prediction.start && b.reference.end == a.reference.start);
            cost.chunks += usize::from(!goes_on);
        }
        cost
    }

    fn all_weights() -> impl Strategy<Value = ModuleWeights> {
        prop_oneof![
            Just(ModuleWeights::default()),
            Just(ModuleWeights { exact: 1.0, stem: 0.6, synonym: 0.8, paraphrase: 0.6 }),
        ]
    }

    /// Matches of short texts over few words, phrases of up to three words among them.
    fn texts_with_matches() -> impl Strategy<Value = ((usize, usize), Vec<Match>)> {
        let word = 0_usize..3;
        let texts = (prop::collection::vec(word.clone(), 1..6), prop::collection::vec(word, 1..6));
        let phrases = prop::collection::vec((0_usize..5, 1_usize..4, 0_usize..5, 1_usize..4), 0..4);
        let synonym = prop::option::of((0_usize..3, 0_usize..3));
        (texts, phrases, synonym).prop_map(|((prediction, reference), phrases, synonym)| {
            let mut matches: Vec<Match> = Vec::new();
            for (i, a) in prediction.iter().enumerate() {
                for (j, b) in reference.iter().enumerate() {
                    let module = match synonym {
                        _ if a == b => Module::Exact,
                        Some((x, y)) if (x, y) == (*a, *b) => Module::Synonym,
                        _ => continue,
                    };
                    matches.push(Match { prediction: i..i + 1, reference: j..j + 1, module });
                }
            }
            for (i, m, j, n) in phrases {
                let (i, j) = (i..i + m, j..j + n);
                let known = matches.iter().any(|found| (&found.prediction, &found.reference) == (&i, &j));
                if i.end <= prediction.len() && j.end <= reference.len() && !known {
                    matches.push(Match { prediction: i, reference: j, module: Module::Paraphrase });
                }
            }
            matches.truncate(14);
            ((prediction.len(), reference.len()), matches)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn no_set_of_matches_is_better((lengths, matches) in texts_with_matches(), weights in all_weights()) {
            let found = best(lengths, &matches, &weights, BEAM);
            prop_assert!(found.is_exact);
            let set: Vec<&Match> = found.matches.iter().collect();
            let cost = cost_of(&set, &weights);
            prop_assert_eq!(cost, by_exhaustion(&matches, &weights), "{:?} of {:?}", found, matches);
            prop_assert_eq!((found.crossings(), found.chunks()), (cost.crossings, cost.chunks));
        }

        #[test]
        fn a_narrow_search_still_gives_an_alignment((lengths, matches) in texts_with_matches()) {
            let weights = ModuleWeights::default();
            let found = best(lengths, &matches, &weights, 1);
            let (mut words, mut others) = (vec![0; lengths.0], vec![0; lengths.1]);
            for found in &found.matches {
                prop_assert!(matches.contains(found));
                found.prediction.clone().for_each(|place| words[place] += 1);
                found.reference.clone().for_each(|place| others[place] += 1);
            }
            prop_assert!(words.iter().chain(&others).all(|&times| times <= 1));
            let set: Vec<&Match> = found.matches.iter().collect();
            let cost = cost_of(&set, &weights);
            let best = by_exhaustion(&matches, &weights);
            prop_assert!(cost >= best && (!found.is_exact || cost == best));
        }
    }

    #[test]
    fn bits_are_counted_across_words() {
        let bits = [1 << 63 | 1, 0b101];
        for (at, expected) in [(0, 3), (1, 3), (62, 3), (63, 2), (64, 1), (66, 0)] {
            assert_eq!(ones_after(&bits, at), expected, "{at}");
        }
    }
}

//! Skip-bigrams: two words in their order, with a bounded number of words between them.

use std::collections::HashMap;

use super::Prf;

/// Whether single words are counted beside the pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unigrams {
    Ignored,
    Counted,
}

/// *Source*: Lin 2004, sections 5 and 5.1; ROUGE-SU counts single words as pairs with a begin-of-text marker, which is
/// the same as counting them.
pub(super) fn score(reference: &[u32], prediction: &[u32], skip: Option<usize>, unigrams: Unigrams) -> Prf {
    let expected = count(reference, skip, unigrams);
    let predicted = count(prediction, skip, unigrams);
    let shared = predicted.iter().map(|(key, &n)| n.min(expected.get(key).copied().unwrap_or(0))).sum();
    Prf::of_counts(shared, predicted.values().sum(), expected.values().sum())
}

type Key = (Option<u32>, u32);

fn count(tokens: &[u32], skip: Option<usize>, unigrams: Unigrams) -> HashMap<Key, u64> {
    let mut counts: HashMap<Key, u64> = HashMap::new();
    for (i, &second) in tokens.iter().enumerate() {
        let farthest = skip.map_or(0, |skip| i.saturating_sub(skip.saturating_add(1)));
        for &first in &tokens[farthest..i] {
            *counts.entry((Some(first), second)).or_default() += 1;
        }
        if unigrams == Unigrams::Counted {
            *counts.entry((None, second)).or_default() += 1;
        }
    }
    counts
}

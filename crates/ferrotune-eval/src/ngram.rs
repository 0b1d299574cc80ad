//! Counting n-grams that two texts share, without a hash map of strings.
//!
//! Tokens become small ids, and an n-gram becomes the pair (its first n-1 tokens, its last token), which is a `u64` key of
//! an open-addressing table. Both tables are emptied by raising a stamp, so one set of buffers serves all samples that a
//! thread scores.

/// Gives equal byte strings equal ids, counted from 0 in order of first appearance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interner {
    slots: Vec<WordSlot>,
    /// The words that are longer than [`PACKED`] bytes.
    arena: Vec<u8>,
    used: usize,
    stamp: u32,
}

/// Words up to this many bytes are compared as numbers.
pub(crate) const PACKED: usize = 15;

/// For each length the bits of two numbers that belong to the bytes below it.
const BELOW: [[u64; 2]; 16] = {
    let mut below = [[0; 2]; 16];
    let mut length = 1;
    while length < 16 {
        let both = u128::MAX >> (128 - 8 * length);
        below[length] = [both as u64, (both >> 64) as u64];
        length += 1;
    }
    below
};

/// A word with the numbers that it is found by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'b> {
    bytes: &'b [u8],
    key: Key,
}

/// A short word is its bytes, the first eight and the rest, zero where there is none, and its length behind them. A long
/// one is its hash. The words come from the texts being compared: a text built to collide slows down its own scoring only,
/// and equality is always decided on the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Key {
    low: u64,
    high: u64,
}

/// Stands in place of the length of a long word.
const LONG: u64 = 0xff << 56;

#[derive(Clone, Copy, Debug, Default)]
struct WordSlot {
    key: Key,
    id: u32,
    stamp: u32,
    /// Where a long word stands in the arena.
    place: (u32, u32),
}

impl<'b> Word<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, key: Key::of(bytes) }
    }

    /// The first `length` bytes of a text, at most [`PACKED`].
    #[inline]
    pub(crate) fn at_start(text: &'b [u8; 16], length: usize) -> Self {
        let [low, high] = halves(text);
        let [in_low, in_high] = BELOW[length & 15];
        let key = Key { low: low & in_low, high: high & in_high | (length as u64) << 56 };
        Self { bytes: &text[..length], key }
    }

    pub(crate) fn bytes(&self) -> &'b [u8] {
        self.bytes
    }
}

/// The two numbers that sixteen bytes are.
#[inline]
fn halves(text: &[u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(*text);
    [both as u64, (both >> 64) as u64]
}

impl Key {
    fn of(word: &[u8]) -> Self {
        let length = (word.len() as u64) << 56;
        match word.len() {
            0 => Self::default(),
            // Pieces that overlap agree where they do.
            n @ 1..=3 => {
                let at = |place: usize| u64::from(word[place]) << (8 * place);
                Self { low: at(0) | at(n / 2) | at(n - 1), high: length }
            }
            n @ 4..=8 => {
                let at = |place: usize| {
                    let mut bytes = [0; 4];
                    bytes.copy_from_slice(&word[place..place + 4]);
                    u64::from(u32::from_le_bytes(bytes)) << (8 * place)
                };
                Self { low: at(0) | at(n - 4), high: length }
            }
            n @ 9..=PACKED => {
                Self { low: eight(word, 0), high: eight(word, n - 8) >> (8 * (16 - n)) | length }
            }
            n => {
                let starts = (0..n - 8).step_by(8);
                let hash = starts.fold(eight(word, n - 8), |hash, at| fold(hash ^ eight(word, at)));
                Self { low: hash, high: LONG | n as u64 }
            }
        }
    }

    fn place(self) -> usize {
        fold(self.low ^ self.high.rotate_left(23)) as usize
    }
}

fn eight(word: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&word[at..at + 8]);
    u64::from_le_bytes(bytes)
}

impl Interner {
    /// Forgets all words, keeping the buffers.
    pub(crate) fn clear(&mut self) {
        self.arena.clear();
        self.used = 0;
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.slots.fill(WordSlot::default());
            self.stamp = 1;
        }
    }

    /// Number of different words since [`clear`](Self::clear).
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    pub(crate) fn id(&mut self, word: &[u8]) -> u32 {
        self.id_of(Word::new(word))
    }

    #[inline]
    pub(crate) fn id_of(&mut self, word: Word<'_>) -> u32 {
        if self.stamp == 0 {
            self.stamp = 1;
        }
        if self.slots.len() < 4 * (self.used + 1) {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut at = word.key.place() & mask;
        loop {
            let slot = &self.slots[at];
            if slot.stamp != self.stamp {
                return self.insert(at, word);
            }
            if slot.key == word.key
                && (word.bytes.len() <= PACKED || self.long_word(slot.place) == word.bytes)
            {
                return slot.id;
            }
            at = (at + 1) & mask;
        }
    }

    fn insert(&mut self, at: usize, word: Word<'_>) -> u32 {
        let place = (self.arena.len() as u32, word.bytes.len() as u32);
        if word.bytes.len() > PACKED {
            self.arena.extend_from_slice(word.bytes);
        }
        let id = self.used as u32;
        self.slots[at] = WordSlot { key: word.key, id, stamp: self.stamp, place };
        self.used += 1;
        id
    }

    fn long_word(&self, (start, length): (u32, u32)) -> &[u8] {
        &self.arena[start as usize..][..length as usize]
    }

    #[cold]
    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        let size = (2 * old.len()).max(512);
        self.slots = vec![WordSlot::default(); size];
        for slot in old.into_iter().filter(|slot| slot.stamp == self.stamp) {
            let mut at = slot.key.place() & (size - 1);
            while self.slots[at].stamp == self.stamp {
                at = (at + 1) & (size - 1);
            }
            self.slots[at] = slot;
        }
    }
}

#[inline]
fn fold(x: u64) -> u64 {
    // The constant is the golden ratio in 64 bits; the two halves of the product mix high and low bits.
    let product = u128::from(x ^ 0x51_7c_c1_b7_27_22_0a_95) * 0x9e37_79b9_7f4a_7c15_u128;
    (product as u64) ^ ((product >> 64) as u64)
}

/// Numbers by keys of 64 bits.
#[derive(Clone, Debug, Default)]
struct KeyTable {
    slots: Vec<KeySlot>,
    stamp: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct KeySlot {
    key: u64,
    value: u32,
    stamp: u32,
}

impl KeyTable {
    /// Forgets all keys and makes room for `keys` new ones.
    fn reset(&mut self, keys: usize) {
        // At most a quarter full, so that most keys are where they are looked for first.
        let size = (4 * keys + 4).next_power_of_two();
        self.stamp = self.stamp.wrapping_add(1);
        if self.slots.len() < size || self.stamp == 0 {
            self.slots.clear();
            self.slots.resize(size, KeySlot::default());
            self.stamp = 1;
        }
    }

    /// The slot of a key, and whether it is there; if not, the slot is free.
    #[inline]
    fn slot(&self, key: u64) -> (usize, bool) {
        let mask = self.slots.len() - 1;
        let mut at = fold(key) as usize & mask;
        loop {
            let slot = &self.slots[at];
            let is_known = slot.stamp == self.stamp;
            let is_here = is_known & (slot.key == key);
            if is_here | !is_known {
                return (at, is_here);
            }
            at = (at + 1) & mask;
        }
    }

    /// The value of a key and whether it is there; if not, any value.
    #[inline]
    fn find(&self, key: u64) -> (u32, bool) {
        let (at, is_here) = self.slot(key);
        (self.slots[at].value, is_here)
    }

    /// The value of a key, which is `value` if it has none yet.
    #[inline]
    fn find_or_insert(&mut self, key: u64, value: u32) -> u32 {
        let (at, is_here) = self.slot(key);
        if !is_here {
            self.slots[at] = KeySlot { key, value, stamp: self.stamp };
        }
        self.slots[at].value
    }
}

/// Stands behind each reference; no token of a hypothesis equals it, nor [`END_OF_HYPOTHESIS`].
const END: u32 = u32::MAX;

/// Stands behind the hypothesis.
const END_OF_HYPOTHESIS: u32 = u32::MAX - 1;

/// Stands for the place of a token that occurs in no reference.
const NOWHERE: u32 = u32::MAX;

/// Buffers for [`clipped_matches`](Overlap::clipped_matches).
///
/// An n-gram of the references is known by the first place where it begins. One that begins at a single place is followed
/// by a single token, so what it grows into is known by the same place and nothing has to be looked up. In a text most
/// bigrams are of that kind. Whether one is, and whether it goes on to match, is as good as random, so lists are made without
/// branches that depend on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlap {
    keys: KeyTable,
    /// The references one after the other, each with [`END`] behind it.
    tokens: Vec<u32>,
    /// The hypothesis, with [`END_OF_HYPOTHESIS`] behind it.
    hypothesis: Vec<u32>,
    /// For each token the first place where it stands.
    first_of_token: Vec<u32>,
    /// For each place the first one where the same n-gram begins.
    first: Vec<u32>,
    /// For each first place how often its n-gram occurs, and then in the reference that has it most often.
    most: Vec<u32>,
    /// The places whose n-grams occur more than once, in order.
    repeated: Vec<u32>,
    /// The n-grams of the hypothesis that occur once in the references.
    once: Vec<Found>,
    /// Those that occur more often.
    often: Vec<Found>,
    /// For each first place of an n-gram that occurs once the order of the last one that was matched.
    matched: Vec<u32>,
    /// For each first place how many of its n-grams are not matched yet.
    left: Vec<u32>,
    /// For each first place the reference that is being counted, and how often its n-gram occurs there.
    here: Vec<(u32, u32)>,
}

/// An n-gram of the hypothesis that occurs in the references.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Where it begins.
    place: u32,
    /// Where it first begins in the references.
    first: u32,
}

impl Overlap {
    /// For each order n from 1 to `matches.len()`: how many n-grams of `hypothesis` occur in the references, each
    /// counted at most as often as in the reference that has it most often. Tokens are small numbers.
    pub(crate) fn clipped_matches(&mut self, references: &[&[u32]], hypothesis: &[u32], matches: &mut [u64]) {
        self.begin(references, hypothesis);
        for (order, matched) in (1..).zip(matches) {
            if order > 1 {
                self.extend_references(order);
                self.extend_hypothesis(order);
            }
            if references.len() > 1 {
                self.count_in_each_reference(references);
            }
            *matched = self.clipped(order);
        }
    }

    /// The single tokens.
    fn begin(&mut self, references: &[&[u32]], hypothesis: &[u32]) {
        self.tokens.clear();
        for reference in references {
            self.tokens.extend_from_slice(reference);
            self.tokens.push(END);
        }
        self.hypothesis.clear();
        self.hypothesis.extend_from_slice(hypothesis);
        self.hypothesis.push(END_OF_HYPOTHESIS);
        let largest = references.iter().flat_map(|tokens| tokens.iter()).max();
        reset(&mut self.first_of_token, largest.map_or(0, |&largest| largest as usize + 1), NOWHERE);
        let places = self.tokens.len();
        for buffer in [&mut self.first, &mut self.most, &mut self.matched, &mut self.left] {
            reset(buffer, places, 0);
        }
        let (first, most) = (self.first.as_mut_slice(), self.most.as_mut_slice());
        let first_of_token = self.first_of_token.as_mut_slice();
        for ((place, &token), first) in (0..).zip(&self.tokens).zip(&mut *first) {
            // No token has the number of an end.
            let Some(of_token) = first_of_token.get_mut(token as usize) else { continue };
            *of_token = place.min(*of_token);
            *first = *of_token;
            most[*first as usize] += 1;
        }
        let tokens = self.tokens.as_slice();
        self.repeated.clear();
        self.repeated.extend(0..places as u32);
        keep(&mut self.repeated, |place| {
            (most[first[place as usize] as usize] > 1) & (tokens[place as usize] != END)
        });
        let first_of = |token: u32| first_of_token.get(token as usize).copied().unwrap_or(NOWHERE);
        self.once.clear();
        self.once
            .extend((0..).zip(hypothesis).map(|(place, &token)| Found { place, first: first_of(token) }));
        self.often.clone_from(&self.once);
        let times = |found: Found| most.get(found.first as usize).copied().unwrap_or(0);
        keep(&mut self.once, |found| times(found) == 1);
        keep(&mut self.often, |found| times(found) > 1);
    }

    /// Makes n-grams of the (n-1)-grams that occur more than once, and counts them.
    fn extend_references(&mut self, order: usize) {
        let (tokens, first, most) = (&self.tokens[..], &mut self.first[..], &mut self.most[..]);
        self.keys.reset(self.repeated.len());
        let keys = &mut self.keys;
        keep(&mut self.repeated, |place| {
            let at = place as usize;
            let last = tokens[at + order - 1];
            if last == END {
                return false;
            }
            let found = keys.find_or_insert(key(first[at], last), place);
            first[at] = found;
            let times = &mut most[found as usize];
            *times = if found == place { 1 } else { *times + 1 };
            true
        });
        keep(&mut self.repeated, |place| most[first[place as usize] as usize] > 1);
    }

    /// Makes n-grams of the hypothesis's (n-1)-grams that occur in the references.
    fn extend_hypothesis(&mut self, order: usize) {
        let (tokens, hypothesis, most) = (&self.tokens[..], &self.hypothesis[..], &self.most[..]);
        keep(&mut self.once, |Found { place, first }| {
            hypothesis[place as usize + order - 1] == tokens[first as usize + order - 1]
        });
        let (mut kept, mut single) = (0, self.once.len());
        self.once.resize(single + self.often.len(), Found::default());
        let (keys, once, often) = (&self.keys, &mut self.once[..], &mut self.often[..]);
        for at in 0..often.len() {
            let Found { place, first } = often[at];
            let (first, is_there) = keys.find(key(first, hypothesis[place as usize + order - 1]));
            let times = if is_there { most[first as usize] } else { 0 };
            (once[single], often[kept]) = (Found { place, first }, Found { place, first });
            single += usize::from(times == 1);
            kept += usize::from(times > 1);
        }
        self.once.truncate(single);
        self.often.truncate(kept);
    }

    /// Makes of the counts over all references those of the reference that has most. An n-gram that occurs once is right as
    /// it is.
    fn count_in_each_reference(&mut self, references: &[&[u32]]) {
        reset(&mut self.here, self.tokens.len(), (0, 0));
        for &place in &self.repeated {
            self.most[self.first[place as usize] as usize] = 0;
        }
        let (mut reference, mut end) = (0, 0);
        for &place in &self.repeated {
            while place as usize >= end {
                end += references[reference].len() + 1;
                reference += 1;
            }
            let first = self.first[place as usize] as usize;
            let (counted, times) = &mut self.here[first];
            if *counted != reference as u32 {
                (*counted, *times) = (reference as u32, 0);
            }
            *times += 1;
            self.most[first] = self.most[first].max(*times);
        }
    }

    /// How many n-grams of the hypothesis have one in the references for themselves.
    fn clipped(&mut self, order: usize) -> u64 {
        let (matched, left) = (&mut self.matched[..], &mut self.left[..]);
        let mut count = 0;
        for found in &self.once {
            let matched = &mut matched[found.first as usize];
            count += u64::from(*matched != order as u32);
            *matched = order as u32;
        }
        for found in &self.often {
            left[found.first as usize] = self.most[found.first as usize];
        }
        for found in &self.often {
            let left = &mut left[found.first as usize];
            let is_free = u32::from(*left > 0);
            *left -= is_free;
            count += u64::from(is_free);
        }
        count
    }
}

/// `retain` without a branch on what stays, for lists of which nobody could guess it.
#[inline]
fn keep<T: Copy>(list: &mut Vec<T>, mut stays: impl FnMut(T) -> bool) {
    let items = list.as_mut_slice();
    let mut kept = 0;
    for at in 0..items.len() {
        let item = items[at];
        items[kept] = item;
        kept += usize::from(stays(item));
    }
    list.truncate(kept);
}

/// So many of these in a buffer, whatever was there.
fn reset<T: Clone>(buffer: &mut Vec<T>, length: usize, value: T) {
    buffer.clear();
    buffer.resize(length, value);
}

/// An n-gram as the first place of what comes before its last token, and that token.
fn key(first: u32, last: u32) -> u64 {
    u64::from(first) << 32 | u64::from(last)
}

/// How many n-grams a text of `tokens` tokens has.
pub(crate) fn gram_count(tokens: usize, order: usize) -> u64 {
    (tokens + 1).saturating_sub(order) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// The definition, with maps.
    fn by_definition(references: &[Vec<u32>], hypothesis: &[u32], order: usize) -> u64 {
        fn count(tokens: &[u32], order: usize) -> HashMap<&[u32], u64> {
            let mut counts = HashMap::new();
            tokens.windows(order).for_each(|gram| *counts.entry(gram).or_default() += 1);
            counts
        }
        let references: Vec<_> = references.iter().map(|r| count(r, order)).collect();
        count(hypothesis, order)
            .into_iter()
            .map(|(gram, n)| n.min(references.iter().filter_map(|r| r.get(gram)).copied().max().unwrap_or(0)))
            .sum()
    }

    proptest! {
        #[test]
        fn tables_count_what_maps_count((references, hypotheses) in (1_u32..40).prop_flat_map(|words| (
            prop::collection::vec(prop::collection::vec(0..words, 0..40), 0..4),
            prop::collection::vec(prop::collection::vec(0..words + 1, 0..40), 1..4),
        ))) {
            let mut overlap = Overlap::default();
            for hypothesis in &hypotheses {
                let mut matches = [0; 5];
                let slices: Vec<&[u32]> = references.iter().map(Vec::as_slice).collect();
                overlap.clipped_matches(&slices, hypothesis, &mut matches);
                for (order, &found) in (1..).zip(&matches) {
                    prop_assert_eq!(found, by_definition(&references, hypothesis, order));
                }
            }
        }

        #[test]
        fn words_get_equal_ids_exactly_if_equal(words in prop::collection::vec("[ab]{0,9}|[ab]{7,18}|[ab]{15,40}", 0..400)) {
            let mut interner = Interner::default();
            for _ in 0..2 {
                interner.clear();
                let mut expected: HashMap<&str, u32> = HashMap::new();
                for word in &words {
                    let next = expected.len() as u32;
                    let id = *expected.entry(word).or_insert(next);
                    prop_assert_eq!(interner.id(word.as_bytes()), id);
                }
                prop_assert_eq!(interner.len(), expected.len());
            }
        }
    }
}

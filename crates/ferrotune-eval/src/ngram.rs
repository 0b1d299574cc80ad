//! Counting n-grams that two texts share, without a hash map of strings.
//!
//! Tokens become small ids, and an n-gram becomes the pair (id of its first n-1 tokens, id of its last token), which is
//! a `u64` key of an open-addressing table. Both tables are emptied by raising a stamp, so one set of buffers serves
//! all samples that a thread scores.

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
const PACKED: usize = 15;

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

    /// The first `length` bytes of a text; of both numbers only the bytes below `length` count. At most [`PACKED`].
    #[inline]
    pub(crate) fn at_start(text: &'b [u8; 16], length: usize) -> Self {
        let [low, high] = halves(text);
        let kept = |bytes: usize| u64::MAX.checked_shr(64 - 8 * bytes as u32).unwrap_or(0);
        let (in_low, in_high) = (length.min(8), length.saturating_sub(8));
        let key = Key { low: low & kept(in_low), high: high & kept(in_high) | (length as u64) << 56 };
        Self { bytes: &text[..length], key }
    }

    pub(crate) fn bytes(&self) -> &'b [u8] {
        self.bytes
    }
}

/// The two numbers that sixteen bytes are.
#[inline]
pub(crate) fn halves(text: &[u8; 16]) -> [u64; 2] {
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

/// Ids for keys of 64 bits.
#[derive(Clone, Debug, Default)]
struct KeyTable {
    slots: Vec<KeySlot>,
    used: usize,
    stamp: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct KeySlot {
    key: u64,
    id: u32,
    stamp: u32,
}

impl KeyTable {
    /// Forgets all keys and makes room for `keys` new ones.
    fn reset(&mut self, keys: usize) {
        // At most a quarter full, so that most keys are where they are looked for first.
        let size = (4 * keys + 4).next_power_of_two();
        self.used = 0;
        self.stamp = self.stamp.wrapping_add(1);
        if self.slots.len() < size || self.stamp == 0 {
            self.slots.clear();
            self.slots.resize(size, KeySlot::default());
            self.stamp = 1;
        }
    }

    fn find(&self, key: u64) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut at = fold(key) as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.stamp != self.stamp {
                return Err(at);
            }
            if slot.key == key {
                return Ok(slot.id);
            }
            at = (at + 1) & mask;
        }
    }

    fn insert(&mut self, key: u64) -> u32 {
        match self.find(key) {
            Ok(id) => id,
            Err(at) => {
                let id = self.used as u32;
                self.slots[at] = KeySlot { key, id, stamp: self.stamp };
                self.used += 1;
                id
            }
        }
    }
}

/// Stands for an n-gram that occurs in no reference.
const ABSENT: u32 = u32::MAX;

/// Buffers for [`clipped_matches`](Overlap::clipped_matches).
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlap {
    keys: KeyTable,
    hypothesis: Vec<u32>,
    references: Vec<Vec<u32>>,
    most: Vec<u32>,
    here: Vec<u32>,
}

impl Overlap {
    /// For each order n from 1 to `matches.len()`: how many n-grams of `hypothesis` occur in the references, each
    /// counted at most as often as in the reference that has it most often. Tokens are small numbers.
    pub(crate) fn clipped_matches(&mut self, references: &[&[u32]], hypothesis: &[u32], matches: &mut [u64]) {
        let total: usize = references.iter().map(|r| r.len()).sum();
        self.references.resize(references.len(), Vec::new());
        for order in 1..=matches.len() {
            self.keys.reset(total);
            self.most.clear();
            for (tokens, grams) in references.iter().zip(&mut self.references) {
                extend_grams(order, tokens, grams, |key| Some(self.keys.insert(key)));
                let ids = match order {
                    1 => tokens.iter().max().map_or(0, |&largest| largest as usize + 1),
                    _ => self.keys.used,
                };
                self.most.resize(self.most.len().max(ids), 0);
                if references.len() == 1 {
                    grams.iter().for_each(|&gram| self.most[gram as usize] += 1);
                } else {
                    self.here.clear();
                    self.here.resize(ids, 0);
                    grams.iter().for_each(|&gram| self.here[gram as usize] += 1);
                    self.most.iter_mut().zip(&self.here).for_each(|(most, &here)| *most = (*most).max(here));
                }
            }
            extend_grams(order, hypothesis, &mut self.hypothesis, |key| self.keys.find(key).ok());
            let mut matched = 0;
            for &gram in &self.hypothesis {
                if let Some(left) = self.most.get_mut(gram as usize).filter(|left| **left > 0) {
                    *left -= 1;
                    matched += 1;
                }
            }
            matches[order - 1] = matched;
        }
    }
}

/// Turns the ids of (n-1)-grams at every position into ids of n-grams. Tokens are their own ids.
fn extend_grams(
    order: usize,
    tokens: &[u32],
    grams: &mut Vec<u32>,
    mut id_of: impl FnMut(u64) -> Option<u32>,
) {
    if order == 1 {
        grams.clear();
        grams.extend_from_slice(tokens);
        return;
    }
    grams.truncate((tokens.len() + 1).saturating_sub(order));
    for (gram, &last) in grams.iter_mut().zip(tokens.iter().skip(order - 1)) {
        if *gram != ABSENT {
            *gram = id_of(u64::from(*gram) << 32 | u64::from(last)).unwrap_or(ABSENT);
        }
    }
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
        fn tables_count_what_maps_count(
            references in prop::collection::vec(prop::collection::vec(0_u32..5, 0..30), 1..4),
            hypotheses in prop::collection::vec(prop::collection::vec(0_u32..6, 0..30), 1..4),
        ) {
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

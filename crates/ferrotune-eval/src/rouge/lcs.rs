//! Longest common subsequences: the length alone by bit-parallelism, or the chosen indices by the full table.

/// Buffers for both algorithms; word ids must be small numbers.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// For each word id the start of its row in `masks`, or [`NO_ROW`].
    row_of: Vec<u32>,
    masks: Vec<u64>,
    state: Vec<u64>,
    table: Vec<u32>,
    hit: Vec<bool>,
    left_in_reference: Vec<u32>,
    left_in_prediction: Vec<u32>,
}

const NO_ROW: u32 = u32::MAX;

impl Buffers {
    /// The length of a longest common subsequence of two lists of ids below `vocabulary`.
    ///
    /// *Source*: Hyyrö, "Bit-parallel LCS-length computation revisited", 2004: V := (V + (V & M)) | (V & ~M) for each
    /// token of the other list; the zeros of V count.
    pub(super) fn length(&mut self, reference: &[u32], prediction: &[u32], vocabulary: usize) -> usize {
        let words = reference.len().div_ceil(64);
        self.row_of.clear();
        self.row_of.resize(vocabulary, NO_ROW);
        self.masks.clear();
        for (i, &id) in reference.iter().enumerate() {
            let row = &mut self.row_of[id as usize];
            if *row == NO_ROW {
                *row = self.masks.len() as u32;
                self.masks.resize(self.masks.len() + words, 0);
            }
            self.masks[*row as usize + i / 64] |= 1 << (i % 64);
        }
        self.state.clear();
        self.state.resize(words, u64::MAX);
        for &id in prediction {
            let row = self.row_of[id as usize];
            if row == NO_ROW {
                continue;
            }
            let mut carry = false;
            for (v, &mask) in self.state.iter_mut().zip(&self.masks[row as usize..]) {
                let (sum, over) = v.overflowing_add(*v & mask);
                let (sum, over_again) = sum.overflowing_add(u64::from(carry));
                carry = over || over_again;
                *v = sum | (*v & !mask);
            }
        }
        // Bits past the end of the reference are in no mask, and a bit outside the mask stays set: they never count.
        self.state.iter().map(|v| v.count_zeros() as usize).sum()
    }

    /// The hits of ROUGE-Lsum: for each reference sentence the union of one longest common subsequence with every
    /// sentence of the prediction, each token counted at most as often as it occurs on either side.
    pub(super) fn summary_hits<'s>(
        &mut self,
        reference: impl Iterator<Item = &'s [u32]> + Clone,
        prediction: impl Iterator<Item = &'s [u32]> + Clone,
        vocabulary: usize,
    ) -> usize {
        for (left, sentences) in [
            (&mut self.left_in_reference, &mut reference.clone() as &mut dyn Iterator<Item = &[u32]>),
            (&mut self.left_in_prediction, &mut prediction.clone()),
        ] {
            left.clear();
            left.resize(vocabulary, 0);
            sentences.flatten().for_each(|&id| left[id as usize] += 1);
        }
        let mut hits = 0;
        for sentence in reference {
            self.hit.clear();
            self.hit.resize(sentence.len(), false);
            for other in prediction.clone() {
                self.mark_common(sentence, other);
            }
            for (&id, _) in sentence.iter().zip(&self.hit).filter(|(_, hit)| **hit) {
                let left =
                    (&mut self.left_in_reference[id as usize], &mut self.left_in_prediction[id as usize]);
                if *left.0 > 0 && *left.1 > 0 {
                    hits += 1;
                    *left.0 -= 1;
                    *left.1 -= 1;
                }
            }
        }
        hits
    }

    /// Marks the indices of one longest common subsequence in `self.hit`. Which one matters: going back, the table is
    /// left upwards unless the left neighbour is strictly larger, as in the reference.
    fn mark_common(&mut self, reference: &[u32], prediction: &[u32]) {
        let width = prediction.len() + 1;
        self.table.clear();
        self.table.resize((reference.len() + 1) * width, 0);
        for (i, r) in reference.iter().enumerate() {
            let (above, row) = self.table[i * width..(i + 2) * width].split_at_mut(width);
            for (j, p) in prediction.iter().enumerate() {
                row[j + 1] = if r == p { above[j] + 1 } else { above[j + 1].max(row[j]) };
            }
        }
        let (mut i, mut j) = (reference.len(), prediction.len());
        while i > 0 && j > 0 {
            if reference[i - 1] == prediction[j - 1] {
                self.hit[i - 1] = true;
                i -= 1;
                j -= 1;
            } else if self.table[i * width + j - 1] > self.table[(i - 1) * width + j] {
                j -= 1;
            } else {
                i -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_table(a: &[u32], b: &[u32]) -> usize {
        let mut row = vec![0; b.len() + 1];
        for x in a {
            let mut diagonal = 0;
            for (j, y) in b.iter().enumerate() {
                let above = row[j + 1];
                row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
                diagonal = above;
            }
        }
        row[b.len()]
    }

    proptest! {
        #[test]
        fn bit_parallel_length_equals_the_table(
            a in prop::collection::vec(0_u32..4, 0..200),
            b in prop::collection::vec(0_u32..5, 0..200),
        ) {
            let mut buffers = Buffers::default();
            prop_assert_eq!(buffers.length(&a, &b, 5), by_table(&a, &b));
            prop_assert_eq!(buffers.length(&b, &a, 5), by_table(&a, &b));
        }
    }
}

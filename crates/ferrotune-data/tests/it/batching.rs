//! Batch plans as permutations, their padding, and the layout of a batch.

use ferrotune_core::Sample;
use ferrotune_data::{Batch, LastBatch, batches, evaluation_batches};
use proptest::prelude::*;
use serde::Deserialize;

use crate::inputs::golden_json;

#[derive(Deserialize)]
struct Plans {
    lengths: Vec<usize>,
    epochs: Vec<Epoch>,
}

#[derive(Deserialize)]
struct Epoch {
    epoch: u64,
    order: Vec<usize>,
    batches: Vec<usize>,
}

/// Padded positions of a plan.
fn padding(plan: &[Vec<usize>], lengths: &[usize]) -> usize {
    plan.iter()
        .map(|batch| {
            let longest = batch.iter().map(|&at| lengths[at]).max().unwrap_or(0);
            batch.iter().map(|&at| longest - lengths[at]).sum::<usize>()
        })
        .sum()
}

#[test]
fn an_epochs_plan_follows_its_definition_on_independent_permutations() {
    let Plans { lengths, epochs } = golden_json("permutations.json");
    for Epoch { epoch, order, batches: shuffled } in epochs {
        // 53 samples in batches of 4: 13 full ones and one over; pieces of 53 / 16 = 3 batches.
        let (full, rest) = order.split_at(52);
        let mut sorted = Vec::new();
        for piece in full.chunks(12) {
            let mut piece = piece.to_vec();
            piece.sort_by(|&a, &b| lengths[b].cmp(&lengths[a]));
            sorted.extend(piece.chunks(4).map(<[usize]>::to_vec));
        }
        let mut expected: Vec<Vec<usize>> = shuffled.iter().map(|&at| sorted[at].clone()).collect();
        let longest = full.iter().map(|&at| lengths[at]).max().unwrap();
        let first = expected.iter().position(|batch| batch.iter().any(|&at| lengths[at] == longest)).unwrap();
        expected.swap(0, first);
        let dropped = batches(&lengths, 4, 42, epoch, LastBatch::Drop).unwrap();
        assert_eq!(dropped, expected);
        expected.push(rest.to_vec());
        assert_eq!(batches(&lengths, 4, 42, epoch, LastBatch::Keep).unwrap(), expected);
    }
}

#[test]
fn epochs_and_seeds_differ_and_repeat() {
    let lengths: Vec<usize> = (0..100).collect();
    let plan = |seed, epoch| batches(&lengths, 4, seed, epoch, LastBatch::Keep).unwrap();
    assert_eq!(plan(1, 0), plan(1, 0));
    assert_ne!(plan(1, 0), plan(1, 1));
    assert_ne!(plan(1, 0), plan(2, 0));
    // A seed and an epoch are not interchangeable.
    assert_ne!(plan(1, 2), plan(2, 1));
}

#[test]
fn grouping_by_length_saves_most_of_the_padding() {
    let lengths: Vec<usize> = (0..2000).map(|at| 20 + (at * 7919) % 1000).collect();
    let grouped = padding(&batches(&lengths, 8, 42, 0, LastBatch::Keep).unwrap(), &lengths);
    let in_order: Vec<Vec<usize>> = (0..2000).collect::<Vec<_>>().chunks(8).map(<[usize]>::to_vec).collect();
    // Batches of 8 drawn at random pad by about 7/9 of half the spread for each sample; pieces of 400 sorted
    // samples leave a fiftieth of that. A tenth is far from both.
    assert!(grouped * 10 < padding(&in_order, &lengths), "{grouped}");
    let best = padding(&evaluation_batches(&lengths, 8).unwrap(), &lengths);
    assert!(best <= grouped);
}

#[test]
fn empty_sets_have_no_batches_and_batch_size_zero_is_refused() {
    assert!(batches(&[], 4, 0, 0, LastBatch::Keep).unwrap().is_empty());
    assert!(evaluation_batches(&[], 4).unwrap().is_empty());
    for refused in [batches(&[1], 0, 0, 0, LastBatch::Keep), evaluation_batches(&[1], 0)] {
        assert_eq!(refused.unwrap_err().to_string(), "batch_size is 0, expected at least 1");
    }
    assert_eq!(batches(&[5, 6, 7], 4, 0, 0, LastBatch::Keep).unwrap().len(), 1);
    assert!(batches(&[5, 6, 7], 4, 0, 0, LastBatch::Drop).unwrap().is_empty());
    for huge in [usize::MAX, 1 << 62] {
        assert_eq!(batches(&[5, 6, 7], huge, 0, 0, LastBatch::Keep).unwrap().len(), 1);
    }
}

#[test]
fn a_batch_pads_on_the_right_and_masks_by_length() {
    let long = Sample { ids: vec![1, 5, 6, 2], supervised: vec![true, false, true, true], truncated: false };
    let short = Sample { ids: vec![1, 2], supervised: vec![false, true], truncated: false };
    let batch = Batch::new([&long, &short], 2);
    assert_eq!((batch.rows, batch.columns), (2, 4));
    assert_eq!(batch.ids, [1, 5, 6, 2, 1, 2, 2, 2]);
    // Position 0 has nothing before it, and padding that equals EOS is no target.
    assert_eq!(batch.supervised, [false, false, true, true, false, true, false, false]);
    assert_eq!(batch.lengths, [4, 2]);
    assert_eq!((batch.tokens(), batch.supervised_tokens()), (6, 3));
    assert_eq!(Batch::new([], 0), Batch::default());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_is_a_permutation_with_the_longest_full_batch_first(
        lengths in prop::collection::vec(1usize..100, 0..300), batch_size in 1usize..9, seed: u64, epoch in 0u64..5,
    ) {
        let plan = batches(&lengths, batch_size, seed, epoch, LastBatch::Keep).unwrap();
        let mut all = plan.concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        let full = lengths.len() / batch_size;
        prop_assert!(plan[..full].iter().all(|batch| batch.len() == batch_size));
        prop_assert_eq!(plan.len(), lengths.len().div_ceil(batch_size));
        let longest = |batch: &Vec<usize>| batch.iter().map(|&at| lengths[at]).max();
        prop_assert_eq!(plan[..full].iter().map(longest).max(), plan[..full].first().map(longest));
        let dropped = batches(&lengths, batch_size, seed, epoch, LastBatch::Drop).unwrap();
        prop_assert_eq!(&dropped[..], &plan[..full]);
    }

    #[test]
    fn evaluation_sees_each_row_once(lengths in prop::collection::vec(1usize..100, 0..200), batch_size in 1usize..9) {
        let plan = evaluation_batches(&lengths, batch_size).unwrap();
        let mut all = plan.concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        prop_assert!(plan.is_sorted_by_key(|batch| std::cmp::Reverse(lengths[batch[0]])));
    }
}

//! The split against a second implementation of its generator, and as a partition.

use ferrotune_data::{Error, Split, SplitCounts, SplitSizes, split};
use proptest::prelude::*;
use serde::Deserialize;

use crate::inputs::golden_json;

#[derive(Deserialize)]
struct Plans {
    splits: Vec<Order>,
}

#[derive(Deserialize)]
struct Order {
    records: usize,
    seed: u64,
    order: Vec<usize>,
}

fn together(split: &Split) -> Vec<usize> {
    [&split.train[..], &split.validation, &split.test, &split.unused].concat()
}

#[test]
fn the_order_is_the_one_an_independent_chacha8_gives() {
    let plans: Plans = golden_json("permutations.json");
    assert_eq!(plans.splits.len(), 5);
    for Order { records, seed, order } in plans.splits {
        let (train, validation) = (records / 2, records / 4);
        let parts = split(records, SplitSizes::Counts { train, validation, test: 0 }, seed).unwrap();
        assert_eq!((parts.train.len(), parts.validation.len()), (train, validation));
        assert_eq!(together(&parts), order, "{records} records, seed {seed}");
    }
}

#[test]
fn fractions_that_sum_to_one_leave_nothing_over() {
    for records in [1, 3, 10, 999, 83_001] {
        let sizes = SplitSizes::Fractions { train: 0.8, validation: 0.1, test: 0.1 };
        let parts = split(records, sizes, 0).unwrap();
        assert!(parts.unused.is_empty(), "{records}");
        assert!(parts.train.len().abs_diff(records * 8 / 10) <= 1);
    }
}

#[test]
fn the_studys_counts_leave_the_rest_unused() {
    let sizes = SplitSizes::Counts { train: 83_000, validation: 10_000, test: 3_000 };
    let parts = split(108_169, sizes, 42).unwrap();
    let expected = SplitCounts { train: 83_000, validation: 10_000, test: 3_000, unused: 12_169 };
    assert_eq!(parts.counts(), expected);
}

#[test]
fn impossible_sizes_are_refused() {
    let refused = split(10, SplitSizes::Counts { train: 8, validation: 2, test: 1 }, 0).unwrap_err();
    assert!(matches!(refused, Error::SplitTooLarge { wanted: 11, available: 10, .. }), "{refused}");
    for (train, validation) in [(0.9, 0.2), (-0.1, 0.5), (f64::NAN, 0.1), (1.5, 0.0)] {
        let refused = split(10, SplitSizes::Fractions { train, validation, test: 0.0 }, 0).unwrap_err();
        assert!(matches!(refused, Error::Setting { .. }), "{refused}");
    }
    let huge = SplitSizes::Counts { train: usize::MAX, validation: 1, test: 1 };
    assert!(split(10, huge, 0).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_split_is_a_partition(records in 0usize..500, seed: u64, cuts in (0.0f64..1.0, 0.0f64..1.0)) {
        let (low, high) = (cuts.0.min(cuts.1), cuts.0.max(cuts.1));
        let sizes = SplitSizes::Fractions { train: low, validation: high - low, test: 1.0 - high };
        let parts = split(records, sizes, seed).unwrap();
        let mut all = together(&parts);
        all.sort_unstable();
        prop_assert_eq!(all, (0..records).collect::<Vec<_>>());
        prop_assert_eq!(split(records, sizes, seed).unwrap(), parts);
    }
}

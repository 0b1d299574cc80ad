//! The split against a second implementation of its generator, and as a partition.

use ferrotune_data::{Error, Record, Split, SplitCounts, SplitSizes, Turn, split};
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
    [&split.train[..], &split.validation, &split.test, &split.repeated, &split.unused].concat()
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
    let expected =
        SplitCounts { train: 83_000, validation: 10_000, test: 3_000, repeated: 0, unused: 12_169 };
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

#[test]
fn what_was_trained_on_is_not_measured() {
    let mut records: Vec<Record> = [
        "Name a prime.",         // 0, trains
        "Name a prime.",         // 1, trains: the training part stays as it is
        " name  a\nPRIME. ",     // 2, validates: the same but for case and white space
        "Name a square.",        // 3, validates
        "Name a square.",        // 4, held out: asked while validating
        "Name a cube.",          // 5, held out
        "Name a cube.",          // 6, held out: would count double
        "Name a prime. Thanks.", // 7, held out
        "Name a prime.",         // 8, held out: under another system message
        "Name a prime.",         // 9, held out: goes on with a second request
        "Name a prime.",         // 10, in no part
    ]
    .iter()
    .zip(0..)
    .map(|(request, row)| Record::new(*request, format!("answer {row}"), row))
    .collect();
    records[8].system = Some("Answer in French.".to_owned());
    records[9].turns.push(Turn { request: "Another.".to_owned(), response: "5".to_owned() });
    let mut split = Split {
        train: vec![1, 0],
        validation: vec![2, 3],
        test: vec![7, 6, 5, 4, 8, 9],
        unused: vec![10],
        ..Split::default()
    };
    assert_eq!(split.set_repeats_aside(&records), 3);
    let expected = Split {
        train: vec![1, 0],
        validation: vec![3],
        test: vec![7, 6, 8, 9],
        repeated: vec![2, 5, 4],
        unused: vec![10],
    };
    assert_eq!(split, expected);
    assert_eq!(split.set_repeats_aside(&records), 0);
    assert_eq!(split, expected);
}

#[test]
fn requests_are_not_confused_by_where_their_parts_end() {
    let turns = |requests: &[&str]| {
        let mut record = Record::new(requests[0], "a", 0);
        for request in &requests[1..] {
            record.turns.push(Turn { request: (*request).to_owned(), response: "a".to_owned() });
        }
        record
    };
    let mut system = turns(&["b"]);
    system.system = Some("a".to_owned());
    let records = [turns(&["a", "b"]), turns(&["a b"]), turns(&["a\nb"]), system, turns(&["a", "b", ""])];
    let mut split = Split { train: vec![0], test: vec![1, 2, 3, 4], ..Split::default() };
    split.set_repeats_aside(&records);
    // A line feed within a request is white space like any other.
    assert_eq!((split.test, split.repeated), (vec![1, 3, 4], vec![2]));
}

use ferrotune_eval::{
    Error, Failure, FailureKind, Measurement, Metric, Pair, SampleScore,
    bleu::{Bleu, BleuConfig},
    exact_match::RawExactMatch,
    statistics::{Bootstrap, compare, holm},
};
use proptest::prelude::*;

use crate::assert_close;

fn measurement(scores: &[f64]) -> Measurement {
    let samples = scores.iter().enumerate().map(|(i, &score)| SampleScore {
        id: i.to_string(),
        extracted: None,
        score: Ok(score),
    });
    Measurement::of_mean("m", "v", samples.collect())
}

/// Of n samples that differ by +1, all 2^n exchanges of which 2 are as extreme: p = 2^(1-n).
#[test]
fn few_samples_are_tested_exactly() {
    for n in 1..=12 {
        let (zeros, ones) = (measurement(&vec![0.0; n]), measurement(&vec![1.0; n]));
        let found = compare(&zeros, &ones, &Bootstrap::default()).unwrap();
        assert_eq!(found.p_value, 2.0_f64.powi(1 - n as i32), "{n}");
        assert!(found.method.contains("all exchanges enumerated"));
        assert_eq!((found.difference, found.n, found.n_left_out), (1.0, n, 0));
    }
}

/// With d differing pairs of which k favour the second, the test is the two-sided binomial test at 1/2 on k of d:
/// 12 of 16 gives 2 (1 + 16 + 120 + 560 + 1820) / 65536 = 0.0768127441.
#[test]
fn many_samples_are_tested_by_random_exchanges() {
    // 20 000 exchanges estimate a probability near 0.08 to 0.002; four standard errors.
    const SAMPLING: f64 = 0.008;
    let first: Vec<f64> = (0..40).map(|i| f64::from(u8::from((12..16).contains(&i)))).collect();
    let second: Vec<f64> = (0..40).map(|i| f64::from(u8::from(i < 12))).collect();
    let bootstrap = Bootstrap { resamples: 20_000, ..Bootstrap::default() };
    let found = compare(&measurement(&first), &measurement(&second), &bootstrap).unwrap();
    assert!((found.p_value - 0.0768127441).abs() < SAMPLING, "{found:?}");
    assert_close(found.difference, 0.2, "difference");
    let [low, high] = found.ci95.unwrap();
    // The standard error of the mean difference is sqrt((16/40 - 0.04) / 40) = 0.0949; the normal interval is +-0.186.
    assert!((low - 0.0141).abs() < 0.03 && (high - 0.3859).abs() < 0.03, "{low} {high}");
}

#[test]
fn corpus_metrics_are_compared_by_their_statistics() {
    let bleu = Bleu::new(BleuConfig::default()).unwrap();
    let text = |i: usize| format!("sample {i} says that the cat sat on the mat near door {i}");
    let measure = |change: fn(&str) -> String| {
        let pairs: Vec<Pair> = (0..10).map(|i| Pair::new(i.to_string(), change(&text(i)), text(i))).collect();
        bleu.measure(&pairs).unwrap().remove(0)
    };
    let (good, bad) = (measure(str::to_owned), measure(|t| t.replace("cat", "dog")));
    let found = compare(&bad, &good, &Bootstrap::default()).unwrap();
    assert_close(found.first, bad.value().unwrap(), "first");
    assert_close(found.second, good.value().unwrap(), "second");
    assert_eq!(found.p_value, 2.0 / 1024.0);
}

#[test]
fn samples_are_matched_by_id_and_failures_left_out() {
    let pairs = |ids: [&str; 3]| ids.map(|id| Pair::new(id, id, "b"));
    let metric = RawExactMatch::default();
    let measure = |ids| metric.measure(&pairs(ids)).unwrap().remove(0);
    let (first, second) = (measure(["a", "b", "c"]), measure(["d", "c", "b"]));
    let found = compare(&first, &second, &Bootstrap::default()).unwrap();
    // `a` is of the first only, `d` of the second only.
    assert_eq!((found.n, found.n_left_out, found.difference, found.p_value), (2, 2, 0.0, 1.0));
    let failure = Failure { kind: FailureKind::NoAnswer, detail: String::new() };
    let failed = |fails: usize| {
        let score = |i| if i == fails { Err(failure.clone()) } else { Ok(i as f64) };
        let samples =
            (0..3).map(|i| SampleScore { id: i.to_string(), extracted: None, score: score(i) }).collect();
        Measurement::of_mean("m", "v", samples)
    };
    let found = compare(&failed(0), &failed(2), &Bootstrap::default()).unwrap();
    assert_eq!((found.first, found.second, found.n, found.n_left_out), (1.0, 1.0, 1, 2));
    assert_eq!(found.ci95, None);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let refused = |a: &Measurement, b: &Measurement| {
        assert!(matches!(compare(a, b, &Bootstrap::default()).unwrap_err(), Error::Setting { .. }));
    };
    let one = measurement(&[1.0]);
    let other = Measurement { variant: "w".to_owned(), ..one.clone() };
    refused(&one, &other);
    refused(&one, &measurement(&[]));
    refused(&one, &measurement(&[f64::INFINITY]));
}

#[test]
fn a_difference_that_is_always_the_same_has_no_interval() {
    for difference in [0.0, 0.3] {
        let first = [0.1, 0.5, 0.25, 0.6];
        let second = first.map(|score| score + difference);
        let found = compare(&measurement(&first), &measurement(&second), &Bootstrap::default()).unwrap();
        assert_eq!(found.ci95, None, "{found:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn comparing_the_other_way_round_changes_the_sign_only(scores in prop::collection::vec((0.0..1.0, 0.0..1.0), 1..20)) {
        let (a, b): (Vec<f64>, Vec<f64>) = scores.into_iter().unzip();
        let bootstrap = Bootstrap { resamples: 200, ..Bootstrap::default() };
        let there = compare(&measurement(&a), &measurement(&b), &bootstrap).unwrap();
        let back = compare(&measurement(&b), &measurement(&a), &bootstrap).unwrap();
        prop_assert_eq!(there.difference, -back.difference);
        prop_assert_eq!(there.p_value, back.p_value);
        prop_assert!((0.0..=1.0).contains(&there.p_value) && there.p_value > 0.0);
    }

    #[test]
    fn holm_keeps_order_and_never_lowers(p_values in prop::collection::vec(0.0..=1.0_f64, 0..12)) {
        let adjusted = holm(&p_values).unwrap();
        for (i, (&p, &q)) in p_values.iter().zip(&adjusted).enumerate() {
            prop_assert!(p <= q && q <= 1.0);
            for (j, &r) in p_values.iter().enumerate() {
                if p < r {
                    prop_assert!(adjusted[i] <= adjusted[j]);
                }
            }
        }
    }
}

/// By hand: sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last is raised to 0.06.
#[test]
fn holm_equals_the_hand_computation() {
    let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]).unwrap();
    for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
        assert_close(*found, expected, "holm");
    }
    assert!(holm(&[f64::NAN]).is_err() && holm(&[1.1]).is_err());
    assert_eq!(holm(&[]).unwrap(), Vec::<f64>::new());
}

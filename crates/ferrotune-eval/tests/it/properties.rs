use ferrotune_eval::{
    Pair, Registry,
    rouge::{Rouge, RougeKind, Stemming},
};
use proptest::prelude::*;

/// Words of few letters, so that texts share some; now and then something unusual.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "([abc]{1,2}[ .,\n]){0,12}", 1 => "\\PC{0,20}"]
}

fn pairs() -> impl Strategy<Value = Vec<Pair>> {
    let pair = (text(), prop::collection::vec(text(), 1..3));
    prop::collection::vec(pair, 1..8).prop_map(|pairs| {
        let with_id = |(i, (prediction, references)): (usize, (String, Vec<String>))| Pair {
            id: i.to_string(),
            instruction: None,
            prediction,
            references,
        };
        pairs.into_iter().enumerate().map(with_id).collect()
    })
}

/// Sums of logarithms in the score of identical texts exceed 100 by an ulp or two, as in the reference.
const ULPS: f64 = 1e-12;

fn upper_bound(metric: &str) -> f64 {
    if matches!(metric, "bleu" | "chrf") { 100.0 + 1e-9 } else { 1.0 + ULPS }
}

fn text_metrics() -> &'static str {
    "bleu,chrf,rouge,rouge5,rougeS4,rougeSU4,meteor,meteor_corrected,exact_match,squad_em,token_f1"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn scores_stay_in_bounds(pairs in pairs()) {
        for metric in Registry::with_text_metrics().unwrap().resolve(text_metrics()).unwrap() {
            for found in metric.measure(&pairs).unwrap() {
                let bound = upper_bound(&found.metric);
                for sample in &found.samples {
                    let score = *sample.score.as_ref().unwrap();
                    prop_assert!((0.0..=bound).contains(&score), "{} {score} {pairs:?}", found.metric);
                }
                let value = found.value().unwrap();
                prop_assert!((0.0..=bound).contains(&value), "{} {value}", found.metric);
            }
        }
    }

    #[test]
    fn a_sample_scores_the_same_alone_and_in_any_order(pairs in pairs()) {
        let reversed: Vec<Pair> = pairs.iter().rev().cloned().collect();
        for metric in Registry::with_text_metrics().unwrap().resolve(text_metrics()).unwrap() {
            let together = metric.measure(&pairs).unwrap();
            let backwards = metric.measure(&reversed).unwrap();
            for (k, found) in together.iter().enumerate() {
                for (i, sample) in found.samples.iter().enumerate() {
                    let alone = metric.measure(&pairs[i..=i]).unwrap();
                    prop_assert_eq!(&alone[k].samples[0], sample);
                    prop_assert_eq!(&backwards[k].samples[pairs.len() - 1 - i], sample);
                }
                let (a, b) = (found.value().unwrap(), backwards[k].value().unwrap());
                prop_assert!((a - b).abs() <= ULPS * a.abs().max(1.0), "{}: {a} {b}", found.metric);
            }
        }
    }

    #[test]
    fn identical_texts_score_full_marks(text in "[abc]{1,3}( [abc]{1,3}){4,12}") {
        let words = text.split(' ').count();
        let pairs = [Pair::new("1", text.clone(), text)];
        for metric in Registry::with_text_metrics().unwrap().resolve(text_metrics()).unwrap() {
            for found in metric.measure(&pairs).unwrap() {
                // SQuAD removes the article, so a text of nothing but "a" is empty, and equal to itself all the same.
                let full = match found.metric.as_str() {
                    "bleu" | "chrf" => 100.0,
                    // One chunk of m words: 1 - 0.5 / m^3.
                    "meteor" | "meteor_corrected" => 1.0 - 0.5 / (words as f64).powi(3),
                    _ => 1.0,
                };
                let value = found.value().unwrap();
                prop_assert!((value - full).abs() < 1e-9, "{} {value}", found.metric);
            }
        }
    }

    #[test]
    fn swapping_the_texts_swaps_precision_and_recall(a in text(), b in text()) {
        let kinds = vec![RougeKind::N(1), RougeKind::N(2), RougeKind::L, RougeKind::S { skip: Some(2) }];
        let rouge = Rouge::new(kinds, Stemming::Porter).unwrap();
        for (there, back) in rouge.score(&a, &b).iter().zip(rouge.score(&b, &a)) {
            prop_assert_eq!((there.precision, there.recall), (back.recall, back.precision));
            prop_assert!((there.f_measure - back.f_measure).abs() < ULPS);
        }
    }

    #[test]
    fn one_more_reference_never_lowers_a_best_of_references_score(pairs in pairs(), more in text()) {
        let mut richer = pairs.clone();
        richer.iter_mut().for_each(|pair| pair.references.push(more.clone()));
        let metrics = Registry::with_text_metrics().unwrap().resolve("rouge,chrf,meteor,meteor_corrected,exact_match,squad_em,token_f1").unwrap();
        for metric in metrics {
            for (less, more) in metric.measure(&pairs).unwrap().iter().zip(metric.measure(&richer).unwrap()) {
                for (less, more) in less.samples.iter().zip(&more.samples) {
                    prop_assert!(more.score.as_ref().unwrap() >= less.score.as_ref().unwrap());
                }
            }
        }
    }
}

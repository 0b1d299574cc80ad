use ferrotune_eval::{
    Error, Metric, Pair,
    rouge::{Alphabet, Prf, Rouge, RougeKind, Stemming},
};

use crate::{assert_close, golden, golden_pairs, strings};

fn all_kinds() -> Vec<RougeKind> {
    (1..=9).map(RougeKind::N).chain([RougeKind::L, RougeKind::Lsum]).collect()
}

#[test]
fn every_kind_equals_rouge_score() {
    let golden = golden!("rouge");
    let pairs = golden_pairs(&golden["pairs"]);
    for (name, stemming) in [("plain", Stemming::None), ("stemmed", Stemming::Porter)] {
        let rouge = Rouge::new(all_kinds(), stemming).unwrap();
        let names: Vec<String> = rouge.kinds().iter().map(ToString::to_string).collect();
        assert_eq!(names, strings(&golden["kinds"]));
        let expected = golden[name].as_array().unwrap();
        assert_eq!(expected.len(), pairs.len());
        for ((pair, scores), expected) in pairs.iter().zip(rouge.score_pairs(&pairs)).zip(expected) {
            for (k, (score, kind)) in scores.iter().zip(&names).enumerate() {
                let what = format!("{kind} {name} of {pair:?}");
                assert_close(score.precision, expected[k][0].as_f64().unwrap(), &what);
                assert_close(score.recall, expected[k][1].as_f64().unwrap(), &what);
                assert_close(score.f_measure, expected[k][2].as_f64().unwrap(), &what);
            }
        }
    }
}

/// rouge-score's values, printed to ten digits: target, prediction, F of ROUGE-1, -2, -L, -Lsum.
#[test]
fn known_pairs_score_as_tabled() {
    const PRINTED: f64 = 1e-10;
    let kinds = vec![RougeKind::N(1), RougeKind::N(2), RougeKind::L, RougeKind::Lsum];
    let plain = Rouge::new(kinds.clone(), Stemming::None).unwrap();
    let stemmed = Rouge::new(kinds, Stemming::Porter).unwrap();
    let fox = "The quick brown fox jumps over the lazy dog";
    let runners =
        ("Running runners ran quickly; flying flies died.", "The runner runs quick and the fly dies");
    for (rouge, target, prediction, expected) in [
        (
            &plain,
            fox,
            "The quick brown dog jumps on the log.",
            [0.7058823529, 0.2666666667, 0.5882352941, 0.5882352941],
        ),
        (
            &plain,
            "the cat was found under the bed",
            "the cat was under the bed",
            [0.9230769231, 0.7272727273, 0.9230769231, 0.9230769231],
        ),
        (
            &plain,
            "One two three.\nFour five six.",
            "Four five six.\nOne two.",
            [0.9090909091, 0.6666666667, 0.5454545455, 0.9090909091],
        ),
        (
            &plain,
            "a b c d\ne f g h",
            "a c\nb d\ne h",
            [0.8571428571, 0.1666666667, 0.7142857143, 0.8571428571],
        ),
        (
            &plain,
            "It's a test_case, e-mail me at 3.5%",
            "its a test case email me at 35",
            [0.5263157895, 0.3529411765, 0.5263157895, 0.5263157895],
        ),
        (&stemmed, runners.0, runners.1, [0.4, 0.0, 0.2666666667, 0.2666666667]),
        (&plain, runners.0, runners.1, [0.0; 4]),
        (&plain, "naïve café résumé", "naive cafe resume", [0.0; 4]),
        (&plain, "", "a", [0.0; 4]),
        (&plain, "a", "", [0.0; 4]),
        (&plain, "?!", "...", [0.0; 4]),
    ] {
        for (score, expected) in rouge.score(target, prediction).iter().zip(expected) {
            assert!(
                (score.f_measure - expected).abs() < PRINTED,
                "{target:?} {prediction:?} {score:?} {expected}"
            );
        }
    }
}

/// Lin 2004, section 5: one reference, three candidates, all of four words; β = 1. S2 shares three of six skip-bigrams,
/// S3 one, S4 two.
#[test]
fn skip_bigrams_score_as_in_the_paper() {
    let rouge = Rouge::new(vec![RougeKind::S { skip: None }], Stemming::None).unwrap();
    for (candidate, shared) in
        [("police kill the gunman", 3.0), ("the gunman kill police", 1.0), ("the gunman police killed", 2.0)]
    {
        let score = rouge.score("police killed the gunman", candidate)[0];
        assert_eq!(score, Prf::new(shared / 6.0, shared / 6.0), "{candidate}");
    }
}

/// "a b c d" has the pairs ab ac ad bc bd cd. With no word between: ab bc cd; with one: also ac bd. "a c b d" has ac cb
/// bd, and with one between also ab cd. With single words each side has four parts more, all shared.
#[test]
fn skip_bigrams_keep_their_distance() {
    for (kind, expected) in [
        (RougeKind::S { skip: Some(0) }, 0.0),
        (RougeKind::S { skip: Some(1) }, 4.0 / 5.0),
        (RougeKind::S { skip: None }, 5.0 / 6.0),
        (RougeKind::Su { skip: Some(0) }, 4.0 / 7.0),
        (RougeKind::Su { skip: Some(1) }, 8.0 / 9.0),
        (RougeKind::Su { skip: None }, 9.0 / 10.0),
    ] {
        let rouge = Rouge::new(vec![kind], Stemming::None).unwrap();
        assert_close(rouge.score("a b c d", "a c b d")[0].f_measure, expected, &kind.to_string());
    }
}

#[test]
fn unicode_alphabet_sees_words_that_the_reference_does_not() {
    let kinds = vec![RougeKind::N(1)];
    let reference = Rouge::new(kinds, Stemming::None).unwrap();
    let unicode = reference.clone().with_alphabet(Alphabet::Unicode);
    let text = "Русский текст и हिन्दी";
    assert_eq!(reference.score(text, text)[0].f_measure, 0.0);
    assert_eq!(unicode.score(text, text)[0].f_measure, 1.0);
    let variant = &unicode.measure(&[Pair::new("1", text, text)]).unwrap()[0].variant;
    assert!(variant.contains("unicode"), "{variant}");
}

#[test]
fn orders_out_of_range_are_refused() {
    for n in [0, 10] {
        let error = Rouge::new(vec![RougeKind::N(n)], Stemming::None).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
    }
}

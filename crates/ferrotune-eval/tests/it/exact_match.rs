use ferrotune_eval::exact_match::{EmptyAnswers, RawExactMatch, Squad};

use crate::{assert_close, golden, numbers, strings};

#[test]
fn squad_normalization_and_scores_equal_the_scripts() {
    let golden = golden!("squad");
    let squad = Squad::new();
    for (text, expected) in strings(&golden["texts"]).iter().zip(strings(&golden["normalized"])) {
        assert_eq!(squad.normalize(text), expected, "{text:?}");
    }
    let pairs: Vec<Vec<String>> = golden["pairs"].as_array().unwrap().iter().map(strings).collect();
    let (exact, v1, v2) = (numbers(&golden["exact"]), numbers(&golden["f1_v1"]), numbers(&golden["f1_v2"]));
    assert_eq!(pairs.len(), exact.len());
    for (i, pair) in pairs.iter().enumerate() {
        let (prediction, gold) = (&pair[0], &pair[1]);
        assert_eq!(f64::from(u8::from(squad.exact_match(prediction, gold))), exact[i], "{pair:?}");
        assert_close(squad.token_f1(prediction, gold, EmptyAnswers::ScoreZero), v1[i], &format!("{pair:?}"));
        assert_close(
            squad.token_f1(prediction, gold, EmptyAnswers::ScoreEquality),
            v2[i],
            &format!("{pair:?}"),
        );
    }
}

#[test]
fn squad_scores_as_tabled() {
    let squad = Squad::new();
    for (prediction, gold, exact, v1, v2) in [
        ("The Cat!", "cat", true, 1.0, 1.0),
        ("a an the", "", true, 0.0, 1.0),
        ("U.S.A.", "USA", true, 1.0, 1.0),
        ("twenty-one", "twenty one", false, 0.0, 0.0),
        ("twenty-one", "twentyone", true, 1.0, 1.0),
        ("“Paris”", "Paris", false, 0.0, 0.0),
        ("Ünïted", "united", false, 0.0, 0.0),
        ("3,000", "3000", true, 1.0, 1.0),
        ("dog cat", "cat dog", false, 1.0, 1.0),
    ] {
        assert_eq!(squad.exact_match(prediction, gold), exact, "{prediction} / {gold}");
        assert_eq!(squad.token_f1(prediction, gold, EmptyAnswers::ScoreZero), v1, "{prediction} / {gold}");
        assert_eq!(
            squad.token_f1(prediction, gold, EmptyAnswers::ScoreEquality),
            v2,
            "{prediction} / {gold}"
        );
    }
}

#[test]
fn raw_equality_applies_its_options_in_order() {
    let raw = RawExactMatch::default();
    let loose = RawExactMatch { ignore_case: true, ignore_punctuation: true, ..raw.clone() };
    let gsm8k = [",", r"\$", "(?s).*: ", r"\.$"]
        .into_iter()
        .fold(raw.clone(), |matcher, pattern| matcher.removing(pattern).unwrap());
    for (matcher, prediction, gold, expected) in [
        (&raw, "Hello", "hello", false),
        (&loose, "Hello", "hello", true),
        (&raw, " a", "a", false),
        (&gsm8k, "Answer: $5,000.", "5000", true),
        (&loose, "18.00", "18", false),
        (&loose, "-5", "5", true),
        (&loose, "1234.50", "123450", true),
    ] {
        assert_eq!(matcher.matches(prediction, gold), expected, "{prediction} / {gold}");
    }
}

#[test]
fn patterns_that_do_not_compile_are_refused() {
    let error = RawExactMatch::default().removing("(?<=a)b").unwrap_err();
    assert!(error.to_string().contains("look-around"), "{error}");
}

use ferrotune_eval::{
    Error,
    benchmark::{
        ChoiceExtractor, ChoiceScore, MGSM_ANSWER_PREFIXES, PythonRandom, between_dollars, gsm8k_flexible,
        gsm8k_gold, gsm8k_strict, last_boxed, math_equivalent, mean_pass_at_k, mgsm_answer, mgsm_matches,
        most_likely_choice, pass_at_k, same_number,
    },
};
use serde_json::Value;

use crate::{assert_close, golden, strings};

/// Runs one extractor over one list of responses of the golden file.
fn check(golden: &Value, responses: &str, name: &str, extract: impl Fn(&str) -> Option<String>) {
    let responses = strings(&golden[responses]);
    let expected = golden[name].as_array().unwrap();
    assert_eq!(responses.len(), expected.len());
    for (response, expected) in responses.iter().zip(expected) {
        assert_eq!(extract(response).as_deref(), expected.as_str(), "{name} on {response:?}");
    }
}

#[test]
fn answers_are_found_where_the_references_find_them() {
    let golden = golden!("answers");
    let choice = ChoiceExtractor::new().unwrap();
    check(&golden, "responses", "mmlu", |r| choice.mmlu(r));
    check(&golden, "responses", "gpqa", |r| choice.gpqa(r));
    let prefix = |language: &str| MGSM_ANSWER_PREFIXES.iter().find(|(name, _)| *name == language).unwrap().1;
    check(&golden, "number_responses", "mgsm_en", |r| mgsm_answer(r, prefix("en")));
    check(&golden, "number_responses", "mgsm_de", |r| mgsm_answer(r, prefix("de")));
    check(&golden, "number_responses", "gsm8k_strict", gsm8k_strict);
    check(&golden, "number_responses", "gsm8k_flexible", gsm8k_flexible);
}

#[test]
fn answers_are_compared_as_the_references_compare_them() {
    let golden = golden!("answers");
    for (list, table, equal) in [
        ("numbers", "mgsm_matches", mgsm_matches as fn(&str, &str) -> bool),
        ("math", "math_equivalent", math_equivalent),
    ] {
        let texts = strings(&golden[list]);
        for (a, row) in texts.iter().zip(golden[table].as_array().unwrap()) {
            for (b, expected) in texts.iter().zip(row.as_array().unwrap()) {
                assert_eq!(equal(a, b), expected.as_bool().unwrap(), "{table}: {a:?} and {b:?}");
            }
        }
    }
}

#[test]
fn choices_are_read_as_tabled() {
    let choice = ChoiceExtractor::new().unwrap();
    for (response, gpqa, mmlu) in [
        ("Answer: B", Some("B"), Some("B")),
        ("answer : $C$", Some("C"), Some("C")),
        ("**Answer:** D", None, Some("D")),
        ("Answer: Apple", Some("A"), Some("A")),
        ("Answer:\nB", None, None),
        ("Answer: A … Answer: C", Some("A"), Some("A")),
        ("The answer is B", None, None),
        ("Final Answer: (B)", None, None),
        ("Antwort: C", None, Some("C")),
        ("答案：B", None, Some("B")),
    ] {
        assert_eq!(choice.gpqa(response).as_deref(), gpqa, "{response}");
        assert_eq!(choice.mmlu(response).as_deref(), mmlu, "{response}");
    }
}

#[test]
fn likelihoods_choose_as_the_harness() {
    let choices = ["yes", "absolutely not", "naïve", "四"];
    for (score, expected) in
        [(ChoiceScore::Sum, 0), (ChoiceScore::PerCharacter, 1), (ChoiceScore::PerByte, 1)]
    {
        assert_eq!(
            most_likely_choice(&[-3.2, -5.0, -4.1, -9.0], &choices, score),
            Some(expected),
            "{score:?}"
        );
        assert_eq!(most_likely_choice(&[f64::NAN, -5.0, -4.1, -9.0], &choices, score), None);
        assert_eq!(most_likely_choice(&[-3.2], &choices, score), None);
    }
    // naïve has 5 characters and 6 bytes: -6 / 5 < -1.1 and -6 / 6 > -1.1.
    let close = ["naïve", "a"];
    assert_eq!(most_likely_choice(&[-6.0, -1.1], &close, ChoiceScore::PerCharacter), Some(1));
    assert_eq!(most_likely_choice(&[-6.0, -1.1], &close, ChoiceScore::PerByte), Some(0));
    assert_eq!(
        most_likely_choice(&[-1.0, -1.0], &["a", "b"], ChoiceScore::Sum),
        Some(0),
        "the first of equals"
    );
}

#[test]
fn mgsm_scores_as_tabled() {
    for (target, response, extracted, right) in [
        ("18", "... Answer: 18", Some("18"), true),
        ("18", "Answer: $18.00", Some("18.00"), true),
        ("5,600", "Answer: 5600", Some("5600"), true),
        ("18", "The answer: 18", None, false),
        ("18", "Answer: 18 eggs (16+2)", Some("2"), false),
        ("-3", "Answer: -3", Some("3"), false),
        ("10", "Answer: 10.", Some("10"), true),
        ("10", "Answer: 10.0", Some("10.0"), true),
    ] {
        let found = mgsm_answer(response, "Answer");
        assert_eq!(found.as_deref(), extracted, "{response}");
        assert_eq!(found.is_some_and(|found| mgsm_matches(target, &found)), right, "{response}");
    }
    assert_eq!(gsm8k_gold("He has 5 <<2+3=5>>5 eggs.\n#### 1,005").as_deref(), Some("1005"));
    assert_eq!(gsm8k_gold("no mark"), None);
}

#[test]
fn numbers_are_compared_exactly_under_their_own_name() {
    for (a, b, equal) in [
        ("18.00", "18", true),
        ("-5", "5", false),
        ("1234.50", "123450", false),
        ("$1,234.50", "1234.5", true),
        ("1,23", "123", false),
        ("0.50", ".5", true),
        ("-0", "0.0", true),
        ("+7", "7.", true),
        ("20,", "20", true),
        ("1,104,", "1104", true),
        ("20,", "2", false),
        (",", "0", false),
        ("007", "7", true),
        ("−3", "-3", true),
        ("abc", " abc ", true),
        ("abc", "abd", false),
        ("", "0", false),
        (".", "0", false),
        ("100000000000000000000000000000000000001", "100000000000000000000000000000000000000", false),
    ] {
        assert_eq!(same_number(a, b), equal, "{a:?} and {b:?}");
        assert_eq!(same_number(b, a), equal, "{b:?} and {a:?}");
    }
}

#[test]
fn math_answers_are_found_as_tabled() {
    for (solution, expected) in [
        (r"\boxed{\frac{1}{2}} and \boxed{3}", Some("3")),
        (r"so \boxed{\frac{1}{2}}.", Some(r"\frac{1}{2}")),
        (r"\boxed 7$ x", Some("7")),
        (r"\boxed{unclosed", None),
        (r"\fbox{3}", None),
        ("nothing", None),
        (r"ends in \boxed", None),
        (r"\boxed{日}", Some("日")),
    ] {
        assert_eq!(last_boxed(solution), expected, "{solution}");
    }
    for (response, expected) in
        [("$2+2$ = $4$", "2+2$ = $4"), ("a $5", "a $5"), ("$x$", "x"), ("", ""), ("$$", "")]
    {
        assert_eq!(between_dollars(response), expected, "{response}");
    }
}

#[test]
fn pass_at_k_equals_human_evals() {
    for (n, c, k, expected) in [
        (5, 2, 1, 0.3999999999999999),
        (5, 2, 2, 0.7),
        (10, 3, 5, 0.9166666666666666),
        (200, 7, 100, 0.9929911172418123),
        (200, 1, 10, 0.050000000000000044),
        (64, 5, 8, 0.4990084611316763),
        (20, 0, 10, 0.0),
        (3, 3, 2, 1.0),
        (5, 2, 5, 1.0),
    ] {
        assert_close(pass_at_k(n, c, k).unwrap(), expected, &format!("{n} {c} {k}"));
    }
    let problems = [(5, 0), (5, 1), (5, 5)];
    assert_close(mean_pass_at_k(&problems, 1).unwrap(), 0.39999999999999997, "k = 1");
    assert_close(mean_pass_at_k(&problems, 2).unwrap(), 0.4666666666666666, "k = 2");
    for refused in [pass_at_k(5, 2, 6), pass_at_k(5, 6, 1), pass_at_k(5, 2, 0), mean_pass_at_k(&[], 1)] {
        assert!(matches!(refused.unwrap_err(), Error::Setting { .. }));
    }
}

/// Values printed by CPython 3.11's `random.Random`, and the orders that simple-evals and lm-evaluation-harness draw for
/// the choices of GPQA.
#[test]
fn draws_equal_pythons() {
    let mut random = PythonRandom::new(0);
    for expected in [0.844_421_851_525_048_1, 0.757_954_402_940_302_5, 0.420_571_580_830_845] {
        assert_eq!(random.random(), expected);
    }
    assert_eq!(PythonRandom::new(0).choices(10, 10), [8, 7, 4, 2, 5, 4, 7, 3, 4, 5]);
    assert_eq!(PythonRandom::new(1).choices(10, 10), [1, 8, 7, 2, 4, 4, 6, 7, 0, 0]);
    assert_eq!(PythonRandom::new(1234).sample(10, 5).unwrap(), [7, 1, 0, 9, 4]);
    assert_eq!(PythonRandom::new(0).sample(164, 5).unwrap(), [98, 107, 10, 66, 130]);
    assert_eq!(PythonRandom::new(0).sample(3, 4), None);
    let mut random = PythonRandom::new(0);
    for expected in [[3, 1, 0, 2], [3, 1, 2, 0], [2, 3, 0, 1], [2, 0, 3, 1], [1, 3, 0, 2], [2, 1, 0, 3]] {
        assert_eq!(random.sample(4, 4).unwrap(), expected);
    }
    let mut random = PythonRandom::new(0);
    for expected in
        [["i3", "i1", "i2", "c"], ["i1", "i2", "c", "i3"], ["i1", "i3", "i2", "c"], ["i2", "i1", "c", "i3"]]
    {
        let mut choices = ["i1", "i2", "i3", "c"];
        random.shuffle(&mut choices);
        assert_eq!(choices, expected);
    }
}

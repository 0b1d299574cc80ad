//! Answer Correctness and Answer Semantic Similarity: the tables of the reference, the packages' own behaviour on 1,800
//! scripts of replies, and our own rules.

use std::sync::Arc;

use ferrotune_core::{BoxError, Embedder};
use ferrotune_eval::{
    Error, FailureKind, Measurement, Metric as _, OnFailure, Pair, Registry,
    judge::{
        JudgeError, Judging, JudgingOptions, Price, RecordedJudge, RecordedReply, ReplyCache, TokenUsage,
    },
    judged::{AnswerCorrectness, AnswerSimilarity, CorrectnessConfig, CorrectnessRules, EmptyText},
};
use serde_json::{Value, json};

use crate::{assert_close, golden};

const RAGAS: [CorrectnessRules; 3] =
    [CorrectnessRules::Ragas019, CorrectnessRules::Ragas04Legacy, CorrectnessRules::Ragas04Collections];

/// Vectors by text: `zero`, `opposite`, `refused` and `down` are what they say; the answer is [1, 0] and every other text
/// [3, 4], so that the similarity is exactly 0.6.
#[derive(Clone, Copy)]
struct Vectors;

impl Embedder for Vectors {
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, BoxError> {
        if texts.contains(&"down") {
            return Err(Box::new(JudgeError::Unavailable {
                detail: "HTTP 500".to_owned(),
                retries: 5,
                wasted: TokenUsage::default(),
            }));
        }
        if texts.contains(&"refused") || texts.contains(&"") {
            return Err(Box::new(JudgeError::Unavailable {
                detail: "HTTP 400".to_owned(),
                retries: 0,
                wasted: TokenUsage::default(),
            }));
        }
        if texts.contains(&"broken") {
            return Err("out of memory".into());
        }
        let vector = |text: &&str| match *text {
            "zero" => vec![0.0, 0.0],
            "opposite" => vec![-3.0, -4.0],
            text if text.starts_with("The answer") => vec![1.0, 0.0],
            _ => vec![3.0, 4.0],
        };
        Ok(texts.iter().map(vector).collect())
    }

    fn dimension(&self) -> usize {
        2
    }

    fn name(&self) -> String {
        "vectors".to_owned()
    }
}

fn replies(sample: &str, script: &[(&str, &str)]) -> Vec<RecordedReply> {
    let reply = |(purpose, text): &(&str, &str)| RecordedReply {
        sample: sample.to_owned(),
        purpose: (*purpose).to_owned(),
        text: (*text).to_owned(),
        ..RecordedReply::default()
    };
    script.iter().map(reply).collect()
}

fn skip() -> JudgingOptions {
    JudgingOptions { on_failure: OnFailure::Skip, reasks: 0, ..JudgingOptions::default() }
}

fn judging(replies: Vec<RecordedReply>, options: JudgingOptions) -> Arc<Judging> {
    let judge = Arc::new(RecordedJudge::new("scripted", replies));
    Judging::new(judge, Arc::new(ReplyCache::in_memory()), options).unwrap()
}

fn measure(config: &CorrectnessConfig, pair: &Pair, script: &[(&str, &str)]) -> Measurement {
    let judging = judging(replies(&pair.id, script), skip());
    let metric = AnswerCorrectness::new(judging, Some(Arc::new(Vectors)), config.clone()).unwrap();
    metric.measure(std::slice::from_ref(pair)).unwrap().remove(0)
}

fn config(rules: CorrectnessRules) -> CorrectnessConfig {
    CorrectnessConfig { rules, ..CorrectnessConfig::default() }
}

fn pair() -> Pair {
    Pair { instruction: Some("Question?".to_owned()), ..Pair::new("1", "The answer.", "The truth.") }
}

/// A reply with this many entries in its lists.
fn classes(tp: usize, fp: usize, fn_: usize) -> String {
    let list = |n: usize| vec![json!({"statement": "s", "reason": "r"}); n];
    json!({"TP": list(tp), "FP": list(fp), "FN": list(fn_)}).to_string()
}

/// A reply with this many statements, in the form that the rules ask for.
fn statements(rules: CorrectnessRules, n: usize) -> String {
    let statements = vec!["s"; n];
    match rules {
        CorrectnessRules::Ragas019 if n == 0 => "[]".to_owned(),
        CorrectnessRules::Ragas019 => {
            json!([{"sentence_index": 0, "simpler_statements": statements}]).to_string()
        }
        _ => json!({"statements": statements}).to_string(),
    }
}

#[track_caller]
fn check(found: &Measurement, expected: Option<f64>, what: &str) {
    match expected {
        Some(score) => assert_close(*found.samples[0].score.as_ref().expect(what), score, what),
        None => {
            found.samples[0].score.as_ref().expect_err(what);
        }
    }
}

/// Counts, the score of 0.1.9 with its default weights, F of 0.1.9 and of the legacy class, F of the collections class.
#[test]
fn the_table_of_counts_equals_ragas() {
    for (tp, fp, fn_, score, f, f_collections) in [
        (1, 1, 5, 0.3375, 0.25, 0.25),
        (1, 0, 1, 0.65, 0.6666666666666666, 0.6666666666666666),
        (2, 1, 1, 0.65, 0.6666666666666666, 0.6666666666666666),
        (0, 3, 0, 0.15, 0.0, 0.0),
        (3, 0, 0, 0.9, 1.0, 1.0),
        (0, 0, 0, 0.15, 0.0, 1.0),
    ] {
        for rules in RAGAS {
            let texts = (statements(rules, 1), classes(tp, fp, fn_));
            let script = [
                ("ragas_answer_statements", texts.0.as_str()),
                ("ragas_truth_statements", &texts.0),
                ("ragas_classification", &texts.1),
            ];
            let what = format!("{rules:?} {tp} {fp} {fn_}");
            let f = if rules == CorrectnessRules::Ragas04Collections { f_collections } else { f };
            let only_f = CorrectnessConfig { weights: [1.0, 0.0], ..config(rules) };
            check(&measure(&only_f, &pair(), &script), Some(f), &what);
            if rules != CorrectnessRules::Ragas04Collections {
                check(&measure(&config(rules), &pair(), &script), Some(score), &what);
            }
        }
        let one_call = [("ragas_classification", &*{
            let list = |n: usize| vec!["statement"; n];
            json!({"TP": list(tp), "FP": list(fp), "FN": list(fn_)}).to_string()
        })];
        check(&measure(&config(CorrectnessRules::Ragas017), &pair(), &one_call), Some(score), "0.1.7");
    }
}

#[test]
fn the_table_of_missing_statements_equals_ragas() {
    for rules in RAGAS {
        let (none, one) = (statements(rules, 0), statements(rules, 1));
        let both_empty = [("ragas_answer_statements", none.as_str()), ("ragas_truth_statements", &none)];
        check(&measure(&config(rules), &pair(), &both_empty), Some(0.9), "both lists are empty");
        let classes = classes(0, 0, 1);
        let answer_empty = [
            ("ragas_answer_statements", none.as_str()),
            ("ragas_truth_statements", &one),
            ("ragas_classification", &classes),
        ];
        let expected = if rules == CorrectnessRules::Ragas04Collections { 0.9 } else { 0.15 };
        check(&measure(&config(rules), &pair(), &answer_empty), Some(expected), "the answer has none");
    }
}

#[test]
fn the_table_of_0_1_9_equals_ragas() {
    let rules = CorrectnessRules::Ragas019;
    let one = statements(rules, 1);
    let good = classes(1, 0, 0);
    let with_classes = |replies: &[&str]| {
        let mut script =
            vec![("ragas_answer_statements", one.clone()), ("ragas_truth_statements", one.clone())];
        script.extend(replies.iter().map(|reply| ("ragas_classification", (*reply).to_owned())));
        script
    };
    let run = |config: &CorrectnessConfig, pair: &Pair, script: &[(&str, String)]| {
        let script: Vec<(&str, &str)> = script.iter().map(|(p, t)| (*p, t.as_str())).collect();
        measure(config, pair, &script)
    };
    let twice = run(&config(rules), &pair(), &with_classes(&["prose", "prose"]));
    check(&twice, None, "classification unparsable twice");
    assert_eq!(twice.samples[0].score.as_ref().unwrap_err().kind, FailureKind::JudgeReply);
    check(&run(&config(rules), &pair(), &with_classes(&["prose", &good])), Some(0.9), "bad once, then good");
    let neither: Vec<(&str, String)> = ["ragas_answer_statements", "ragas_truth_statements"]
        .into_iter()
        .flat_map(|purpose| [(purpose, "prose".to_owned()), (purpose, "prose".to_owned())])
        .collect();
    check(&run(&config(rules), &pair(), &neither), Some(0.9), "both statement replies unparsable");

    for (threshold, expected) in [(0.5, 0.625), (0.7, 0.375), (0.0, 0.525)] {
        let config = CorrectnessConfig { similarity_threshold: Some(threshold), ..config(rules) };
        let found = run(&config, &pair(), &with_classes(&[&classes(1, 1, 1)]));
        check(&found, Some(expected), "threshold");
    }
    // The vector of the reference is turned round and that of the answer is the same but for its length.
    let opposite = Pair::new("1", "same", "opposite");
    check(&run(&config(rules), &opposite, &with_classes(&[&classes(0, 1, 1)])), Some(-0.25), "opposite");
    let zero = Pair::new("1", "zero", "The truth.");
    let found = run(&config(rules), &zero, &with_classes(&[&good]));
    assert_eq!(found.samples[0].score.as_ref().unwrap_err().kind, FailureKind::ZeroNorm);
    let collections = config(CorrectnessRules::Ragas04Collections);
    let one = statements(CorrectnessRules::Ragas04Collections, 1);
    let script = [
        ("ragas_answer_statements", one.as_str()),
        ("ragas_truth_statements", &one),
        ("ragas_classification", &good),
    ];
    check(&measure(&collections, &zero, &script), Some(0.75), "norm zero in the collections class");
}

/// What the package makes of bare, fenced, cut, single-quoted, nested, mislabelled and otherwise disturbed replies, repairs
/// included: the score, and exactly the same questions.
#[test]
fn scripts_of_replies_end_as_in_the_packages() {
    for (rules, golden) in [
        (CorrectnessRules::Ragas019, golden!("ragas_0_1_9")),
        (CorrectnessRules::Ragas04Legacy, golden!("ragas_0_4_3")),
    ] {
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 900);
        let mut script = Vec::new();
        let mut pairs = Vec::new();
        for (i, case) in cases.iter().enumerate() {
            pairs.push(Pair::new(i.to_string(), "ANSWERTEXT.", "TRUTHTEXT."));
            for (stage, purpose) in [
                ("answer", "ragas_answer_statements"),
                ("truth", "ragas_truth_statements"),
                ("classes", "ragas_classification"),
            ] {
                for reply in case["replies"][stage].as_array().unwrap() {
                    script.extend(replies(&i.to_string(), &[(purpose, reply.as_str().unwrap())]));
                }
            }
        }
        let given = script.len() as u64;
        let judging = judging(script, skip());
        let config = CorrectnessConfig { weights: [1.0, 0.0], ..config(rules) };
        let metric = AnswerCorrectness::new(Arc::clone(&judging), None, config).unwrap();
        let found = metric.measure(&pairs).unwrap().remove(0);
        for (case, sample) in cases.iter().zip(&found.samples) {
            let what = format!("{rules:?}, case {}: {}", sample.id, case["replies"]);
            match (&case["score"], &sample.score) {
                (Value::Null, Err(failure)) => assert_eq!(failure.kind, FailureKind::JudgeReply, "{what}"),
                (Value::Number(score), Ok(found)) => assert_close(*found, score.as_f64().unwrap(), &what),
                (expected, found) => panic!("expected {expected}, found {found:?}: {what}"),
            }
        }
        assert_eq!((judging.usage().calls, judging.usage().unanswered), (given, 0), "{rules:?}");
    }
}

#[test]
fn a_mean_leaves_failures_out_and_counts_them() {
    let rules = CorrectnessRules::Ragas017;
    let all = r#"{"TP": ["a"], "FP": [], "FN": []}"#;
    let third = r#"{"TP": ["a"], "FP": ["b"], "FN": ["c"]}"#;
    let of = |scripts: &[&[&str]]| {
        let pairs: Vec<Pair> =
            (0..scripts.len()).map(|i| Pair::new(i.to_string(), "The answer.", "The truth.")).collect();
        let script = scripts.iter().enumerate().flat_map(|(i, script)| {
            script.iter().flat_map(move |text| replies(&i.to_string(), &[("ragas_classification", text)]))
        });
        let judging = judging(script.collect(), skip());
        let config = CorrectnessConfig { weights: [1.0, 0.0], ..config(rules) };
        AnswerCorrectness::new(judging, None, config).unwrap().measure(&pairs).unwrap().remove(0)
    };
    // np.nanmean([1.0, nan, 0.5])
    let mixed = of(&[&[all], &["prose", "prose"], &[third]]);
    assert_eq!((mixed.value(), mixed.scored(), mixed.samples.len()), (Some(0.75), 2, 3));
    assert_eq!(of(&[&["prose", "prose"]]).value(), None, "all NaN");
    assert_eq!(of(&[]).value(), None, "empty");
}

const ANSWER: (&str, &str) = ("answer_statements", r#"{"statements": ["a", "b", "c"]}"#);
const REFERENCE: (&str, &str) = ("reference_statements", r#"{"statements": ["d", "e"]}"#);

/// Classes of three statements of the answer and two of the reference: two are supported, one is said.
fn good_classes() -> Value {
    json!({
        "answer": [
            {"number": 2, "reason": "", "supported": false},
            {"number": 1, "reason": "", "supported": true},
            {"number": 3, "reason": "", "supported": true},
        ],
        "reference": [{"number": 1, "reason": "", "said": true}, {"number": 2, "reason": "", "said": false}],
    })
}

#[test]
fn every_statement_is_classified_once_or_the_sample_fails() {
    let run = |classes: &Value| {
        let text = classes.to_string();
        let script = [ANSWER, REFERENCE, ("statement_classes", text.as_str())];
        measure(&CorrectnessConfig::default(), &pair(), &script)
    };
    // TP 2, FP 1, FN 1: F = 2/3, and 0.75 F + 0.25 · 0.6.
    let found = run(&good_classes());
    check(&found, Some(0.65), "two of three supported, one of two said");
    let extracted = found.samples[0].extracted.as_deref().unwrap();
    assert!(extracted.starts_with("TP 2 FP 1 FN 1"), "{extracted}");
    let raw = found.judged.as_ref().unwrap().transcripts[0].raw.clone().unwrap();
    assert!(raw.contains("[answer_statements]\n{\"statements\": [\"a\", \"b\", \"c\"]}"), "{raw}");

    let entry = |number: Value| json!({"number": number, "reason": "", "supported": true, "said": true});
    for (side, entries, problem) in [
        ("answer", vec![1, 2], "statement 3 of the answer is not classified"),
        ("answer", vec![1, 2, 3, 3], "statement 3 of the answer is classified twice"),
        ("answer", vec![1, 2, 3, 4], "statement 4 of the answer was never submitted"),
        ("answer", vec![0, 1, 2], "statement 0 of the answer was never submitted"),
        ("answer", vec![], "statement 1 of the answer is not classified"),
        ("reference", vec![1, 1], "statement 1 of the reference is classified twice"),
        ("reference", vec![2], "statement 1 of the reference is not classified"),
    ] {
        let mut classes = good_classes();
        classes[side] = entries.iter().map(|&n| entry(json!(n))).collect();
        let failure = run(&classes).samples[0].score.clone().unwrap_err();
        assert_eq!(failure.kind, FailureKind::JudgeReply);
        assert!(failure.detail.contains(problem), "{failure}");
    }
    for (side, wrong) in [
        ("answer", json!([entry(json!("1")), entry(json!(2)), entry(json!(3))])),
        ("answer", json!([entry(json!(1.5)), entry(json!(2)), entry(json!(3))])),
        ("answer", json!(["a", "b", "c"])),
        ("reference", json!([{"number": 1, "said": true}, {"number": 2, "said": true}])),
        ("reference", Value::Null),
    ] {
        let mut classes = good_classes();
        classes[side] = wrong;
        check(&run(&classes), None, "a wrong form");
    }
}

#[test]
fn a_judge_that_miscounts_is_told_and_asked_again() {
    let mut short = good_classes();
    short["answer"].as_array_mut().unwrap().pop();
    let (short, good) = (short.to_string(), good_classes().to_string());
    let script = [ANSWER, REFERENCE, ("statement_classes", &*short), ("statement_classes", &*good)];
    let judging = judging(replies("1", &script), JudgingOptions { reasks: 1, ..skip() });
    let metric =
        AnswerCorrectness::new(Arc::clone(&judging), Some(Arc::new(Vectors)), CorrectnessConfig::default());
    check(&metric.unwrap().measure(&[pair()]).unwrap().remove(0), Some(0.65), "the second reply counts");
    assert_eq!(judging.usage().calls, 4);
}

#[test]
fn nothing_is_never_perfect_by_our_rules() {
    let config = CorrectnessConfig::default();
    // An empty answer: no question about it, no classification, factuality 0. Its vector is that of one space.
    let empty = Pair::new("1", "", "The truth.");
    let found = measure(&config, &empty, &[REFERENCE]);
    check(&found, Some(0.25), "F 0, and the vectors are alike");
    // An answer that claims nothing.
    let found = measure(&config, &pair(), &[("answer_statements", r#"{"statements": []}"#), REFERENCE]);
    check(&found, Some(0.15), "no statements in the answer");
    // A reference without statements, or none at all.
    let found = measure(&config, &pair(), &[ANSWER, ("reference_statements", r#"{"statements": []}"#)]);
    assert_eq!(found.samples[0].score.as_ref().unwrap_err().kind, FailureKind::JudgeReply);
    let found = measure(&config, &Pair::new("1", "The answer.", " "), &[ANSWER]);
    assert_eq!(found.samples[0].score.as_ref().unwrap_err().kind, FailureKind::EmptyText);
    // Statements that cannot be read.
    for reply in ["prose", r#"{"statements": ["a""#, r#"{"statements": [""]}"#, r#"{"statements": "a"}"#] {
        check(&measure(&config, &pair(), &[("answer_statements", reply)]), None, reply);
    }
}

#[test]
fn the_best_reference_counts() {
    let mut two = pair();
    two.references.push("Another truth.".to_owned());
    let none = json!({
        "answer": (1..=3).map(|n| json!({"number": n, "reason": "", "supported": false})).collect::<Vec<_>>(),
        "reference": [{"number": 1, "reason": "", "said": false}, {"number": 2, "reason": "", "said": false}],
    })
    .to_string();
    let good = good_classes().to_string();
    let script = [
        ANSWER,
        REFERENCE,
        ("reference_statements", r#"{"statements": ["f", "g"]}"#),
        ("statement_classes", none.as_str()),
        ("statement_classes", good.as_str()),
    ];
    check(&measure(&CorrectnessConfig::default(), &two, &script), Some(0.65), "the second reference");
}

#[test]
fn an_estimate_follows_what_the_cache_knows() {
    let price = Some(Price { prompt_per_million: 1.0, completion_per_million: 1.0 });
    let good = good_classes().to_string();
    let script = [ANSWER, REFERENCE, ("statement_classes", good.as_str())];
    let judging = judging(replies("1", &script), JudgingOptions { price, ..skip() });
    let metric =
        AnswerCorrectness::new(Arc::clone(&judging), Some(Arc::new(Vectors)), CorrectnessConfig::default());
    let metric = metric.unwrap();
    let pairs = [pair(), Pair::new("2", "", "The truth.")];
    let before = metric.estimate(&pairs);
    assert_eq!((before.calls, before.cached), (3 + 1, 0), "an empty answer costs one question");
    assert!(before.prompt_tokens > 0 && before.cost_at_most.unwrap() > 0.0);
    assert_eq!(judging.usage().calls, 0);
    metric.measure(&pairs[..1]).unwrap();
    let after = metric.estimate(&pairs);
    assert_eq!((after.calls, after.cached), (1, 3));
    for (rules, calls) in [
        (CorrectnessRules::Ragas017, 1),
        (CorrectnessRules::Ragas019, 3),
        (CorrectnessRules::Ragas04Legacy, 3),
        (CorrectnessRules::Ragas04Collections, 3),
    ] {
        let metric = AnswerCorrectness::new(Arc::clone(&judging), Some(Arc::new(Vectors)), config(rules));
        assert_eq!(metric.unwrap().estimate(&[pair()]).calls, calls, "{rules:?}");
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let encoder: Arc<dyn Embedder> = Arc::new(Vectors);
    let refused = |encoder: Option<&Arc<dyn Embedder>>, config: CorrectnessConfig| {
        let judging = judging(Vec::new(), skip());
        let error = AnswerCorrectness::new(judging, encoder.cloned(), config).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
    };
    refused(None, CorrectnessConfig::default());
    for weights in [[0.0, 0.0], [-1.0, 2.0], [f64::NAN, 1.0], [f64::INFINITY, 1.0]] {
        refused(Some(&encoder), CorrectnessConfig { weights, ..CorrectnessConfig::default() });
    }
    for (rules, beta) in [
        (CorrectnessRules::Reconciled, 0.0),
        (CorrectnessRules::Reconciled, f64::NAN),
        (CorrectnessRules::Ragas019, 2.0),
        (CorrectnessRules::Ragas017, 0.5),
    ] {
        refused(Some(&encoder), CorrectnessConfig { beta, ..config(rules) });
    }
}

#[test]
fn similarity_equals_ragas_and_failures_stay_with_their_texts() {
    struct Given;
    impl Embedder for Given {
        fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, BoxError> {
            let vector = |t: &&str| if *t == "a" { vec![1.0, 2.0, 3.0] } else { vec![2.0, 4.0, 6.5] };
            Ok(texts.iter().map(vector).collect())
        }
        fn dimension(&self) -> usize {
            3
        }
        fn name(&self) -> String {
            "given".to_owned()
        }
    }
    for (threshold, expected) in
        [(None, 0.9992825883286348), (Some(0.5), 1.0), (Some(0.9999), 0.0), (Some(0.0), 0.9992825883286348)]
    {
        let metric = AnswerSimilarity::new(Arc::new(Given), threshold, EmptyText::default());
        let found = metric.measure(&[Pair::new("1", "a", "b")]).unwrap().remove(0);
        assert_close(found.value().unwrap(), expected, "similarity");
    }

    let pairs = [
        Pair::new("1", "The answer.", "The truth."),
        Pair::new("2", "zero", "The truth."),
        Pair::new("3", "refused", "The truth."),
        Pair::new("4", "", "The truth."),
    ];
    let kinds = |empty| -> Vec<Result<f64, FailureKind>> {
        let found = AnswerSimilarity::new(Arc::new(Vectors), None, empty).measure(&pairs).unwrap().remove(0);
        found.samples.into_iter().map(|s| s.score.map_err(|failure| failure.kind)).collect()
    };
    let (zero, refused) = (Err(FailureKind::ZeroNorm), Err(FailureKind::JudgeUnavailable));
    let rounded = |scores: Vec<Result<f64, FailureKind>>| -> Vec<Result<f64, FailureKind>> {
        scores.into_iter().map(|s| s.map(|x| (x * 1e12).round() / 1e12)).collect()
    };
    assert_eq!(rounded(kinds(EmptyText::OneSpace)), [Ok(0.6), zero, refused, Ok(1.0)]);
    assert_eq!(rounded(kinds(EmptyText::AsItIs)), [Ok(0.6), zero, refused, refused]);

    let similarity = AnswerSimilarity::new(Arc::new(Vectors), None, EmptyText::default());
    let down =
        similarity.measure(&[Pair::new("1", "down", "x"), Pair::new("2", "y", "x")]).unwrap().remove(0);
    assert_eq!(down.value(), None, "a server that is down is not asked text by text");
    let error = similarity.measure(&[Pair::new("1", "broken", "x")]).unwrap_err();
    assert!(matches!(error, Error::Encoder { .. }), "{error}");
}

#[test]
fn the_registry_has_every_judged_metric_once_there_is_a_judge_and_an_encoder() {
    let names = [
        "gpt4_score",
        "gpt4_score_fastchat",
        "ragas_answer_semantic_similarity",
        "ragas_answer_correctness",
        "ragas_answer_correctness_0_1_7",
        "ragas_answer_correctness_0_1_9",
        "ragas_answer_correctness_0_4_legacy",
        "ragas_answer_correctness_0_4_collections",
    ];
    let pairs = [pair()];
    let reason = |registry: &Registry, name: &str| {
        let found = registry.resolve(name).unwrap()[0].measure(&pairs).unwrap().remove(0);
        assert_eq!(found.metric, name);
        found.samples[0].score.clone().unwrap_err().detail
    };
    let bare = Registry::with_text_metrics().unwrap();
    let judging = judging(Vec::new(), skip());
    let encoder: Arc<dyn Embedder> = Arc::new(Vectors);
    let with_judge = bare.clone().with_judge(&judging, None).unwrap();
    for name in names {
        let lacking = reason(&bare, name);
        assert!(
            lacking == "no judge was configured" || lacking == "no sentence encoder was given",
            "{lacking}"
        );
        if name.contains("correctness") {
            assert_eq!(reason(&with_judge, name), "no sentence encoder was given");
        }
    }
    let full = bare.with_judge(&judging, Some(&encoder)).unwrap().with_encoder(encoder);
    for name in names.into_iter().filter(|name| *name != "ragas_answer_semantic_similarity") {
        assert!(reason(&full, name).contains("no further recorded reply"), "{name}");
    }
    assert!(
        full.resolve("ragas_answer_semantic_similarity").unwrap()[0].measure(&pairs).unwrap()[0]
            .value()
            .is_some()
    );
}

use ferrotune_eval::{
    Error, Measurement, Metric, Pair,
    bleu::{Bleu, BleuConfig, Smoothing, Tokenizer},
};
use serde_json::Value;

use crate::{assert_close, golden, golden_pairs, numbers, strings};

pub(crate) fn config(options: &Value) -> BleuConfig {
    let mut config = BleuConfig::default();
    let value = |default: f64| options.get("smooth_value").and_then(Value::as_f64).unwrap_or(default);
    for (name, option) in options.as_object().unwrap() {
        match name.as_str() {
            "tokenize" => config.tokenizer = tokenizer(option.as_str().unwrap()),
            "lowercase" => config.lowercase = option.as_bool().unwrap(),
            "effective_order" => config.effective_order = option.as_bool().unwrap(),
            "max_ngram_order" => config.max_order = option.as_u64().unwrap() as usize,
            "smooth_value" => {}
            "smooth_method" => {
                config.smoothing = match option.as_str().unwrap() {
                    "floor" => Smoothing::Floor(value(0.1)),
                    "add-k" => Smoothing::AddK(value(1.0)),
                    "none" => Smoothing::None,
                    other => panic!("{other}"),
                };
            }
            other => panic!("unknown option {other}"),
        }
    }
    config
}

fn tokenizer(name: &str) -> Tokenizer {
    [Tokenizer::V13a, Tokenizer::International, Tokenizer::Character, Tokenizer::None]
        .into_iter()
        .find(|t| t.name() == name)
        .unwrap()
}

fn measure(bleu: &Bleu, pairs: &[Pair]) -> Measurement {
    bleu.measure(pairs).unwrap().remove(0)
}

#[test]
fn tokens_equal_sacrebleus() {
    let golden = golden!("bleu");
    let texts = strings(&golden["texts"]);
    for (name, expected) in golden["tokenized"].as_object().unwrap() {
        let expected = expected.as_array().unwrap();
        assert_eq!(expected.len(), texts.len());
        for (text, expected) in texts.iter().zip(expected) {
            assert_eq!(tokenizer(name).tokenize(text), strings(expected), "tokenizer {name} on {text:?}");
        }
    }
}

#[test]
fn corpus_and_sentence_scores_equal_sacrebleus() {
    let golden = golden!("bleu");
    let all = golden_pairs(&golden["pairs"]);
    let first: Vec<Pair> =
        all.iter().map(|p| Pair { references: p.references[..1].to_vec(), ..p.clone() }).collect();
    for corpus in golden["corpora"].as_array().unwrap() {
        let what = format!("{} references, {}", corpus["references"], corpus["options"]);
        let pairs = if corpus["references"] == "one" { &first } else { &all };
        let bleu = Bleu::new(config(&corpus["options"])).unwrap();
        let found = measure(&bleu, pairs);
        assert_close(found.value().unwrap(), corpus["score"].as_f64().unwrap(), &what);
        assert_eq!(found.variant, corpus["signature"], "{what}");
        for ((pair, sample), expected) in pairs.iter().zip(&found.samples).zip(numbers(&corpus["sentences"]))
        {
            assert_close(*sample.score.as_ref().unwrap(), expected, &format!("{what}: {pair:?}"));
        }
        let mut sum = ferrotune_eval::bleu::BleuStatistics::default();
        bleu.statistics_of_pairs(pairs).iter().for_each(|s| sum.add(s));
        assert_eq!(sum.hypothesis_length, corpus["sys_len"], "{what}");
        assert_eq!(sum.reference_length, corpus["ref_len"], "{what}");
        let score = bleu.score(&sum);
        assert_close(score.brevity_penalty, corpus["bp"].as_f64().unwrap(), &what);
        for (found, expected) in score.precisions.iter().zip(numbers(&corpus["precisions"])) {
            assert_close(*found, expected, &what);
        }
    }
}

/// The table of sacrebleu 2.6.0's values: hypothesis, references, settings, score.
#[test]
fn known_segments_score_as_tabled() {
    let with = |smoothing| BleuConfig { smoothing, ..BleuConfig::default() };
    let sat = ("the cat sat on mat", &["the cat is on the mat"][..]);
    for ((hypothesis, references), config, expected) in [
        (sat, with(Smoothing::Exp), 20.80119537801062),
        (sat, with(Smoothing::Floor(0.1)), 11.062691203042489),
        (sat, with(Smoothing::Floor(0.01)), 3.498330125272252),
        (sat, with(Smoothing::AddK(1.0)), 33.08516361499262),
        (sat, with(Smoothing::AddK(2.0)), 43.54252404797312),
        (sat, with(Smoothing::None), 0.0),
        (("Zhongjian Plaza", &["Zhongjian Plaza"]), BleuConfig::default(), 0.0),
        (
            ("Zhongjian Plaza", &["Zhongjian Plaza"]),
            BleuConfig { effective_order: true, ..BleuConfig::default() },
            100.00000000000004,
        ),
        (("yes", &["no"]), BleuConfig::default(), 0.0),
        (("", &["a b"]), BleuConfig::default(), 0.0),
        (("a b", &[""]), BleuConfig::default(), 0.0),
        (("", &[""]), BleuConfig::default(), 0.0),
        (
            ("the the the the the the the", &["the cat is on the mat", "there is a cat on the mat"]),
            BleuConfig::default(),
            7.809849842300637,
        ),
        (("a b c d e", &["a b c", "a b c d e f g"]), BleuConfig::default(), 100.00000000000004),
    ] {
        let bleu = Bleu::new(config).unwrap();
        let statistics = bleu.statistics(hypothesis, references);
        assert_close(bleu.score(&statistics).score, expected, hypothesis);
    }
}

#[test]
fn of_two_equally_close_references_the_shorter_one_sets_the_length() {
    let bleu = Bleu::new(BleuConfig::default()).unwrap();
    assert_eq!(bleu.statistics("a b c d e", &["a b c d e f g", "a b c"]).reference_length, 3);
}

const HYPOTHESES: [&str; 3] =
    ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."];
const REFERENCES_A: [&str; 3] = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."];
const REFERENCES_B: [&str; 3] =
    ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."];

#[test]
fn streams_give_the_corpus_score_of_the_reference() {
    let bleu = Bleu::new(BleuConfig::default()).unwrap();
    let stream = |texts: [&'static str; 3]| texts.map(Some).to_vec();
    let (score, statistics) =
        bleu.corpus_of_streams(&HYPOTHESES, &[stream(REFERENCES_A), stream(REFERENCES_B)]).unwrap();
    assert_close(score.score, 48.530827009929865, "two streams");
    assert_close(score.brevity_penalty, 0.9428731438548749, "brevity penalty");
    assert_eq!(statistics.matches, [14, 7, 5, 3]);
    assert_eq!(statistics.totals, [17, 14, 11, 8]);
    assert_eq!((statistics.hypothesis_length, statistics.reference_length), (17, 18));
    let (score, _) = bleu.corpus_of_streams(&HYPOTHESES, &[stream(REFERENCES_A)]).unwrap();
    assert_close(score.score, 45.06750632106114, "one stream");
}

#[test]
fn transposed_references_are_refused_by_name() {
    let bleu = Bleu::new(BleuConfig::default()).unwrap();
    let transposed: Vec<Vec<Option<&str>>> =
        REFERENCES_A.iter().zip(REFERENCES_B).map(|(a, b)| vec![Some(*a), Some(b)]).collect();
    let error = bleu.corpus_of_streams(&HYPOTHESES, &transposed).unwrap_err();
    assert!(matches!(error, Error::ReferenceShape { stream: 0, found: 2, expected: 3, transposed: true }));
    assert!(error.to_string().contains("look transposed"), "{error}");
    let short = [vec![Some("a")]];
    assert!(matches!(
        bleu.corpus_of_streams(&HYPOTHESES, &short).unwrap_err(),
        Error::ReferenceShape { transposed: false, .. }
    ));
    let missing = [vec![Some("a"), None, Some("b")]];
    assert!(matches!(
        bleu.corpus_of_streams(&HYPOTHESES, &missing).unwrap_err(),
        Error::NoReference { segment: 1 }
    ));
}

#[test]
fn settings_out_of_range_are_refused() {
    for config in [
        BleuConfig { max_order: 0, ..BleuConfig::default() },
        BleuConfig { smoothing: Smoothing::Floor(-0.1), ..BleuConfig::default() },
        BleuConfig { smoothing: Smoothing::AddK(f64::NAN), ..BleuConfig::default() },
    ] {
        assert!(matches!(Bleu::new(config).unwrap_err(), Error::Setting { .. }));
    }
}

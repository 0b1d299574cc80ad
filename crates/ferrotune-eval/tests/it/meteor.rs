use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use ferrotune_eval::{
    Error, Metric, Pair,
    meteor::{CorrectedMeteor, Lexicon, Meteor, MeteorConfig, Module, ModuleWeights, Paraphrases, WordNet},
};
use proptest::prelude::*;

use crate::{
    assert_close, golden, golden_pairs, numbers,
    shared_data::{REQUIRED, corpora},
    strings,
};

fn small_dictionary() -> Arc<WordNet> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wordnet");
    Arc::new(WordNet::open(&folder).unwrap())
}

/// WordNet 3.0, or `None` with a message where it is not installed and not [`REQUIRED`].
pub(crate) fn full_dictionary() -> Option<Arc<WordNet>> {
    let folder =
        env::var_os("FERROTUNE_WORDNET").map_or_else(|| PathBuf::from("/usr/share/wordnet"), PathBuf::from);
    if !folder.join("data.noun").exists() {
        assert!(
            env::var_os(REQUIRED).is_none(),
            "{REQUIRED} is set, and {} holds no WordNet",
            folder.display()
        );
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no WordNet in {}; install wordnet-base or set FERROTUNE_WORDNET",
            folder.display()
        );
        return None;
    }
    Some(Arc::new(WordNet::open(&folder).unwrap()))
}

#[test]
fn scores_with_and_without_a_dictionary_equal_nltks() {
    let golden = golden!("meteor");
    let pairs = golden_pairs(&golden["pairs"]);
    for (k, weights) in golden["weights"].as_array().unwrap().iter().enumerate() {
        let default = MeteorConfig::default();
        let config = MeteorConfig {
            alpha: weights["alpha"].as_f64().unwrap_or(default.alpha),
            beta: weights["beta"].as_f64().unwrap_or(default.beta),
            gamma: weights["gamma"].as_f64().unwrap_or(default.gamma),
        };
        for (name, dictionary) in [("with_dictionary", Some(small_dictionary())), ("without", None)] {
            let found = Meteor::new(config, dictionary).unwrap().measure(&pairs).unwrap().remove(0);
            let expected = numbers(&golden[name][k]);
            assert_eq!(expected.len(), pairs.len());
            for ((pair, sample), expected) in pairs.iter().zip(&found.samples).zip(expected) {
                let what = format!("{name}, weights {weights}: {pair:?}");
                assert_close(*sample.score.as_ref().unwrap(), expected, &what);
            }
            assert_eq!(found.variant.contains("without wordnet"), name == "without", "{}", found.variant);
        }
    }
}

#[test]
fn forms_and_synonyms_equal_nltks() {
    let golden = golden!("meteor");
    let wordnet = small_dictionary();
    let forms = strings(&golden["forms"]);
    for (part, expected) in golden["base_forms"].as_object().unwrap() {
        for (form, expected) in forms.iter().zip(expected.as_array().unwrap()) {
            assert_eq!(wordnet.base_forms(form, part), strings(expected), "{form} as {part}");
        }
    }
    for (form, expected) in forms.iter().zip(golden["synonyms"].as_array().unwrap()) {
        let mut found: Vec<String> = wordnet.synonyms(form).into_iter().collect();
        found.sort_unstable();
        assert_eq!(found, strings(expected), "{form}");
    }
}

/// nltk 3.10.4 with WordNet 3.0: reference, hypothesis, score.
#[test]
fn known_sentences_score_as_tabled() {
    let Some(wordnet) = full_dictionary() else { return };
    let guide = "It is a guide to action that ensures that the military will forever heed Party commands";
    let first =
        "It is a guide to action which ensures that the military always obeys the commands of the party";
    let second = "It is to insure the troops forever hearing the activity guidebook that party direct";
    let cat = "the cat sat on the mat";
    let meteor = |config| Meteor::new(config, Some(Arc::clone(&wordnet))).unwrap();
    let default = meteor(MeteorConfig::default());
    let score = |meteor: &Meteor, reference: &str, hypothesis: &str| {
        meteor.measure(&[Pair::new("1", hypothesis, reference)]).unwrap()[0].value().unwrap()
    };
    for (reference, hypothesis, expected) in [
        (guide, first, 0.6944444444444445),
        (guide, second, 0.3035391371738569),
        (cat, cat, 0.9976851851851852),
        (cat, "on the mat sat the cat", 0.5),
        (cat, "the cat was sat on the mat", 0.9653916211293262),
        ("the car stopped", "the automobile stopped", 0.3333333333333333),
        ("he drives an automobile", "he drives a car", 0.46875),
        ("She likes quick cars .", "She likes fast automobiles .", 0.7500000000000001),
        ("running dogs", "run dog", 0.9375),
        ("colour", "color", 0.5),
        ("happy people", "glad people", 0.25),
        ("a a a", "a a", 0.6465517241379309),
        ("cat", "cat", 0.5),
        ("", "a", 0.0),
        ("a", "", 0.0),
        ("one", "two", 0.0),
    ] {
        assert_close(
            score(&default, reference, hypothesis),
            expected,
            &format!("{reference} / {hypothesis}"),
        );
    }
    let weighted = meteor(MeteorConfig { alpha: 0.85, beta: 2.0, gamma: 0.2 });
    assert_close(score(&weighted, guide, first), 0.6993865030674846, "other weights");
    for (form, part, expected) in [
        ("leaves", "noun", vec!["leaf"]),
        ("leaves", "verb", vec!["leave"]),
        ("axes", "noun", vec!["ax", "axis"]),
        ("men", "noun", vec!["men", "man"]),
        ("better", "adj", vec!["better", "good", "well"]),
        ("went", "verb", vec!["go"]),
    ] {
        let found = wordnet.base_forms(form, part);
        assert!(expected.iter().all(|base| found.iter().any(|f| f == base)), "{form} as {part}: {found:?}");
    }
    assert!(default.score(&["CE"], &["ad"]) < 0.5, "lemma names keep their case, so CE is not ce");
}

#[test]
fn identical_sentences_score_by_their_length() {
    let meteor = Meteor::new(MeteorConfig::default(), None).unwrap();
    for (words, expected) in [(1, 0.5), (2, 0.9375), (3, 0.9814814814814815), (5, 0.996), (10, 0.9995)] {
        let sentence: Vec<String> = (0..words).map(|i| format!("w{i}")).collect();
        assert_close(meteor.score(&sentence, &sentence), expected, "identical");
    }
}

#[test]
fn scores_of_real_texts_equal_nltks() {
    let mut dictionaries = vec![("meteor without wordnet", None)];
    dictionaries.extend(full_dictionary().map(|dictionary| ("meteor with wordnet 3.0", Some(dictionary))));
    for (corpus, pairs, golden) in corpora() {
        let next = |i: usize| pairs[(i + 1) % pairs.len()].references.clone();
        let shifted: Vec<Pair> =
            pairs.iter().enumerate().map(|(i, pair)| Pair { references: next(i), ..pair.clone() }).collect();
        for (name, dictionary) in &dictionaries {
            let meteor = Meteor::new(MeteorConfig::default(), dictionary.clone()).unwrap();
            for (name, pairs) in [((*name).to_owned(), &pairs), (format!("{name}, next record"), &shifted)] {
                let found = meteor.measure(pairs).unwrap()[0].value().unwrap();
                assert_close(found, golden[&name].as_f64().unwrap(), &format!("{name} of {corpus}"));
            }
        }
    }
}

#[test]
fn folders_that_are_no_dictionary_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(WordNet::open(folder.path()).unwrap_err(), Error::Read { .. }));
    for part in ["noun", "verb", "adj", "adv"] {
        fs::write(folder.path().join(format!("data.{part}")), "short").unwrap();
        fs::write(folder.path().join(format!("{part}.exc")), "").unwrap();
        fs::write(folder.path().join(format!("index.{part}")), "").unwrap();
    }
    WordNet::open(folder.path()).unwrap();
    for (line, problem) in [
        ("dog n 1 0 1 0 00000099  \n", "line 2 points past the end"),
        ("dog n x\n", "line 2 is no index entry"),
    ] {
        fs::write(folder.path().join("index.verb"), format!("  1 licence\n{line}")).unwrap();
        let error = WordNet::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains("index.verb"), "{error}");
    }
}

#[test]
fn weights_out_of_range_are_refused() {
    for config in [
        MeteorConfig { alpha: 1.5, ..MeteorConfig::default() },
        MeteorConfig { beta: -1.0, ..MeteorConfig::default() },
        MeteorConfig { gamma: f64::NAN, ..MeteorConfig::default() },
    ] {
        assert!(matches!(Meteor::new(config, None).unwrap_err(), Error::Setting { .. }));
    }
}

fn corrected(lexicon: Lexicon) -> CorrectedMeteor {
    CorrectedMeteor::new(MeteorConfig::default(), ModuleWeights::default(), lexicon).unwrap()
}

fn corrected_score(meteor: &CorrectedMeteor, reference: &str, prediction: &str) -> f64 {
    let found = meteor.measure(&[Pair::new("1", prediction, reference)]).unwrap().remove(0);
    assert_eq!(
        (found.metric.as_str(), &found.params["alignments_not_proven"]),
        ("meteor_corrected", &0.into())
    );
    found.value().unwrap()
}

fn table(lines: &str) -> Result<Paraphrases, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("paraphrases.tsv");
    fs::write(&path, lines).unwrap();
    Paraphrases::open(&path)
}

fn with_table(lines: &str) -> Lexicon {
    Lexicon { wordnet: Some(small_dictionary()), paraphrases: Some(Arc::new(table(lines).unwrap())) }
}

/// nltk looks up the stem `happi`, which no dictionary has.
#[test]
fn synonyms_are_looked_up_by_word_in_the_corrected_variant() {
    let nltk = Meteor::new(MeteorConfig::default(), Some(small_dictionary())).unwrap();
    // One of two words matched in one chunk: F = 1/2, penalty 1/2. Both in one chunk of two: F = 1, penalty 1/16.
    assert_eq!(nltk.score(&["happy", "people"], &["glad", "people"]), 0.25);
    let meteor = corrected(Lexicon { wordnet: Some(small_dictionary()), ..Lexicon::default() });
    assert_eq!(corrected_score(&meteor, "happy people", "glad people"), 0.9375);
    // Two inflected forms share a synset, whichever side they are on.
    for (reference, prediction) in
        [("the car stopped", "the autos stopped"), ("the autos stopped", "the car stopped")]
    {
        assert_close(corrected_score(&meteor, reference, prediction), 1.0 - 0.5 / 27.0, reference);
    }
}

/// Scores by hand, from the formulas of the papers with α = 0.9, β = 3, γ = 0.5.
#[test]
fn corrected_scores_follow_the_definition() {
    let meteor = corrected(with_table("kicked the bucket\tdied\n\n# of purpose\nin order to\tTO\n"));
    let mean = |p: f64, r: f64| p * r / (0.9 * p + 0.1 * r);
    for (reference, prediction, expected) in [
        // Banerjee and Lavie 2005, section 2: two chunks, `the president` and `spoke to the audience`.
        (
            "the president then spoke to the audience",
            "the president spoke to the audience",
            mean(1.0, 6.0 / 7.0) * (1.0 - 0.5 * (2.0_f64 / 6.0).powi(3)),
        ),
        // One word stands for three, at 0.6 each; four words matched on average, in one chunk.
        (
            "he kicked the bucket yesterday",
            "he died yesterday",
            mean(2.6 / 3.0, 3.8 / 5.0) * (1.0 - 0.5 / 64.0),
        ),
        // The phrase covers four words where the equal words `to` cover two.
        ("in order to win", "to win", mean(1.6 / 2.0, 2.8 / 4.0) * (1.0 - 0.5 / 27.0)),
        // The first `a` has no word to cross, the second one has.
        ("a b", "a b a", mean(2.0 / 3.0, 1.0) * (1.0 - 0.5 / 8.0)),
        // Both words match in stem; the order that crosses weighs no more, so it is not taken.
        ("runs run", "run runs", 1.0 - 0.5 / 8.0),
        ("", "a", 0.0),
        ("a", "", 0.0),
        ("one", "two", 0.0),
    ] {
        assert_close(
            corrected_score(&meteor, reference, prediction),
            expected,
            &format!("{reference} / {prediction}"),
        );
    }
}

#[test]
fn weights_decide_between_modules_and_then_between_orders() {
    let weights = ModuleWeights { exact: 1.0, stem: 0.6, synonym: 0.8, paraphrase: 0.6 };
    let meteor = CorrectedMeteor::new(MeteorConfig::default(), weights, Lexicon::default()).unwrap();
    let alignment = meteor.align(&["runs", "run"], &["run", "runs"]);
    assert!(alignment.matches.iter().all(|found| found.module == Module::Exact));
    assert_eq!((alignment.crossings(), alignment.chunks()), (1, 2));
    assert!(
        CorrectedMeteor::new(
            MeteorConfig::default(),
            ModuleWeights { stem: 1.1, ..weights },
            Lexicon::default()
        )
        .is_err()
    );
}

#[test]
fn paraphrases_hold_in_both_directions_and_are_named_by_their_pairs() {
    let one = table("Kicked  the bucket\tdied\nin order to\tto\n").unwrap();
    let other =
        table("\u{feff}to\tin order to\r\n# comment\n\ndied\tkicked the bucket\ndied\tKICKED the bucket\n")
            .unwrap();
    assert_eq!((one.len(), one.fingerprint()), (2, other.fingerprint()));
    let (text, phrase) = (["he", "died"], ["he", "kicked", "the", "bucket"]);
    for table in [one, other] {
        let meteor = corrected(Lexicon { paraphrases: Some(Arc::new(table)), ..Lexicon::default() });
        let [there, back] = [meteor.align(&phrase, &text), meteor.align(&text, &phrase)];
        assert_eq!(there.matches[1].reference, 1..4);
        assert_eq!(back.matches[1].prediction, 1..4);
        assert_eq!(there.matches[1].module, Module::Paraphrase);
    }
}

#[test]
fn tables_that_are_no_paraphrases_are_refused_by_line() {
    for (lines, message) in [
        ("died\n", "line 1: 1 phrases between tabs, expected a phrase, a tab and its paraphrase"),
        ("a\tb\nc\td\te\n", "line 2: 3 phrases between tabs"),
        ("a\t \n", "line 1: 1 phrases between tabs"),
        ("a b\tA  B\n", "line 1: `a b` is given as its own paraphrase"),
        ("# nothing\n", "holds no records"),
    ] {
        let error = table(lines).unwrap_err().to_string();
        assert!(error.contains(message), "{lines:?}: {error}");
    }
}

#[test]
fn real_texts_score_at_least_as_high_as_their_greedy_alignment() {
    for (corpus, pairs, golden) in corpora() {
        let found = corrected(Lexicon::default()).measure(&pairs).unwrap().remove(0);
        // Predictions are the references without some words, so the greedy alignment misses no word either, and can
        // only break more chunks.
        let greedy = golden["meteor without wordnet"].as_f64().unwrap();
        let (value, not_proven) = (found.value().unwrap(), &found.params["alignments_not_proven"]);
        eprintln!("{corpus}: {value} against {greedy}; {not_proven} of {} not proven", pairs.len());
        assert!(value > greedy && value < 1.0, "{corpus}: {value}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn exchanging_the_texts_exchanges_precision_and_recall(
        a in prop::collection::vec("car|auto|cars|the|run|ran|jog|quick|fast", 0..8),
        b in prop::collection::vec("car|auto|cars|the|run|ran|jog|quick|fast", 0..8),
    ) {
        let symmetric = MeteorConfig { alpha: 0.5, ..MeteorConfig::default() };
        let lexicon = Lexicon { wordnet: Some(small_dictionary()), ..Lexicon::default() };
        let meteor = CorrectedMeteor::new(symmetric, ModuleWeights::default(), lexicon).unwrap();
        let (there, back) = (meteor.align(&a, &b), meteor.align(&b, &a));
        prop_assert_eq!(there.matches.len(), back.matches.len());
        prop_assert_eq!((there.crossings(), there.chunks()), (back.crossings(), back.chunks()));
        prop_assert!((meteor.score(&a, &b) - meteor.score(&b, &a)).abs() < 1e-12);
    }
}

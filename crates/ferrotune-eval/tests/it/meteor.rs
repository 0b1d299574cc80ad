use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use ferrotune_eval::{
    Error, Metric, Pair,
    meteor::{Meteor, MeteorConfig, SynonymLookup, WordNet},
};

use crate::{assert_close, golden, golden_pairs, numbers, shared_data::corpora, strings};

fn small_dictionary() -> Arc<WordNet> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wordnet");
    Arc::new(WordNet::open(&folder).unwrap())
}

/// WordNet 3.0, or `None` with a message where it is not installed.
fn full_dictionary() -> Option<Arc<WordNet>> {
    let folder =
        env::var_os("FERROTUNE_WORDNET").map_or_else(|| PathBuf::from("/usr/share/wordnet"), PathBuf::from);
    if !folder.join("data.noun").exists() {
        eprintln!(
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
            lookup: SynonymLookup::Stems,
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

/// nltk looks up `automobil`; a dictionary has `automobile`.
#[test]
fn the_corrected_variant_matches_what_stemming_hides() {
    let score = |lookup| {
        let config = MeteorConfig { lookup, ..MeteorConfig::default() };
        let meteor = Meteor::new(config, Some(small_dictionary())).unwrap();
        let measurement = meteor.measure(&[Pair::new("1", "glad people", "happy people")]).unwrap().remove(0);
        (measurement.metric.clone(), measurement.value().unwrap())
    };
    // One of two words matched in one chunk: F = 1/2, penalty 1/2. Both in one chunk of two: F = 1, penalty 1/16.
    assert_eq!(score(SynonymLookup::Stems), ("meteor".to_owned(), 0.25));
    assert_eq!(score(SynonymLookup::Words), ("meteor_corrected".to_owned(), 0.9375));
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
    let weighted = meteor(MeteorConfig { alpha: 0.85, beta: 2.0, gamma: 0.2, ..MeteorConfig::default() });
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

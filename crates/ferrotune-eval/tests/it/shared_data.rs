use std::{collections::BTreeMap, env, fs, io::Write as _, path::PathBuf};

use ferrotune_eval::{
    Metric, Pair, Registry, SampleScore,
    bleu::{Bleu, BleuConfig, Tokenizer},
    chrf::{Chrf, ChrfConfig},
    exact_match::{SquadExactMatch, TokenF1},
    meteor::{Meteor, MeteorConfig},
    rouge::{Rouge, RougeKind, Stemming},
};
use serde_json::Value;

use crate::{assert_close, golden, meteor::full_dictionary, numbers};

/// With this variable set, data that are absent fail the tests that need them.
pub(crate) const REQUIRED: &str = "FERROTUNE_REQUIRE_SHARED";

/// A file of the shared data, or `None` with a message where it is absent and not [`REQUIRED`].
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let folder = env::var_os("FERROTUNE_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let path = folder.join(name);
    if !path.exists() {
        assert!(env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, and {} is absent", path.display());
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {} is absent; set FERROTUNE_SHARED to the folder that holds {name}",
            path.display()
        );
        return None;
    }
    Some(path)
}

/// The texts that the generator scored with the reference packages, with the golden file of what it found.
pub(crate) fn corpora() -> Vec<(&'static str, Vec<Pair>, Value)> {
    let alpaca = shared("data/alpaca-999.json").map(|path| {
        let records: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let texts =
            records.as_array().unwrap().iter().map(|record| record["output"].as_str().unwrap().to_owned());
        ("alpaca", with_words_dropped(texts), golden!("alpaca"))
    });
    let gsm8k = shared("data/gsm8k-test.jsonl").map(|path| {
        let text = fs::read_to_string(path).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let texts = records.map(|record| record["answer"].as_str().unwrap().to_owned());
        ("gsm8k", with_words_dropped(texts), golden!("gsm8k"))
    });
    alpaca.into_iter().chain(gsm8k).collect()
}

/// The texts as references, and the same with every seventh word dropped (the fourth first) as predictions.
fn with_words_dropped(texts: impl Iterator<Item = String>) -> Vec<Pair> {
    let dropped = |text: &str| {
        let words = text.split_whitespace().enumerate();
        words.filter(|(i, _)| i % 7 != 3).map(|(_, word)| word).collect::<Vec<_>>().join(" ")
    };
    texts.enumerate().map(|(i, text)| Pair::new(i.to_string(), dropped(&text), text)).collect()
}

#[test]
fn scores_of_real_texts_equal_the_reference_packages() {
    for (corpus, pairs, golden) in corpora() {
        assert_eq!(golden["samples"], pairs.len());
        let expect = |name: &str, found: f64| {
            let expected = golden[name].as_f64().unwrap_or_else(|| panic!("no golden `{name}`"));
            assert_close(found, expected, &format!("{name} of {corpus}"));
        };
        for config in [
            BleuConfig::default(),
            BleuConfig { tokenizer: Tokenizer::International, ..BleuConfig::default() },
            BleuConfig { tokenizer: Tokenizer::Character, ..BleuConfig::default() },
            BleuConfig { tokenizer: Tokenizer::None, ..BleuConfig::default() },
            BleuConfig { lowercase: true, ..BleuConfig::default() },
        ] {
            let found = Bleu::new(config).unwrap().measure(&pairs).unwrap().remove(0);
            expect(&format!("bleu {}", found.variant), found.value().unwrap());
        }
        for word_order in [0, 2] {
            let chrf = Chrf::new(ChrfConfig { word_order, ..ChrfConfig::default() }).unwrap();
            expect(&chrf.name(), chrf.measure(&pairs).unwrap()[0].value().unwrap());
        }
        let kinds = vec![RougeKind::N(1), RougeKind::N(2), RougeKind::L, RougeKind::Lsum];
        for (name, stemming) in [("plain", Stemming::None), ("stemmed", Stemming::Porter)] {
            for found in Rouge::new(kinds.clone(), stemming).unwrap().measure(&pairs).unwrap() {
                expect(&format!("{} {name}", found.metric), found.value().unwrap());
            }
        }
        for metric in Registry::with_text_metrics().unwrap().resolve("squad_em,token_f1").unwrap() {
            let found = metric.measure(&pairs).unwrap().remove(0);
            expect(&found.metric, found.value().unwrap());
        }
    }
}

/// The score of each sample, by name.
type Scores = BTreeMap<String, Vec<f64>>;

fn scores_of(pairs: &[Pair]) -> Scores {
    let mut scores = Scores::new();
    let mut add = |name: String, metric: &dyn Metric, output: usize| {
        let samples = &metric.measure(pairs).unwrap()[output].samples;
        let of_sample = |(pair, sample): (&Pair, &SampleScore)| {
            assert_eq!(pair.id, sample.id, "{name}");
            *sample.score.as_ref().unwrap()
        };
        scores.insert(name.clone(), pairs.iter().zip(samples).map(of_sample).collect());
    };
    add("bleu".to_owned(), &Bleu::new(BleuConfig::default()).unwrap(), 0);
    for word_order in [0, 2] {
        let chrf = Chrf::new(ChrfConfig { word_order, ..ChrfConfig::default() }).unwrap();
        add(chrf.name(), &chrf, 0);
    }
    let kinds = [RougeKind::N(1), RougeKind::N(2), RougeKind::L, RougeKind::Lsum];
    for (name, stemming) in [("plain", Stemming::None), ("stemmed", Stemming::Porter)] {
        let rouge = Rouge::new(kinds.to_vec(), stemming).unwrap();
        for (output, kind) in kinds.iter().enumerate() {
            add(format!("{kind} {name}"), &rouge, output);
        }
    }
    add("meteor".to_owned(), &Meteor::new(MeteorConfig::default(), None).unwrap(), 0);
    if let Some(wordnet) = full_dictionary() {
        let meteor = Meteor::new(MeteorConfig::default(), Some(wordnet)).unwrap();
        add("meteor wordnet".to_owned(), &meteor, 0);
    }
    add("squad_em".to_owned(), &SquadExactMatch::default(), 0);
    add("token_f1".to_owned(), &TokenF1::default(), 0);
    scores
}

/// A mean can hide errors that cancel; the vectors of all samples cannot.
#[test]
fn the_score_of_every_real_text_equals_the_reference_packages() {
    for (corpus, pairs, _) in corpora() {
        let golden = if corpus == "alpaca" { golden!("alpaca_samples") } else { golden!("gsm8k_samples") };
        let next = |i: usize| pairs[(i + 1) % pairs.len()].references.clone();
        let following: Vec<Pair> =
            pairs.iter().enumerate().map(|(i, pair)| Pair { references: next(i), ..pair.clone() }).collect();
        for (which, pairs) in [("own", &pairs), ("next", &following)] {
            let found = scores_of(pairs);
            for (name, expected) in golden[which].as_object().unwrap() {
                let Some(found) = found.get(name) else {
                    assert_eq!(name, "meteor wordnet", "only a dictionary may be missing");
                    continue;
                };
                let expected = numbers(expected);
                assert_eq!(found.len(), expected.len());
                for (pair, (&found, expected)) in pairs.iter().zip(found.iter().zip(expected)) {
                    assert_close(
                        found,
                        expected,
                        &format!("{name} of {corpus}, {which} text, sample {}", pair.id),
                    );
                }
            }
        }
    }
}

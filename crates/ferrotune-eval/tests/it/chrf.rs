use ferrotune_eval::{
    Error, Metric,
    chrf::{Chrf, ChrfConfig},
};
use serde_json::Value;

use crate::{assert_close, golden, golden_pairs, numbers};

pub(crate) fn config(options: &Value) -> ChrfConfig {
    let mut config = ChrfConfig::default();
    for (name, option) in options.as_object().unwrap() {
        let number = || option.as_u64().unwrap() as usize;
        let yes = || option.as_bool().unwrap();
        match name.as_str() {
            "char_order" => config.char_order = number(),
            "word_order" => config.word_order = number(),
            "beta" => config.beta = number() as u32,
            "lowercase" => config.lowercase = yes(),
            "whitespace" => config.whitespace = yes(),
            "eps_smoothing" => config.eps_smoothing = yes(),
            other => panic!("unknown option {other}"),
        }
    }
    config
}

#[test]
fn corpus_and_sentence_scores_equal_sacrebleus() {
    let golden = golden!("chrf");
    let pairs = golden_pairs(&golden["pairs"]);
    for case in golden["cases"].as_array().unwrap() {
        let what = case["options"].to_string();
        let chrf = Chrf::new(config(&case["options"])).unwrap();
        let found = chrf.measure(&pairs).unwrap().remove(0);
        assert_close(found.value().unwrap(), case["score"].as_f64().unwrap(), &what);
        assert_eq!(
            found.variant,
            format!("{} {}", case["name"].as_str().unwrap(), case["signature"].as_str().unwrap())
        );
        let sentences = numbers(&case["sentences"]);
        assert_eq!(sentences.len(), pairs.len());
        for ((pair, sample), expected) in pairs.iter().zip(&found.samples).zip(sentences) {
            assert_close(*sample.score.as_ref().unwrap(), expected, &format!("{what}: {pair:?}"));
            assert_close(chrf.sentence(&pair.prediction, &pair.references), expected, &what);
        }
    }
}

#[test]
fn orders_of_zero_are_refused() {
    for config in [
        ChrfConfig { char_order: 0, ..ChrfConfig::default() },
        ChrfConfig { beta: 0, ..ChrfConfig::default() },
    ] {
        assert!(matches!(Chrf::new(config).unwrap_err(), Error::Setting { .. }));
    }
}

use std::{collections::HashMap, sync::Arc};

use ferrotune_core::{BoxError, TokenEmbedder, TokenVectors};
use ferrotune_eval::{
    Error, Metric, Pair,
    bert_score::{Baseline, BertScore, TokenWeights},
};
use serde_json::Value;

use crate::{golden, numbers};

/// The reference works in single precision.
const SINGLE_PRECISION: f64 = 1e-6;

/// Texts "0", "1", … stand for the golden file's token lists.
struct Recorded(HashMap<String, TokenVectors>);

impl Recorded {
    fn new(golden: &Value) -> Self {
        let rows = |value: &Value| value.as_array().unwrap().clone();
        let both = rows(&golden["ids"]).into_iter().zip(rows(&golden["vectors"])).enumerate();
        let of_text = |(i, (ids, vectors)): (usize, (Value, Value))| {
            let ids: Vec<u32> = numbers(&ids).into_iter().map(|id| id as u32).collect();
            let vectors: Vec<f32> = rows(&vectors).iter().flat_map(numbers).map(|x| x as f32).collect();
            (i.to_string(), TokenVectors { ids, vectors, is_truncated: i == 4 })
        };
        Self(both.map(of_text).collect())
    }
}

impl TokenEmbedder for Recorded {
    fn embed_tokens(&self, texts: &[&str]) -> Result<Vec<TokenVectors>, BoxError> {
        texts
            .iter()
            .map(|&text| self.0.get(text).cloned().ok_or_else(|| format!("no `{text}`").into()))
            .collect()
    }

    fn mark_ids(&self) -> [u32; 2] {
        [101, 102]
    }

    fn dimension(&self) -> usize {
        4
    }

    fn name(&self) -> String {
        "recorded".to_owned()
    }
}

fn all_pairs(texts: usize) -> Vec<Pair> {
    let pairs = (0..texts).flat_map(|h| (0..texts).map(move |r| (h, r)));
    pairs.map(|(h, r)| Pair::new(format!("{h}-{r}"), h.to_string(), r.to_string())).collect()
}

#[test]
fn precision_recall_and_f_equal_the_package() {
    let golden = golden!("bert_score");
    let encoder = Arc::new(Recorded::new(&golden));
    let pairs = all_pairs(encoder.0.len());
    for (name, weights) in [("equal", TokenWeights::Equal), ("idf", TokenWeights::InverseDocumentFrequency)] {
        let found = BertScore::new(encoder.clone(), weights).score_pairs(&pairs).unwrap();
        let expected = golden[name].as_array().unwrap();
        assert_eq!(expected.len(), pairs.len());
        for ((pair, found), expected) in pairs.iter().zip(found).zip(expected) {
            let found = found.unwrap();
            for (x, y) in [found.precision, found.recall, found.f_measure].into_iter().zip(numbers(expected))
            {
                assert!(
                    (x - y).abs() <= SINGLE_PRECISION * y.abs().max(1.0),
                    "{name} {}: {x} against {y}",
                    pair.id
                );
            }
        }
    }
}

#[test]
fn the_best_reference_counts_for_each_number_itself() {
    let golden = golden!("bert_score");
    let metric = BertScore::new(Arc::new(Recorded::new(&golden)), TokenWeights::Equal);
    let single: Vec<Pair> = ["1", "3", "4"].map(|reference| Pair::new(reference, "0", reference)).to_vec();
    let scores: Vec<_> = metric.score_pairs(&single).unwrap().into_iter().map(Result::unwrap).collect();
    let many =
        Pair { references: vec!["1".to_owned(), "3".to_owned(), "4".to_owned()], ..Pair::new("x", "0", "") };
    let found = *metric.score_pairs(&[many]).unwrap()[0].as_ref().unwrap();
    let best =
        |part: fn(&ferrotune_eval::rouge::Prf) -> f64| scores.iter().map(part).fold(f64::MIN, f64::max);
    assert_eq!(found.precision, best(|s| s.precision));
    assert_eq!(found.recall, best(|s| s.recall));
    assert_eq!(found.f_measure, best(|s| s.f_measure));
}

#[test]
fn rescaling_takes_the_baseline_to_zero_and_one_to_one() {
    let golden = golden!("bert_score");
    let encoder = Arc::new(Recorded::new(&golden));
    let pair = [Pair::new("1", "0", "3"), Pair::new("2", "0", "0")];
    let raw = BertScore::new(encoder.clone(), TokenWeights::Equal);
    let of_first = *raw.score_pairs(&pair).unwrap()[0].as_ref().unwrap();
    let baseline =
        Baseline { precision: of_first.precision, recall: of_first.recall, f_measure: of_first.f_measure };
    let rescaled = raw.rescaled(baseline).score_pairs(&pair).unwrap();
    assert_eq!(rescaled[0].as_ref().unwrap().f_measure, 0.0);
    assert!((rescaled[1].as_ref().unwrap().f_measure - 1.0).abs() < SINGLE_PRECISION);
}

#[test]
fn a_broken_encoder_is_an_error_and_a_zero_vector_a_failure() {
    let golden = golden!("bert_score");
    let mut encoder = Recorded::new(&golden);
    let metric = |encoder| BertScore::new(Arc::new(encoder), TokenWeights::Equal);
    let error = metric(Recorded::new(&golden)).measure(&[Pair::new("1", "unknown", "0")]).unwrap_err();
    assert!(error.to_string().contains("`recorded` failed: no `unknown`"), "{error}");
    encoder.0.get_mut("0").unwrap().vectors[4..8].fill(0.0);
    let found = metric(encoder).measure(&[Pair::new("1", "0", "3"), Pair::new("2", "1", "3")]).unwrap();
    assert_eq!(found.iter().map(|m| m.scored()).collect::<Vec<_>>(), [1, 1, 1]);
    let mut short = Recorded::new(&golden);
    short.0.get_mut("0").unwrap().ids.pop();
    let error = metric(short).measure(&[Pair::new("1", "0", "3")]).unwrap_err();
    assert!(matches!(error, Error::EncoderShape { .. }), "{error}");
}

#[test]
fn a_single_reference_in_which_idf_weighs_nothing_is_a_failure_that_says_so() {
    let golden = golden!("bert_score");
    let metric = BertScore::new(Arc::new(Recorded::new(&golden)), TokenWeights::InverseDocumentFrequency);
    let found = metric.score_pairs(&[Pair::new("1", "0", "0")]).unwrap();
    let failure = found[0].as_ref().unwrap_err();
    assert!(failure.detail.starts_with("idf gives every token"), "{failure:?}");
}

#[test]
fn texts_that_were_cut_are_counted() {
    let golden = golden!("bert_score");
    let pairs = [Pair::new("1", "0", "4"), Pair::new("2", "4", "4"), Pair::new("3", "0", "1")];
    for weights in [TokenWeights::Equal, TokenWeights::InverseDocumentFrequency] {
        let found = BertScore::new(Arc::new(Recorded::new(&golden)), weights).measure(&pairs).unwrap();
        assert!(found.iter().all(|measurement| measurement.params["samples_truncated"] == 2));
    }
}

#[test]
fn scores_do_not_depend_on_the_pairs_beside_them() {
    let golden = golden!("bert_score");
    let metric = BertScore::new(Arc::new(Recorded::new(&golden)), TokenWeights::Equal);
    // More pairs than are encoded together.
    let many: Vec<Pair> = (0..40).flat_map(|_| all_pairs(5)).collect();
    let alone = metric.score_pairs(&all_pairs(5)).unwrap();
    for (found, expected) in metric.score_pairs(&many).unwrap().iter().zip(alone.iter().cycle()) {
        assert_eq!(found, expected);
    }
}

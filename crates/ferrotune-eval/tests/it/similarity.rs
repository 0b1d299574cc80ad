use std::sync::Arc;

use ferrotune_core::{BoxError, Embedder};
use ferrotune_eval::{
    Error, FailureKind, Metric, Pair,
    judge::{JudgeError, TokenUsage},
    similarity::{SemanticSimilarity, cosine},
};

use crate::assert_close;

/// The first three characters' code points as a vector, or what a broken encoder would say.
#[derive(Clone, Copy)]
enum Encoder {
    Letters,
    Short,
    Missing,
    Failing,
    /// A server that refuses empty texts.
    Refusing,
}

impl Embedder for Encoder {
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, BoxError> {
        let letters = |text: &&str| {
            let mut vector: Vec<f32> = text.chars().take(3).map(|c| c as u32 as f32).collect();
            vector.resize(3, 0.0);
            vector
        };
        match self {
            Self::Letters => Ok(texts.iter().map(letters).collect()),
            Self::Short => Ok(texts.iter().map(|_| vec![1.0]).collect()),
            Self::Missing => Ok(Vec::new()),
            Self::Failing => Err("out of memory".into()),
            Self::Refusing if texts.contains(&"") => Err(Box::new(JudgeError::Unavailable {
                detail: "HTTP 400".to_owned(),
                retries: 0,
                wasted: TokenUsage::default(),
            })),
            Self::Refusing => Ok(texts.iter().map(letters).collect()),
        }
    }

    fn dimension(&self) -> usize {
        3
    }

    fn name(&self) -> String {
        "letters".to_owned()
    }
}

#[test]
fn cosine_equals_the_reference() {
    assert_close(cosine(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.5]).unwrap(), 0.9992825883286348, "cosine");
    assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), None);
    assert_close(cosine(&[1.0, 0.0], &[-2.0, 0.0]).unwrap(), -1.0, "opposite");
}

#[test]
fn the_closest_reference_counts_and_a_zero_vector_is_a_failure() {
    let metric = SemanticSimilarity::new(Arc::new(Encoder::Letters));
    let mut close = Pair::new("1", "abc", "xyz");
    close.references.push("abc".to_owned());
    let pairs = [close, Pair::new("2", "", "abc")];
    let measurement = metric.measure(&pairs).unwrap().remove(0);
    assert_close(measurement.value().unwrap(), 1.0, "identical reference");
    assert_eq!(measurement.scored(), 1);
    assert_eq!(measurement.samples[1].score.as_ref().unwrap_err().kind, FailureKind::ZeroNorm);
}

#[test]
fn results_do_not_depend_on_what_is_encoded_together() {
    let metric = SemanticSimilarity::new(Arc::new(Encoder::Letters));
    let pairs: Vec<Pair> =
        (0..300).map(|i| Pair::new(i.to_string(), format!("{i:03}"), format!("{:03}", 299 - i))).collect();
    let together = metric.measure(&pairs).unwrap().remove(0);
    for (pair, sample) in pairs.iter().zip(&together.samples) {
        let alone = metric.measure(std::slice::from_ref(pair)).unwrap().remove(0);
        assert_eq!(alone.samples[0], *sample);
    }
}

#[test]
fn a_text_that_a_server_refuses_fails_alone() {
    let metric = SemanticSimilarity::new(Arc::new(Encoder::Refusing));
    let pairs = [Pair::new("1", "abc", "abc"), Pair::new("2", "", "abc"), Pair::new("3", "xyz", "abc")];
    let found = metric.measure(&pairs).unwrap().remove(0);
    assert_eq!(found.scored(), 2);
    assert_eq!(found.samples[1].score.as_ref().unwrap_err().kind, FailureKind::JudgeUnavailable);
}

#[test]
fn a_broken_encoder_is_an_error_with_its_name() {
    let pairs = [Pair::new("1", "a", "b")];
    let error = |encoder| SemanticSimilarity::new(Arc::new(encoder)).measure(&pairs).unwrap_err();
    for broken in [Encoder::Short, Encoder::Missing] {
        assert!(matches!(error(broken), Error::EncoderShape { .. }));
    }
    assert!(error(Encoder::Failing).to_string().contains("`letters` failed: out of memory"));
}

use ferrotune_core::{BoxError, Continuation, Generation, GenerationLimits, LanguageModel, Likelihood};
use ferrotune_eval::{
    Error,
    loss::{TokenLoss, hf_eval_loss, hf_logged_loss, mean_of_micro_batch_means},
    perplexity::{Perplexity, TextLikelihood, TextSize, Window, disjoint, rolling_windows, text_likelihoods},
};

use crate::assert_close;

#[test]
fn losses_aggregate_as_named() {
    let parts = [TokenLoss { sum: 8.0, tokens: 4 }, TokenLoss { sum: 1.0, tokens: 1 }];
    assert_close(TokenLoss::total(parts).mean().unwrap(), 1.8, "token-weighted");
    assert_close(mean_of_micro_batch_means(&[2.0, 1.0]).unwrap(), 1.5, "mean of means");
    assert_close(hf_eval_loss(&[(2.0, 2), (1.0, 1)]).unwrap(), 1.6666666666666667, "eval_loss");
    let parts = [TokenLoss { sum: 8.0, tokens: 4 }, TokenLoss { sum: 10.0, tokens: 10 }];
    assert_close(TokenLoss::total(parts).mean().unwrap(), 1.2857142857142858, "token-weighted evaluation");
    // Python: round((2.00005 + 2.00006) / 2, 4) is 2.0001.
    assert_close(hf_logged_loss(&[2.00005, 2.00006]).unwrap(), 2.0001, "logged loss");
}

#[test]
fn nothing_has_no_loss() {
    assert_eq!(TokenLoss::default().mean(), None);
    assert_eq!(mean_of_micro_batch_means(&[]), None);
    assert_eq!(hf_eval_loss(&[]), None);
    assert_eq!(hf_logged_loss(&[]), None);
}

/// Negative log-likelihoods of a model with vocabulary 5 and logit (b, t, v) = ((7b + 3t + 2v) mod 5) / 2 on the
/// sequences [1, 3, 0, 2, 4] and [1, 2, 2], whose first id is not scored; computed here from that definition.
fn toy_likelihoods() -> Vec<TextLikelihood> {
    let sequences: [&[usize]; 2] = [&[1, 3, 0, 2, 4], &[1, 2, 2]];
    let negative = |b: usize, t: usize, target: usize| {
        let logit = |v: usize| ((7 * b + 3 * t + 2 * v) % 5) as f64 * 0.5;
        (0..5).map(|v| logit(v).exp()).sum::<f64>().ln() - logit(target)
    };
    let of_sequence = |(b, ids): (usize, &&[usize])| TextLikelihood {
        id: b.to_string(),
        log_likelihood: -(1..ids.len()).map(|t| negative(b, t - 1, ids[t])).sum::<f64>(),
        tokens: ids.len() as u64 - 1,
        size: None,
    };
    sequences.iter().enumerate().map(of_sequence).collect()
}

#[test]
fn the_definitions_of_perplexity_differ_as_tabled() {
    let texts = toy_likelihoods();
    assert_close(-texts[0].log_likelihood / 4.0, 2.09710164582515, "loss of sequence 0");
    assert_close(-texts[1].log_likelihood / 2.0, 1.5971016458251506, "loss of sequence 1");
    let weighted = Perplexity::TokenWeighted.measure(&texts).unwrap();
    assert_close(weighted.value().unwrap(), 6.89250768681438, "token-weighted");
    assert_close(weighted.value().unwrap().ln(), 1.9304349791584834, "token-weighted loss");
    let mean = Perplexity::MeanOfTexts.measure(&texts).unwrap();
    assert_close(*mean.samples[0].score.as_ref().unwrap(), 8.142535726574675, "sequence 0");
    assert_close(*mean.samples[1].score.as_ref().unwrap(), 4.938697565973027, "sequence 1");
    assert_close(mean.value().unwrap(), 6.54061664627385, "mean of texts");
}

#[test]
fn corpus_weighted_definitions_equal_the_harness() {
    let text = |log_likelihood, words, bytes| TextLikelihood {
        id: "x".to_owned(),
        log_likelihood,
        tokens: 3,
        size: Some(TextSize { words, bytes }),
    };
    let per_text: Vec<_> = [-1.2, -0.5, -2.0, -0.9].map(|ll| text(ll, 1, 1)).to_vec();
    let value = |definition: Perplexity, texts: &[TextLikelihood]| {
        definition.measure(texts).unwrap().value().unwrap()
    };
    assert_close(value(Perplexity::PerText, &per_text), 3.158192909689768, "perplexity");
    let texts = [text(-10.0, 5, 25), text(-20.0, 7, 40)];
    assert_close(value(Perplexity::Word, &texts), 12.182493960703473, "weighted perplexity");
    assert_close(value(Perplexity::BitsPerByte, &texts), 0.6658592496410601, "bits per byte");
    assert_close(value(Perplexity::Byte, &texts), (30.0_f64 / 65.0).exp(), "byte perplexity");
}

#[test]
fn empty_texts_are_counted_failures_and_overflow_is_infinite() {
    let mut texts = toy_likelihoods();
    texts.push(TextLikelihood { id: "empty".to_owned(), log_likelihood: 0.0, tokens: 0, size: None });
    let measurement = Perplexity::TokenWeighted.measure(&texts).unwrap();
    assert_eq!(measurement.scored(), 2);
    assert_close(measurement.value().unwrap(), 6.89250768681438, "without the empty text");
    let words = Perplexity::Word.measure(&texts).unwrap();
    assert_eq!(words.value(), None, "sizes are not known");
    let hopeless = [TextLikelihood { id: "x".to_owned(), log_likelihood: -7100.0, tokens: 10, size: None }];
    assert_eq!(Perplexity::TokenWeighted.measure(&hopeless).unwrap().value(), Some(f64::INFINITY));
    let broken = [TextLikelihood { id: "x".to_owned(), log_likelihood: f64::NAN, tokens: 10, size: None }];
    assert!(Perplexity::TokenWeighted.measure(&broken).unwrap_err().to_string().contains("`x`"));
}

/// Gives every character the log-probability -1, or fails, or loses an answer.
enum Scripted {
    Counting,
    Failing,
    Forgetful,
}

impl LanguageModel for Scripted {
    fn log_likelihoods(&mut self, requests: &[Continuation]) -> Result<Vec<Likelihood>, BoxError> {
        let answer = |request: &Continuation| {
            assert_eq!(request.context, "");
            let tokens = request.text.chars().count();
            Likelihood { log_likelihood: -(tokens as f64), tokens, is_greedy: false, dropped: 0 }
        };
        match self {
            Self::Counting => Ok(requests.iter().map(answer).collect()),
            Self::Failing => Err("out of memory".into()),
            Self::Forgetful => Ok(Vec::new()),
        }
    }

    fn generate(&mut self, _: &[String], _: &GenerationLimits) -> Result<Vec<Generation>, BoxError> {
        Err("not asked for".into())
    }
}

/// Ten characters, two words, twelve bytes at one nat per character.
#[test]
fn texts_are_scored_through_the_language_model_port() {
    let texts = [("1", "naïve café")];
    let found = text_likelihoods(&mut Scripted::Counting, &texts).unwrap();
    let value = |definition: Perplexity| definition.measure(&found).unwrap().value().unwrap();
    assert_close(value(Perplexity::TokenWeighted), 1.0_f64.exp(), "tokens");
    assert_close(value(Perplexity::Word), 5.0_f64.exp(), "words");
    assert_close(value(Perplexity::Byte), (10.0_f64 / 12.0).exp(), "bytes");
    let failed = text_likelihoods(&mut Scripted::Failing, &texts).unwrap_err();
    assert_eq!(failed.to_string(), "the language model failed: out of memory");
    assert!(matches!(
        text_likelihoods(&mut Scripted::Forgetful, &texts).unwrap_err(),
        Error::LengthMismatch { left: 0, right: 1, .. }
    ));
}

#[test]
fn windows_equal_the_harness() {
    let window = |input: &[u32], scored: &[u32]| Window { input: input.to_vec(), scored: scored.to_vec() };
    let tokens: Vec<u32> = (1..=10).collect();
    let disjointed = |tokens: &[u32]| -> Vec<Window> {
        rolling_windows(tokens, 0, 4, 1).into_iter().map(disjoint).collect()
    };
    assert_eq!(
        disjointed(&tokens[..9]),
        [window(&[0], &[1, 2, 3, 4]), window(&[4], &[5, 6, 7, 8]), window(&[5, 6, 7, 8], &[9])]
    );
    assert_eq!(
        disjointed(&tokens),
        [window(&[0], &[1, 2, 3, 4]), window(&[4], &[5, 6, 7, 8]), window(&[6, 7, 8], &[9, 10])]
    );
    assert_eq!(
        rolling_windows(&tokens, 0, 4, 2),
        [
            window(&[0, 1, 2, 3], &[1, 2, 3, 4]),
            window(&[3, 4, 5, 6], &[5, 6, 7]),
            window(&[6, 7, 8, 9], &[8, 9, 10])
        ]
    );
    assert_eq!(rolling_windows(&[], 0, 4, 1), []);
}

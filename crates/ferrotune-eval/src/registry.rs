use std::{collections::BTreeMap, sync::Arc};

use ferrotune_core::{Embedder, TokenEmbedder};

use crate::{
    Error, Metric, Result, Unavailable,
    bert_score::{BertScore, TokenWeights},
    bleu::{Bleu, BleuConfig},
    chrf::{Chrf, ChrfConfig},
    exact_match::{RawExactMatch, SquadExactMatch, TokenF1},
    judge::Judging,
    judged::{
        AnswerCorrectness, AnswerSimilarity, CorrectnessConfig, CorrectnessRules, EmptyText, FastChatScore,
        Gpt4Score,
    },
    meteor::{CorrectedMeteor, Lexicon, Meteor, MeteorConfig, ModuleWeights},
    rouge::{Rouge, RougeKind, Stemming},
    similarity::SemanticSimilarity,
};

/// Why a judged metric is not measured.
const NO_JUDGE: &str = "no judge was configured";

/// Why a metric over sentence vectors is not measured.
const NO_ENCODER: &str = "no sentence encoder was given";

/// Metrics by name. A value that callers own and extend; there is no global one.
///
/// ```
/// use ferrotune_eval::Registry;
/// let registry = Registry::with_text_metrics()?;
/// let metrics = registry.resolve("bleu,rouge,exact_match")?;
/// assert_eq!(metrics[1].outputs(), ["rouge1", "rouge2", "rougeL", "rougeLsum"]);
/// assert!(registry.resolve("blue").unwrap_err().to_string().contains("bleu, chrf"));
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Registry {
    metrics: BTreeMap<String, Arc<dyn Metric>>,
}

impl Registry {
    /// A registry without metrics.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All metrics over texts that this crate has, with the references' default settings: `bleu`, `chrf`; `rouge` for
    /// the four usual kinds, `rouge1` to `rouge9`, `rougeL`, `rougeLsum`, `rougeS4`, `rougeSU4`, all without a stemmer;
    /// `meteor` and `meteor_corrected` without a lexicon, and named so; `exact_match`, `squad_em`, `token_f1`.
    ///
    /// `semantic_similarity`, `bert_score` and `bert_score_idf` are known, and reported as not measured until an encoder is given;
    /// `perplexity` likewise, since it is measured by
    /// [`Perplexity::measure`](crate::perplexity::Perplexity::measure) from a model's log-likelihoods.
    ///
    /// # Errors
    /// None with the settings used here; the constructors' errors are passed on.
    pub fn with_text_metrics() -> Result<Self> {
        let mut registry = Self::new();
        registry.insert("bleu", Bleu::new(BleuConfig::default())?)?;
        let rouge = |kinds| Rouge::new(kinds, Stemming::None);
        registry
            .insert("rouge", rouge(vec![RougeKind::N(1), RougeKind::N(2), RougeKind::L, RougeKind::Lsum])?)?;
        let skip = Some(4);
        let others = [RougeKind::L, RougeKind::Lsum, RougeKind::S { skip }, RougeKind::Su { skip }];
        for kind in (1..=9).map(RougeKind::N).chain(others) {
            registry.insert(kind.to_string(), rouge(vec![kind])?)?;
        }
        registry.insert("exact_match", RawExactMatch::default())?;
        registry.insert("squad_em", SquadExactMatch::default())?;
        registry.insert("token_f1", TokenF1::default())?;
        registry.insert("chrf", Chrf::new(ChrfConfig::default())?)?;
        for (metric, reason) in [
            ("semantic_similarity", NO_ENCODER),
            ("bert_score", "no token encoder was given"),
            ("bert_score_idf", "no token encoder was given"),
            ("perplexity", "it needs a model's log-likelihoods, which pairs of texts do not have"),
            ("ragas_answer_semantic_similarity", NO_ENCODER),
            ("gpt4_score", NO_JUDGE),
            ("gpt4_score_fastchat", NO_JUDGE),
        ] {
            registry.insert(metric, unavailable(metric, reason))?;
        }
        for rules in CorrectnessRules::ALL {
            registry.insert(rules.metric(), unavailable(rules.metric(), NO_JUDGE))?;
        }
        registry.with_lexicon(&Lexicon::default())
    }

    /// The same registry with `semantic_similarity` and `ragas_answer_semantic_similarity` over this encoder.
    #[must_use]
    pub fn with_encoder(mut self, encoder: Arc<dyn Embedder>) -> Self {
        let similarity = AnswerSimilarity::new(Arc::clone(&encoder), None, EmptyText::default());
        self.replace("ragas_answer_semantic_similarity", similarity);
        self.replace("semantic_similarity", SemanticSimilarity::new(encoder));
        self
    }

    /// The same registry with `bert_score` (equal weights) and `bert_score_idf` over this encoder, not rescaled.
    #[must_use]
    pub fn with_token_encoder(mut self, encoder: Arc<dyn TokenEmbedder>) -> Self {
        self.replace("bert_score", BertScore::new(Arc::clone(&encoder), TokenWeights::Equal));
        self.replace("bert_score_idf", BertScore::new(encoder, TokenWeights::InverseDocumentFrequency));
        self
    }

    /// The same registry with what the lexicon has for `meteor` (nltk's rules, which know synonyms only) and
    /// `meteor_corrected`.
    ///
    /// # Errors
    /// None with the settings used here; the constructors' errors are passed on.
    pub fn with_lexicon(mut self, lexicon: &Lexicon) -> Result<Self> {
        let config = MeteorConfig::default();
        self.replace("meteor", Meteor::new(config, lexicon.wordnet.clone())?);
        let corrected = CorrectedMeteor::new(config, ModuleWeights::default(), lexicon.clone())?;
        self.replace("meteor_corrected", corrected);
        Ok(self)
    }

    /// The same registry with the metrics that a judge gives: `gpt4_score`, `gpt4_score_fastchat` and, over this encoder,
    /// `ragas_answer_correctness` by our rules and, with the version in the name, by those of ragas.
    ///
    /// # Errors
    /// None with the settings used here; the constructors' errors are passed on.
    pub fn with_judge(mut self, judging: &Arc<Judging>, encoder: Option<&Arc<dyn Embedder>>) -> Result<Self> {
        self.replace("gpt4_score", Gpt4Score::new(Arc::clone(judging))?);
        self.replace("gpt4_score_fastchat", FastChatScore::new(Arc::clone(judging))?);
        for rules in CorrectnessRules::ALL {
            let name = rules.metric();
            match encoder {
                Some(encoder) => {
                    let config = CorrectnessConfig { rules, ..CorrectnessConfig::default() };
                    let encoder = Some(Arc::clone(encoder));
                    self.replace(name, AnswerCorrectness::new(Arc::clone(judging), encoder, config)?);
                }
                None => self.replace(name, unavailable(name, NO_ENCODER)),
            }
        }
        Ok(self)
    }

    /// Adds a metric under a new name.
    ///
    /// # Errors
    /// [`Error::DuplicateMetric`] if the name is taken; to change a metric's settings use [`replace`](Self::replace).
    pub fn insert(&mut self, name: impl Into<String>, metric: impl Metric + 'static) -> Result<()> {
        let name = name.into();
        if self.metrics.contains_key(&name) {
            return Err(Error::DuplicateMetric { name });
        }
        self.metrics.insert(name, Arc::new(metric));
        Ok(())
    }

    /// Puts a metric under a name, whether it is taken or not.
    pub fn replace(&mut self, name: impl Into<String>, metric: impl Metric + 'static) {
        self.metrics.insert(name.into(), Arc::new(metric));
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.metrics.keys().map(String::as_str)
    }

    /// The metrics of a list of names separated by commas, in the order of the list. A metric whose measurements
    /// another one in the list reports as well is left out, so nothing is reported twice.
    ///
    /// # Errors
    /// [`Error::UnknownMetric`] with the names there are; [`Error::NoMetric`] for a list without names.
    pub fn resolve(&self, list: &str) -> Result<Vec<Arc<dyn Metric>>> {
        let known = || self.names().map(str::to_owned).collect();
        let mut chosen: Vec<Arc<dyn Metric>> = Vec::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match self.metrics.get(name) {
                Some(metric) => chosen.push(Arc::clone(metric)),
                None => return Err(Error::UnknownMetric { name: name.to_owned(), known: known() }),
            }
        }
        if chosen.is_empty() {
            return Err(Error::NoMetric { known: known() });
        }
        let outputs: Vec<Vec<String>> = chosen.iter().map(|metric| metric.outputs()).collect();
        let covered = |i: usize| {
            (0..outputs.len()).any(|j| {
                let larger =
                    outputs[j].len() > outputs[i].len() || (outputs[j].len() == outputs[i].len() && j < i);
                larger && outputs[i].iter().all(|output| outputs[j].contains(output))
            })
        };
        Ok((0..chosen.len()).filter(|&i| !covered(i)).map(|i| Arc::clone(&chosen[i])).collect())
    }
}

fn unavailable(metric: &str, reason: &str) -> Unavailable {
    Unavailable { metric: metric.to_owned(), reason: reason.to_owned() }
}

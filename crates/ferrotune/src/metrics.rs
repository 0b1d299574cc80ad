//! Metrics by name, with the encoders, dictionaries and judge that they need.

use std::{path::PathBuf, sync::Arc};

use ferrotune_bert::{SentenceEncoder, TokenEncoder};
use ferrotune_core::Embedder;
use ferrotune_eval::{
    Metric, OnFailure, Registry,
    meteor::{Lexicon, Paraphrases, WordNet},
};
use tch::{Device, Kind};

use crate::{Error, JudgeConfig, Judges, Result};

/// Encoders and dictionaries that metrics may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricTools {
    /// Folder of the sentence encoder for semantic similarity, RAGAS and `BERTScore`.
    pub embedder: Option<PathBuf>,
    /// The encoder's layer that `BERTScore` compares, counted from 1; the last one where absent.
    pub bert_score_layer: Option<i64>,
    /// Folder of `WordNet` for METEOR's synonyms.
    pub wordnet: Option<PathBuf>,
    /// Table of paraphrases for `meteor_corrected`, one pair of phrases with a tab between them a line.
    pub paraphrases: Option<PathBuf>,
}

/// Metrics, ready to measure.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// In the order asked for.
    pub metrics: Vec<Arc<dyn Metric>>,
    /// Who judges, and who gives vectors.
    pub judges: Judges,
}

impl Metrics {
    /// Opens what the metrics of a list, separated by commas, need, and nothing else.
    ///
    /// A metric that lacks its encoder or judge is there and says so ([`Metric::lacking`]): whether that is an error is the
    /// caller's to decide. `seed` and `on_failure` are those of judging; a local judge computes as `compute` says.
    ///
    /// # Errors
    /// An unknown metric, before anything is opened; an encoder, dictionary or judge that cannot be used;
    /// [`Error::Setting`] for a judge that no metric asks.
    pub fn open(
        names: &str,
        tools: &MetricTools,
        judge: &JudgeConfig,
        seed: u64,
        on_failure: OnFailure,
        compute: (Device, Kind),
    ) -> Result<Self> {
        let known = Registry::with_text_metrics()?;
        known.resolve(names)?;
        judge.validate()?;
        let needs = |part: &str| names.split(',').any(|name| name.trim().contains(part));
        let is_given = judge.url.is_some() || judge.local.is_some() || judge.replies.is_some();
        if is_given && !(needs("gpt4_score") || needs("ragas_answer_correctness")) {
            return Err(Error::Setting {
                setting: "judge".into(),
                found: format!("given, and none of the metrics asks it ({names})"),
                expected: "a metric such as gpt4_score or ragas_answer_correctness, or no judge".to_owned(),
            });
        }
        let mut registry = known.with_lexicon(&tools.lexicon()?)?;
        if needs("bert_score")
            && let Some(folder) = &tools.embedder
        {
            let encoder = TokenEncoder::open(folder, tools.bert_score_layer, compute.0)?;
            registry = registry.with_token_encoder(Arc::new(encoder));
        }
        let mut encoder: Option<Arc<dyn Embedder>> = None;
        if (needs("similarity") || needs("ragas"))
            && judge.embeddings_url.is_none()
            && let Some(folder) = &tools.embedder
        {
            encoder = Some(Arc::new(SentenceEncoder::open(folder, compute.0)?));
        }
        let judges = judge.open(compute, seed, on_failure)?;
        let registry = judges.register(registry, encoder)?;
        Ok(Self { metrics: registry.resolve(names)?, judges })
    }
}

impl MetricTools {
    fn lexicon(&self) -> Result<Lexicon> {
        Ok(Lexicon {
            wordnet: self.wordnet.as_deref().map(WordNet::open).transpose()?.map(Arc::new),
            paraphrases: self.paraphrases.as_deref().map(Paraphrases::open).transpose()?.map(Arc::new),
        })
    }
}

//! Who judges answers: a server, a model of this machine, or replies that were written down.
//!
//! [`JudgeConfig`] is what a user writes, in flags or in a study's file; [`Judges`] is what it opens.

mod config;
mod local;

use std::sync::Arc;

use ferrotune_core::Embedder;
use ferrotune_eval::{
    Metric, OnFailure, Pair, Registry,
    judge::{
        ChatEndpoint, EmbeddingsEndpoint, Estimate, Judge, JudgeUsage, Judging, RecordedJudge, ReplyCache,
    },
};
use tch::{Device, Kind};

use crate::Result;

pub use config::{JudgeConfig, JudgeTemperature};

/// What a [`JudgeConfig`] opens: a judge, vectors from a server, both, or neither.
#[derive(Clone, Debug, Default)]
pub struct Judges {
    /// The judge with its cache.
    pub judging: Option<Arc<Judging>>,
    /// The server whose vectors take the sentence encoder's place.
    pub embeddings: Option<Arc<EmbeddingsEndpoint>>,
    /// The judge, if it repeats recorded replies.
    recorded: Option<Arc<RecordedJudge>>,
}

impl JudgeConfig {
    /// Checks the settings, reads what they name and loads a local model; no request is made.
    ///
    /// # Errors
    /// As [`validate`](Self::validate); a key that is not in the environment; a cache, replies or a model that cannot be read.
    pub fn open(&self, (device, kind): (Device, Kind), seed: u64, on_failure: OnFailure) -> Result<Judges> {
        self.validate()?;
        let recorded = self.replies.as_deref().map(RecordedJudge::from_file).transpose()?.map(Arc::new);
        let judge = match &recorded {
            Some(recorded) => Some(Arc::clone(recorded) as Arc<dyn Judge>),
            None => self.judge(device, kind)?,
        };
        if judge.is_none() && self.embeddings_url.is_none() {
            return Ok(Judges::default());
        }
        let cache = Arc::new(match &self.cache {
            Some(path) => ReplyCache::open(path)?,
            None => ReplyCache::in_memory(),
        });
        let embeddings = self.embeddings(&cache)?.map(Arc::new);
        let judging = judge.map(|judge| Judging::new(judge, cache, self.options(seed, on_failure)));
        Ok(Judges { judging: judging.transpose()?, embeddings, recorded })
    }

    fn judge(&self, device: Device, kind: Kind) -> Result<Option<Arc<dyn Judge>>> {
        Ok(match (&self.url, &self.model, &self.local) {
            (Some(url), Some(model), ..) => {
                let judge = ChatEndpoint::new(&self.endpoint(url, model), self.key()?)?;
                Some(Arc::new(judge.with_options(self.chat_options())))
            }
            (.., Some(folder)) => Some(Arc::new(local::open(folder, device, kind)?)),
            _ => None,
        })
    }

    fn embeddings(&self, cache: &Arc<ReplyCache>) -> Result<Option<EmbeddingsEndpoint>> {
        let (Some(url), Some(model)) = (&self.embeddings_url, &self.embeddings_model) else {
            return Ok(None);
        };
        let endpoint = self.endpoint(url, model);
        let embeddings =
            EmbeddingsEndpoint::new(&endpoint, self.key()?, Arc::clone(cache), config::EMBEDDINGS_BATCH)?;
        Ok(Some(match self.embeddings_price() {
            Some(price) => embeddings.with_price(price),
            None => embeddings,
        }))
    }
}

impl Judges {
    /// A registry whose metrics can ask these: `encoder` gives vectors unless a server does.
    ///
    /// # Errors
    /// What the metrics' constructors give.
    pub fn register(&self, registry: Registry, encoder: Option<Arc<dyn Embedder>>) -> Result<Registry> {
        let server = self.embeddings.clone().map(|embeddings| embeddings as Arc<dyn Embedder>);
        let encoder = server.or(encoder);
        let registry = match &encoder {
            Some(encoder) => registry.with_encoder(Arc::clone(encoder)),
            None => registry,
        };
        Ok(match &self.judging {
            Some(judging) => registry.with_judge(judging, encoder.as_ref())?,
            None => registry,
        })
    }

    /// What judging did cost, if there is a judge.
    #[must_use]
    pub fn usage(&self) -> Option<JudgeUsage> {
        self.judging.as_ref().map(|judging| judging.usage())
    }

    /// The recorded replies that no question has asked for, each by its question and sample.
    #[must_use]
    pub fn unused_replies(&self) -> Vec<String> {
        self.recorded.as_ref().map_or_else(Vec::new, |recorded| recorded.unused())
    }

    /// Whether the judge repeats recorded replies, which are counted off.
    #[must_use]
    pub fn are_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// What vectors did cost, if a server gives them.
    #[must_use]
    pub fn embeddings_usage(&self) -> Option<JudgeUsage> {
        self.embeddings.as_ref().map(|embeddings| embeddings.usage())
    }

    /// What these metrics would ask of a judge about these pairs, found without asking.
    #[must_use]
    pub fn estimate(&self, metrics: &[Arc<dyn Metric>], pairs: &[Pair]) -> Estimate {
        let mut estimate = Estimate::default();
        metrics.iter().for_each(|metric| estimate += metric.estimate(pairs));
        estimate
    }

    /// What vectors of these pairs' texts would cost, if a server gives them.
    #[must_use]
    pub fn embeddings_estimate(&self, pairs: &[Pair]) -> Option<Estimate> {
        let texts = pairs.iter().flat_map(|pair| pair.references.iter().chain([&pair.prediction]));
        self.embeddings.as_ref().map(|embeddings| embeddings.estimate(texts.map(String::as_str)))
    }
}

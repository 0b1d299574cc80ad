//! The metrics that were asked for, with the encoders, dictionaries and judge that they need.

use std::{path::PathBuf, sync::Arc};

use ferrotune::{
    bert::{SentenceEncoder, TokenEncoder},
    core::Embedder,
    eval::{
        Metric, Registry,
        judge::{ChatEndpoint, EmbeddingsEndpoint, Judge, Judging, RecordedJudge, ReplyCache},
        meteor::{Lexicon, Paraphrases, WordNet},
    },
    tch::Device,
};

use crate::{
    cli,
    flags::{Flags, HelperFlags},
};

/// Where `cargo xtask setup` puts the sentence encoder.
const USUAL_EMBEDDER: &str = ".models/all-minilm-l6-v2";

/// Texts in one request for embeddings.
const EMBEDDINGS_BATCH: usize = 64;

/// Metrics, ready to measure.
pub(crate) struct Asked {
    pub(crate) metrics: Vec<Arc<dyn Metric>>,
    /// The judge that some of them ask.
    pub(crate) judging: Option<Arc<Judging>>,
}

/// Opens what the metrics need, and nothing else; whatever is lacking is an error.
pub(crate) fn open(flags: &Flags) -> cli::Result<Asked> {
    let known = Registry::with_text_metrics()?;
    let needs = |part: &str| flags.metrics.split(',').any(|name| name.trim().contains(part));
    // Unknown names first, before a model is loaded for the others.
    known.resolve(&flags.metrics)?;
    let (device, _) = flags.compute.resolve()?;
    let cache = Arc::new(match &flags.judge.judge_cache {
        Some(path) => ReplyCache::open(path)?,
        None => ReplyCache::in_memory(),
    });
    let helpers = &flags.helpers;
    let mut registry = known.with_lexicon(&lexicon(helpers)?)?;
    let mut encoder = None;
    if needs("similarity") || needs("ragas") {
        encoder = sentence_encoder(flags, device, &cache)?;
        if let Some(encoder) = &encoder {
            registry = registry.with_encoder(Arc::clone(encoder));
        }
    }
    if needs("bert_score")
        && let Some(folder) = embedder(helpers)
    {
        let encoder = TokenEncoder::open(&folder, helpers.bert_score_layer, device)?;
        registry = registry.with_token_encoder(Arc::new(encoder));
    }
    let judging = match judge(flags)? {
        None => None,
        Some(judge) => {
            let options = flags.judge.options(flags.compute.seed, flags.on_failure);
            let judging = Judging::new(judge, cache, options)?;
            registry = registry.with_judge(&judging, encoder.as_ref())?;
            Some(judging)
        }
    };
    let metrics = registry.resolve(&flags.metrics)?;
    for metric in &metrics {
        if let Some(reason) = metric.lacking() {
            return Err(cannot_measure(&metric.outputs().join(", "), reason).into());
        }
    }
    Ok(Asked { metrics, judging })
}

fn cannot_measure(metric: &str, reason: &str) -> String {
    let remedy = match reason {
        reason if reason.contains("encoder") => "; name its folder with --embedder",
        reason if reason.contains("judge") => "; name one with --judge-url and --judge-model",
        _ => "",
    };
    format!("`{metric}` cannot be measured: {reason}{remedy}")
}

fn lexicon(helpers: &HelperFlags) -> cli::Result<Lexicon> {
    Ok(Lexicon {
        wordnet: helpers.wordnet.as_deref().map(WordNet::open).transpose()?.map(Arc::new),
        paraphrases: helpers.paraphrases.as_deref().map(Paraphrases::open).transpose()?.map(Arc::new),
    })
}

fn embedder(helpers: &HelperFlags) -> Option<PathBuf> {
    let usual = || Some(PathBuf::from(USUAL_EMBEDDER)).filter(|folder| folder.is_dir());
    helpers.embedder.clone().or_else(usual)
}

fn sentence_encoder(
    flags: &Flags,
    device: Device,
    cache: &Arc<ReplyCache>,
) -> cli::Result<Option<Arc<dyn Embedder>>> {
    let HelperFlags { embeddings_url, embeddings_model, .. } = &flags.helpers;
    if let (Some(url), Some(model)) = (embeddings_url, embeddings_model) {
        let options = flags.judge.endpoint(url, model);
        let (key, cache) = (flags.judge.key()?, Arc::clone(cache));
        return Ok(Some(Arc::new(EmbeddingsEndpoint::new(&options, key, cache, EMBEDDINGS_BATCH)?)));
    }
    Ok(match embedder(&flags.helpers) {
        Some(folder) => Some(Arc::new(SentenceEncoder::open(&folder, device)?)),
        None => None,
    })
}

fn judge(flags: &Flags) -> cli::Result<Option<Arc<dyn Judge>>> {
    let judge = &flags.judge;
    if let Some(replies) = &judge.judge_replies {
        return Ok(Some(Arc::new(RecordedJudge::from_file(replies)?)));
    }
    let (Some(url), Some(model)) = (&judge.judge_url, &judge.judge_model) else { return Ok(None) };
    Ok(Some(Arc::new(ChatEndpoint::new(&judge.endpoint(url, model), judge.key()?)?)))
}

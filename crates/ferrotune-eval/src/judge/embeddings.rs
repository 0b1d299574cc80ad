use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, OnceLock},
};

use ferrotune_core::{BoxError, Embedder, digest};
use serde_json::{Value, json};

use super::{
    ApiKey, Clock, EndpointOptions, Estimate, JudgeError, JudgeUsage, Price, ReplyCache, http::Endpoint,
    limits::lock,
};
use crate::{Error, Result};

/// Sentence vectors from an OpenAI-compatible `/embeddings`, with the judges' client and cache.
///
/// Its dimension is that of the first vectors it saw; 0 before.
pub struct EmbeddingsEndpoint {
    endpoint: Endpoint,
    cache: Arc<ReplyCache>,
    batch: usize,
    dimension: OnceLock<usize>,
    price: Option<Price>,
    usage: Mutex<JudgeUsage>,
}

impl EmbeddingsEndpoint {
    /// An encoder at an address; vectors that the cache holds are not asked for. `batch` texts go into one request.
    ///
    /// # Errors
    /// [`Error::Setting`] for an address that is none, a batch of zero, limits of zero.
    pub fn new(
        options: &EndpointOptions,
        key: Option<ApiKey>,
        cache: Arc<ReplyCache>,
        batch: usize,
    ) -> Result<Self> {
        if batch == 0 {
            return Err(Error::Setting { option: "batch", found: "0".to_owned(), expected: "at least 1" });
        }
        let endpoint = Endpoint::new(options, "embeddings", key)?;
        Ok(Self { endpoint, cache, batch, dimension: OnceLock::new(), price: None, usage: Mutex::default() })
    }

    /// The same encoder on another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.endpoint.set_clock(clock);
        self
    }

    /// The same encoder, whose tokens cost money: the price of questions.
    #[must_use]
    pub fn with_price(mut self, price: Price) -> Self {
        self.usage = Mutex::new(JudgeUsage::at(Some(&price)));
        self.price = Some(price);
        self
    }

    /// What it did cost: `calls` are requests of up to a batch of texts, `cached` texts whose vectors were known.
    #[must_use]
    pub fn usage(&self) -> JudgeUsage {
        *lock(&self.usage)
    }

    /// What vectors of these texts would cost, found without a request: full batches at least, and at most each text alone
    /// after its batch was refused. Each text is asked once however often it occurs; `cached` are those whose vectors are
    /// known.
    #[must_use]
    pub fn estimate<'t>(&self, texts: impl IntoIterator<Item = &'t str>) -> Estimate {
        let different: HashSet<&str> = texts.into_iter().collect();
        let missing: Vec<&str> =
            different.iter().copied().filter(|text| !self.cache.contains(&self.key(text))).collect();
        let tokens: u64 = missing.iter().copied().map(approximate_tokens).sum();
        let batches = missing.len().div_ceil(self.batch) as u64;
        Estimate {
            calls: batches,
            // A batch of one is not asked in parts.
            calls_at_most: if missing.len() > 1 { batches + missing.len() as u64 } else { batches },
            cached: (different.len() - missing.len()) as u64,
            prompt_tokens: tokens,
            prompt_tokens_at_most: tokens,
            completion_tokens_at_most: 0,
            cost_at_most: self.price.map(|price| price.of(tokens, 0)),
        }
    }

    fn key(&self, text: &str) -> String {
        let subject = json!(["embedding 1", self.endpoint.shown_url(), self.endpoint.model(), text]);
        digest::of_bytes(subject.to_string().as_bytes())
    }

    fn request(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, JudgeError> {
        let body = json!({"model": self.endpoint.model(), "input": texts, "encoding_format": "float"});
        let tokens = texts.iter().copied().map(approximate_tokens).sum();
        let outcome = self.endpoint.post(&body, tokens, |reply| read_vectors(reply, texts.len()));
        let usage = &mut *lock(&self.usage);
        usage.calls += 1;
        match outcome {
            Ok(answered) => {
                let tokens = answered.tokens.unwrap_or(0);
                usage.add_wasted(answered.wasted, self.price.as_ref());
                usage.retries += u64::from(answered.retries);
                usage.uncounted += u64::from(answered.tokens.is_none());
                usage.prompt_tokens += tokens;
                if let (Some(cost), Some(price)) = (&mut usage.cost, &self.price) {
                    *cost += price.of(tokens, 0);
                }
                Ok(answered.value)
            }
            Err(error) => {
                usage.unanswered += 1;
                if let JudgeError::Unavailable { retries, wasted, .. } = &error {
                    usage.add_wasted(*wasted, self.price.as_ref());
                    usage.retries += u64::from(*retries);
                }
                Err(error)
            }
        }
    }
}

impl Embedder for EmbeddingsEndpoint {
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, BoxError> {
        let keys: Vec<String> = texts.iter().map(|text| self.key(text)).collect();
        let mut vectors: Vec<Option<Vec<f32>>> = keys.iter().map(|key| self.cache.get(key)).collect();
        lock(&self.usage).cached += vectors.iter().flatten().count() as u64;
        let missing: Vec<usize> = (0..texts.len()).filter(|&i| vectors[i].is_none()).collect();
        for batch in missing.chunks(self.batch) {
            let asked: Vec<&str> = batch.iter().map(|&i| texts[i]).collect();
            let found = self.request(&asked)?;
            self.cache.put_all(batch.iter().map(|&i| keys[i].as_str()).zip(&found))?;
            for (&i, vector) in batch.iter().zip(found) {
                vectors[i] = Some(vector);
            }
        }
        let vectors: Vec<Vec<f32>> = vectors.into_iter().flatten().collect();
        if let Some(first) = vectors.first() {
            self.dimension.get_or_init(|| first.len());
        }
        Ok(vectors)
    }

    fn dimension(&self) -> usize {
        self.dimension.get().copied().unwrap_or(0)
    }

    fn name(&self) -> String {
        format!("{} at {}", self.endpoint.model(), self.endpoint.shown_url())
    }
}

impl fmt::Debug for EmbeddingsEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddingsEndpoint")
            .field("endpoint", &self.endpoint)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

/// A quarter of its bytes, as for questions to judges.
fn approximate_tokens(text: &str) -> u64 {
    text.len().div_ceil(4) as u64
}

/// `{"data": [{"index": 0, "embedding": […]}, …]}`, put in order by index: servers may answer out of order.
fn read_vectors(reply: &Value, expected: usize) -> Result<(Vec<Vec<f32>>, Option<u64>), String> {
    let wrong = |problem: &str| format!("the reply is no list of {expected} embeddings: {problem}");
    let data = reply["data"].as_array().ok_or_else(|| wrong("`data` is missing"))?;
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; expected];
    for (place, entry) in data.iter().enumerate() {
        let index = entry["index"].as_u64().map_or(place, |index| index as usize);
        let slot = vectors.get_mut(index).ok_or_else(|| wrong("an index is out of range"))?;
        let numbers = entry["embedding"].as_array().ok_or_else(|| wrong("`embedding` is missing"))?;
        let vector: Option<Vec<f32>> = numbers.iter().map(|x| x.as_f64().map(|x| x as f32)).collect();
        let vector =
            vector.filter(|v| !v.is_empty()).ok_or_else(|| wrong("an embedding is no list of numbers"))?;
        if slot.replace(vector).is_some() {
            return Err(wrong("an index occurs twice"));
        }
    }
    let vectors: Vec<Vec<f32>> =
        vectors.into_iter().collect::<Option<_>>().ok_or_else(|| wrong("some are missing"))?;
    if vectors.windows(2).any(|pair| pair[0].len() != pair[1].len()) {
        return Err(wrong("their lengths differ"));
    }
    Ok((vectors, reply["usage"]["total_tokens"].as_u64()))
}

use std::{fmt, sync::Mutex};

use ferrotune_core::{BoxError, GenerationLimits, LanguageModel, StopReason};
use serde_json::{Map, Value};

use super::{
    FinishReason, Judge, JudgeError, JudgeIdentity, JudgeReply, JudgeRequest, TokenUsage, limits::lock,
};

type Template = dyn Fn(&JudgeRequest) -> Result<String, BoxError> + Send + Sync;

/// A judge in this process: any language model behind the port of `ferrotune-core`, asked one question at a time.
pub struct LocalJudge<M> {
    name: String,
    model: Mutex<M>,
    template: Box<Template>,
    stop: Vec<String>,
    params: Map<String, Value>,
}

impl<M: LanguageModel + Send> LocalJudge<M> {
    /// `model` judges under `name`, which should hold a hash of its weights: caches tell judges apart by it.
    ///
    /// `template` writes the system message and the conversation as the model was trained to read them, without BOS.
    pub fn new(
        name: impl Into<String>,
        model: M,
        template: impl Fn(&JudgeRequest) -> Result<String, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            model: Mutex::new(model),
            template: Box::new(template),
            stop: Vec::new(),
            params: Map::new(),
        }
    }

    /// The same judge, of which records say this too and by which caches tell it apart, such as the template's digest.
    #[must_use]
    pub fn with_param(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.params.insert(name.to_owned(), value.into());
        self
    }

    /// The same judge, whose reply ends before the first of these texts.
    #[must_use]
    pub fn with_stop(mut self, stop: Vec<String>) -> Self {
        self.stop = stop;
        self
    }
}

impl<M: LanguageModel + Send> Judge for LocalJudge<M> {
    fn identity(&self) -> JudgeIdentity {
        JudgeIdentity { name: self.name.clone(), params: self.params.clone() }
    }

    fn ask(&self, request: &JudgeRequest) -> Result<JudgeReply, JudgeError> {
        let unavailable =
            |detail: String| JudgeError::Unavailable { detail, retries: 0, wasted: TokenUsage::default() };
        let prompt = (self.template)(request).map_err(|error| JudgeError::Refused {
            detail: format!("the template of judge `{}` failed: {error}", self.name),
        })?;
        let limits = GenerationLimits {
            max_new_tokens: request.max_tokens as usize,
            stop: self.stop.clone(),
            temperature: request.temperature.unwrap_or(0.0),
            top_p: 1.0,
            seed: request.seed.unwrap_or(0),
        };
        let mut replies = lock(&self.model)
            .generate(&[prompt], &limits)
            .map_err(|error| unavailable(format!("the model failed: {error}")))?;
        let Some(generation) = replies.pop() else {
            return Err(unavailable("the model gave no answer".to_owned()));
        };
        if generation.dropped > 0 {
            return Err(unavailable(format!(
                "the model could not read {} tokens of the question; its context is too short",
                generation.dropped
            )));
        }
        Ok(JudgeReply {
            text: generation.text,
            usage: TokenUsage { prompt_tokens: None, completion_tokens: Some(generation.tokens as u64) },
            finish: match generation.stop {
                StopReason::EndOfSequence | StopReason::StopText => FinishReason::Stop,
                StopReason::Length => FinishReason::Length,
            },
            model: self.name.clone(),
            ..JudgeReply::default()
        })
    }
}

impl<M> fmt::Debug for LocalJudge<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalJudge").field("name", &self.name).finish_non_exhaustive()
    }
}

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    ApiKey, Clock, EndpointOptions, FinishReason, Judge, JudgeError, JudgeIdentity, JudgeReply, JudgeRequest,
    ReplyFormat, TokenUsage, http::Endpoint,
};
use crate::Result;

/// Whether a server is asked for JSON by the `response_format` field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonMode {
    /// Requests that want a JSON object say so.
    #[default]
    Ask,
    /// The prompt alone asks for it, for servers that refuse the field.
    Leave,
}

/// The field that bounds a reply's length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLimitField {
    /// `max_tokens`, which every server knows.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`, which reasoning models of OpenAI require.
    MaxCompletionTokens,
}

/// Differences among servers that call themselves compatible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChatOptions {
    /// How JSON is asked for.
    pub json_mode: JsonMode,
    /// How the reply's length is bounded.
    pub token_limit_field: TokenLimitField,
}

/// A judge behind an OpenAI-compatible `/chat/completions`.
///
/// HTTP 401, 402, 403, 404 and an exhausted quota end the run at once. Busy servers (408, 409, 425, 429, 5xx), broken and
/// stalled connections and replies that are no chat completion are asked again, within bounds; other refusals (400, 413,
/// 422) concern one question only and are not repeated.
///
/// ```no_run
/// use ferrotune_eval::judge::{ApiKey, ChatEndpoint, EndpointOptions};
/// let options = EndpointOptions::new("https://api.openai.com/v1", "gpt-4-0613");
/// let judge = ChatEndpoint::new(&options, Some(ApiKey::from_environment("OPENAI_API_KEY")?))?;
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
pub struct ChatEndpoint {
    endpoint: Endpoint,
    options: ChatOptions,
}

impl ChatEndpoint {
    /// A judge at an address; no request is made yet.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for an address that is none or holds a password, and for limits of zero.
    pub fn new(options: &EndpointOptions, key: Option<ApiKey>) -> Result<Self> {
        let endpoint = Endpoint::new(options, "chat/completions", key)?;
        Ok(Self { endpoint, options: ChatOptions::default() })
    }

    /// The same judge, asked in a server's dialect.
    #[must_use]
    pub fn with_options(mut self, options: ChatOptions) -> Self {
        self.options = options;
        self
    }

    /// The same judge on another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.endpoint.set_clock(clock);
        self
    }

    fn body(&self, request: &JudgeRequest) -> Value {
        let system =
            (!request.system.is_empty()).then(|| json!({"role": "system", "content": request.system}));
        let turns = request.messages.iter().map(|message| json!(message));
        let mut body = Map::new();
        body.insert("model".to_owned(), json!(self.endpoint.model()));
        body.insert("messages".to_owned(), system.into_iter().chain(turns).collect());
        let limit = match self.options.token_limit_field {
            TokenLimitField::MaxTokens => "max_tokens",
            TokenLimitField::MaxCompletionTokens => "max_completion_tokens",
        };
        body.insert(limit.to_owned(), json!(request.max_tokens));
        if let Some(temperature) = request.temperature {
            body.insert("temperature".to_owned(), json!(temperature));
        }
        if let Some(seed) = request.seed {
            body.insert("seed".to_owned(), json!(seed));
        }
        if request.format == ReplyFormat::JsonObject && self.options.json_mode == JsonMode::Ask {
            body.insert("response_format".to_owned(), json!({"type": "json_object"}));
        }
        Value::Object(body)
    }
}

impl Judge for ChatEndpoint {
    fn identity(&self) -> JudgeIdentity {
        let mut params = Map::new();
        params.insert("endpoint".to_owned(), json!(self.endpoint.shown_url()));
        if self.options.json_mode == JsonMode::Leave {
            params.insert("json_mode".to_owned(), json!("leave"));
        }
        if self.options.token_limit_field == TokenLimitField::MaxCompletionTokens {
            // It bounds what a model thinks as well, so the same number leaves less for the reply.
            params.insert("token_limit_field".to_owned(), json!(self.options.token_limit_field));
        }
        JudgeIdentity { name: self.endpoint.model().to_owned(), params }
    }

    fn ask(&self, request: &JudgeRequest) -> Result<JudgeReply, JudgeError> {
        let tokens = request.approximate_tokens() + u64::from(request.max_tokens);
        let answered = self.endpoint.post(&self.body(request), tokens, read_completion)?;
        Ok(JudgeReply {
            retries: answered.retries,
            wasted: answered.wasted,
            latency_ms: answered.latency.as_secs_f64() * 1e3,
            ..answered.value
        })
    }

    fn concurrency(&self) -> usize {
        self.endpoint.concurrency()
    }
}

impl fmt::Debug for ChatEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatEndpoint")
            .field("endpoint", &self.endpoint)
            .field("options", &self.options)
            .finish()
    }
}

/// The first choice of a chat completion.
fn read_completion(body: &Value) -> Result<(JudgeReply, Option<u64>), String> {
    let choice = &body["choices"][0];
    let message = &choice["message"];
    // A model that declines says so beside a null content.
    let Some(text) = message["content"].as_str().or_else(|| message["refusal"].as_str()) else {
        return Err("the reply is no chat completion with a text".to_owned());
    };
    let usage = TokenUsage {
        prompt_tokens: body["usage"]["prompt_tokens"].as_u64(),
        completion_tokens: body["usage"]["completion_tokens"].as_u64(),
    };
    let finish = match choice["finish_reason"].as_str() {
        Some("stop") => FinishReason::Stop,
        Some("length") => FinishReason::Length,
        Some("content_filter") => FinishReason::ContentFilter,
        _ => FinishReason::Unknown,
    };
    let reply = JudgeReply {
        text: text.to_owned(),
        usage,
        finish,
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        created: body["created"].as_u64(),
        ..JudgeReply::default()
    };
    let cost =
        usage.prompt_tokens.zip(usage.completion_tokens).map(|(prompt, completion)| prompt + completion);
    Ok((reply, cost))
}

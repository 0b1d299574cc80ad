//! Judges: language models that are asked about an answer, and everything between a question and its reply.
//!
//! ```text
//! metric ──ask──► Judging ──► ReplyCache ──miss──► Judge: ChatEndpoint | LocalJudge | RecordedJudge
//!                 (ids, usage, policy)                     (HTTP, limits, retries)
//! ```
//!
//! - [`Judge`]: the port. [`ChatEndpoint`] asks any OpenAI-compatible server, [`LocalJudge`] a model of this process,
//!   [`RecordedJudge`] a file of replies.
//! - [`ReplyCache`]: what was answered before, in an append-only file: an interrupted run resumes without asking twice.
//! - [`Judging`]: a judge, a cache and a policy, which judged metrics share; it counts calls, tokens and money
//!   ([`JudgeUsage`]).
//! - [`EmbeddingsEndpoint`]: sentence vectors from a server, with the same client and the same cache.
//!
//! Time comes through [`Clock`], so that waiting can be tested without waiting.

mod cache;
mod chat;
mod clock;
mod embeddings;
mod http;
mod interview;
mod judging;
mod limits;
mod local;
mod plan;
mod recorded;
mod retry;
mod usage;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use cache::{ReplyCache, TornLine};
pub use chat::{ChatEndpoint, ChatOptions, JsonMode, TokenLimitField};
pub use clock::{Clock, SystemClock};
pub use embeddings::EmbeddingsEndpoint;
pub use http::{ApiKey, EndpointOptions};
pub(crate) use interview::{Conversation, Interview, Question, Stop, judge_reply};
pub(crate) use judging::Verdict;
pub use judging::{Judging, JudgingOptions};
pub use limits::Limits;
pub use local::LocalJudge;
pub(crate) use plan::{Plan, Planned};
pub use recorded::{RecordedJudge, RecordedReply};
pub use retry::RetryPolicy;
pub use usage::{Estimate, JudgeUsage, Price};

/// Answers questions about answers; implementors provide [`identity`](Self::identity) and [`ask`](Self::ask).
///
/// A reply is what the judge wrote, word for word: whether it can be understood is the metric's concern.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Who answers. Replies of judges with different identities are never mixed up by a cache.
    fn identity(&self) -> JudgeIdentity;

    /// Asks once, with whatever retries the transport needs.
    ///
    /// # Errors
    /// [`JudgeError::Refused`] if no further question makes sense, [`JudgeError::Unavailable`] if this one has no reply.
    fn ask(&self, request: &JudgeRequest) -> Result<JudgeReply, JudgeError>;

    /// How many questions may be under way at the same time, at least 1.
    fn concurrency(&self) -> usize {
        1
    }
}

/// What a judge is called in records, and what tells its replies from others'.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JudgeIdentity {
    /// The model's name.
    pub name: String,
    /// Everything else that changes replies, such as the server's address; never a key.
    pub params: Map<String, Value>,
}

/// Who speaks in a conversation with a judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// We do.
    User,
    /// The judge did, earlier.
    Assistant,
}

/// One turn of a conversation with a judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// What form of reply the prompt asks for; a wish that servers may not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyFormat {
    /// Anything.
    #[default]
    Text,
    /// One JSON object.
    JsonObject,
}

/// A question to a judge.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JudgeRequest {
    /// The sample it is about; for bookkeeping, the judge does not see it.
    pub sample: String,
    /// Which of a metric's questions it is, such as `gpt4_score`; for bookkeeping.
    pub purpose: String,
    /// The system message; empty for none.
    pub system: String,
    /// The conversation, ending with our turn.
    pub messages: Vec<Message>,
    /// 0 is greedy; `None` leaves it to the judge, for models that accept no temperature.
    pub temperature: Option<f64>,
    /// The longest reply, in tokens.
    pub max_tokens: u32,
    /// Seeds the judge's sampling where it can be seeded.
    pub seed: Option<u64>,
    /// The form of the reply.
    pub format: ReplyFormat,
}

impl JudgeRequest {
    /// Roughly how many tokens the question has: a quarter of its bytes. Limits and estimates use it; what a judge counted
    /// replaces it.
    #[must_use]
    pub fn approximate_tokens(&self) -> u64 {
        let bytes = self.system.len() + self.messages.iter().map(|m| m.content.len()).sum::<usize>();
        bytes.div_ceil(4) as u64
    }
}

/// Why a judge stopped writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It was done.
    Stop,
    /// The longest allowed reply was reached; the text is cut.
    Length,
    /// The server withheld the text.
    ContentFilter,
    /// Something else, or nothing was said about it.
    #[default]
    Unknown,
}

/// Tokens that one reply cost, as the judge counted them; `None` where it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens of the question.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the reply.
    pub completion_tokens: Option<u64>,
}

impl TokenUsage {
    /// Adds what is known of another reply.
    pub(crate) fn add(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.prompt_tokens, other.prompt_tokens),
            (&mut self.completion_tokens, other.completion_tokens),
        ] {
            *sum = sum.zip(more).map(|(sum, more)| sum + more).or(*sum).or(more);
        }
    }
}

/// What a judge wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgeReply {
    /// The text, word for word.
    pub text: String,
    /// What it cost.
    #[serde(default)]
    pub usage: TokenUsage,
    /// Why it ends.
    #[serde(default)]
    pub finish: FinishReason,
    /// The model's name as the judge gave it; empty if it gave none.
    #[serde(default)]
    pub model: String,
    /// When it was written, in seconds since 1970, if the judge said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// How often the question had to be put again.
    #[serde(default)]
    pub retries: u32,
    /// Tokens of earlier replies to it that were counted by the server and held nothing to be read.
    #[serde(default)]
    pub wasted: TokenUsage,
    /// Milliseconds from the question to the reply, retries included.
    #[serde(default)]
    pub latency_ms: f64,
}

impl JudgeReply {
    /// A complete reply of which only the text is known.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), finish: FinishReason::Stop, ..Self::default() }
    }
}

/// Why a question has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// No question will be answered: a wrong key, an unknown model, an exhausted quota. The run stops.
    #[error("{detail}")]
    Refused {
        /// What the judge said and what to do.
        detail: String,
    },
    /// This question was not answered, for all retries. It is a failure of its sample.
    #[error("{detail}")]
    Unavailable {
        /// What happened last.
        detail: String,
        /// How often the question was put again.
        retries: u32,
        /// Tokens of replies that were counted by the server and held nothing to be read.
        wasted: TokenUsage,
    },
}

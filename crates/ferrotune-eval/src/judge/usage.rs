//! What judging costs: counted, and estimated beforehand.

use std::{fmt, ops::AddAssign};

use serde::{Deserialize, Serialize};

use super::{JudgeError, JudgeReply, TokenUsage};

/// What a judge asks for its work; the currency is the user's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// For a million tokens of questions.
    pub prompt_per_million: f64,
    /// For a million tokens of replies.
    pub completion_per_million: f64,
}

impl Price {
    /// The price of this many tokens.
    #[must_use]
    pub fn of(&self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        (prompt_tokens as f64 * self.prompt_per_million
            + completion_tokens as f64 * self.completion_per_million)
            / 1e6
    }
}

/// What judging did cost in one run. Replies from a cache are counted and cost nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgeUsage {
    /// Questions put to the judge, each once however often it was repeated.
    pub calls: u64,
    /// Questions that a cache answered.
    pub cached: u64,
    /// Times that a question was put again after a fault of the server or the line.
    pub retries: u64,
    /// Questions that stayed without a reply.
    pub unanswered: u64,
    /// Replies that could not be used, those of a cache among them.
    #[serde(default)]
    pub unusable: u64,
    /// Tokens of the questions, as the judge counted them.
    pub prompt_tokens: u64,
    /// Tokens of the replies, as the judge counted them.
    pub completion_tokens: u64,
    /// Replies whose tokens the judge did not count: if there are any, tokens and cost are lower bounds.
    pub uncounted: u64,
    /// The price of the tokens; `None` without a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
}

impl JudgeUsage {
    /// An empty account, at this price.
    pub(super) fn at(price: Option<&Price>) -> Self {
        Self { cost: price.map(|_| 0.0), ..Self::default() }
    }

    pub(super) fn add_call(&mut self, outcome: &Result<JudgeReply, JudgeError>, price: Option<&Price>) {
        self.calls += 1;
        match outcome {
            Ok(reply) => {
                self.retries += u64::from(reply.retries);
                let (prompt, completion) = (reply.usage.prompt_tokens, reply.usage.completion_tokens);
                self.uncounted += u64::from(prompt.is_none() || completion.is_none());
                self.prompt_tokens += prompt.unwrap_or(0);
                self.completion_tokens += completion.unwrap_or(0);
                if let (Some(cost), Some(price)) = (&mut self.cost, price) {
                    *cost += price.of(prompt.unwrap_or(0), completion.unwrap_or(0));
                }
                self.add_wasted(reply.wasted, price);
            }
            Err(error) => {
                self.unanswered += 1;
                if let JudgeError::Unavailable { retries, wasted, .. } = error {
                    self.retries += u64::from(*retries);
                    self.add_wasted(*wasted, price);
                }
            }
        }
    }

    /// Adds what replies did cost that held nothing to be read.
    pub(super) fn add_wasted(&mut self, wasted: TokenUsage, price: Option<&Price>) {
        let (prompt, completion) = (wasted.prompt_tokens.unwrap_or(0), wasted.completion_tokens.unwrap_or(0));
        self.prompt_tokens += prompt;
        self.completion_tokens += completion;
        if let (Some(cost), Some(price)) = (&mut self.cost, price) {
            *cost += price.of(prompt, completion);
        }
    }
}

impl AddAssign for JudgeUsage {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.cached += other.cached;
        self.retries += other.retries;
        self.unanswered += other.unanswered;
        self.unusable += other.unusable;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.uncounted += other.uncounted;
        self.cost = sum(self.cost, other.cost);
    }
}

fn sum(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.zip(b).map(|(a, b)| a + b).or(a).or(b)
}

/// What judging would cost, found without a single request.
///
/// `calls` are the questions if each reply can be used; the most is what is asked if every question has to be put as often
/// as it may. Fewer are asked where a question comes up again, in several metrics or about several systems (it is counted each
/// time, and the cache answers it), where a judge finds no statement in a text, and where a failure ends the run.
///
/// Questions that depend on earlier replies are taken to be as long as the texts they are made of. Tokens of questions are
/// a quarter of their bytes; replies are bounded by the longest allowed one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Questions to the judge if every reply can be used, each counted as often as it comes up.
    pub calls: u64,
    /// Questions to the judge, at most.
    #[serde(default)]
    pub calls_at_most: u64,
    /// Questions that the cache answers already.
    pub cached: u64,
    /// Tokens of these questions, approximately.
    pub prompt_tokens: u64,
    /// Tokens of the questions, approximately, at most.
    #[serde(default)]
    pub prompt_tokens_at_most: u64,
    /// Tokens of the replies, at most.
    pub completion_tokens_at_most: u64,
    /// Price, at most; `None` without a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_at_most: Option<f64>,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, calls_at_most, cached, prompt_tokens, prompt_tokens_at_most, .. } = self;
        write!(
            f,
            "{calls} questions if every reply can be used (fewer where one comes up again) and {calls_at_most} at most, of about {prompt_tokens} to \
             {prompt_tokens_at_most} tokens together, replies of at most {}",
            self.completion_tokens_at_most
        )?;
        match self.cost_at_most {
            Some(cost) => write!(f, ", {cost:.2} at most in the currency of the prices")?,
            None => f.write_str(", no price is given")?,
        }
        write!(f, "; {cached} are known already")
    }
}

impl fmt::Display for JudgeUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, cached, retries, unanswered, unusable, prompt_tokens, completion_tokens, .. } =
            self;
        let least = if self.uncounted > 0 { "at least " } else { "" };
        write!(
            f,
            "{calls} questions asked ({retries} repeated after faults, {unanswered} without a reply), {cached} known from the \
             cache; {unusable} replies could not be used; {least}{prompt_tokens} tokens read and {completion_tokens} written"
        )?;
        self.cost.map_or(Ok(()), |cost| write!(f, ", {least}{cost:.4} in the currency of the prices"))
    }
}

impl AddAssign for Estimate {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.calls_at_most += other.calls_at_most;
        self.cached += other.cached;
        self.prompt_tokens += other.prompt_tokens;
        self.prompt_tokens_at_most += other.prompt_tokens_at_most;
        self.completion_tokens_at_most += other.completion_tokens_at_most;
        self.cost_at_most = sum(self.cost_at_most, other.cost_at_most);
    }
}

//! One conversation with a judge: questions, replies from it or from the cache, and what they add up to.

use std::{cell::RefCell, collections::BTreeSet};

use super::{
    FinishReason, JudgeError, JudgeReply, JudgeUsage, Judging, Message, ReplyFormat, Role, limits::lock,
};
use crate::{Error, Failure, FailureKind, judged::reply::quoted};

/// One question of a metric.
pub(crate) struct Question {
    pub(crate) purpose: &'static str,
    pub(crate) system: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) format: ReplyFormat,
}

impl Question {
    pub(crate) fn new(purpose: &'static str, system: &str, prompt: String, format: ReplyFormat) -> Self {
        let messages = vec![Message { role: Role::User, content: prompt }];
        Self { purpose, system: system.to_owned(), messages, format }
    }

    /// The same conversation, continued by the judge's reply and an answer to it.
    pub(crate) fn continued(&self, reply: &str, answer: String) -> Self {
        let mut messages = self.messages.clone();
        messages.push(Message { role: Role::Assistant, content: reply.to_owned() });
        messages.push(Message { role: Role::User, content: answer });
        Self { purpose: self.purpose, system: self.system.clone(), messages, format: self.format }
    }
}

/// Why a sample's judgment ends without a score.
pub(crate) enum Stop {
    /// The sample has failed.
    Failure(Failure),
    /// The whole run has.
    Error(Error),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// The conversation about one sample.
pub(crate) struct Interview<'j> {
    pub(super) judging: &'j Judging,
    pub(super) sample: &'j str,
    pub(super) repeat: u32,
    pub(super) log: &'j RefCell<Log>,
}

/// What was said about a sample and what it cost.
#[derive(Default)]
pub(super) struct Log {
    /// Each with the name of the question.
    pub(super) replies: Vec<(&'static str, String)>,
    pub(super) asked: u32,
    pub(super) latency_ms: f64,
    pub(super) usage: JudgeUsage,
    /// Names that the judge gave itself.
    pub(super) models: BTreeSet<String>,
    /// When replies were written, in seconds since 1970.
    pub(super) created: BTreeSet<u64>,
}

impl Interview<'_> {
    /// Asks a question, or finds the reply to it in the cache.
    pub(crate) fn ask(&self, question: &Question) -> Result<JudgeReply, Stop> {
        let judging = self.judging;
        let (request, key) = judging.request(self.sample, self.repeat, question);
        let mut log = self.log.borrow_mut();
        let reply = if let Some(reply) = judging.cache.get::<JudgeReply>(&key) {
            log.usage.cached += 1;
            lock(&judging.usage).cached += 1;
            reply
        } else {
            let outcome = judging.judge.ask(&request);
            let price = judging.options.price.as_ref();
            log.usage.add_call(&outcome, price);
            if let Err(JudgeError::Unavailable { retries, .. }) = &outcome {
                log.asked += 1 + retries;
            }
            lock(&judging.usage).add_call(&outcome, price);
            let reply = outcome.map_err(|error| match error {
                JudgeError::Refused { detail } => {
                    Stop::Error(Error::JudgeRefused { judge: judging.judge.identity().name, detail })
                }
                JudgeError::Unavailable { detail, .. } => {
                    Stop::Failure(Failure { kind: FailureKind::JudgeUnavailable, detail })
                }
            })?;
            judging.cache.put_all([(key.as_str(), &reply)])?;
            reply
        };
        log.asked += 1 + reply.retries;
        log.latency_ms += reply.latency_ms;
        log.replies.push((question.purpose, reply.text.clone()));
        if !reply.model.is_empty() {
            log.models.insert(reply.model.clone());
        }
        log.created.extend(reply.created);
        Ok(reply)
    }

    /// Asks until `read` understands a reply, at most once more than [`JudgingOptions::reasks`](super::JudgingOptions::reasks). What `read` says of a reply
    /// that it does not understand is told to the judge, so it must not quote it.
    ///
    /// A reply that was cut off or withheld is never read: what is left of it may look complete.
    pub(crate) fn ask_for<T>(
        &self,
        question: &Question,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Stop> {
        let read_whole = |reply: &JudgeReply| match reply.finish {
            FinishReason::Length => {
                Err(format!("the reply was cut off at {} tokens", self.judging.options.max_tokens))
            }
            FinishReason::ContentFilter => Err("the server withheld the reply".to_owned()),
            FinishReason::Stop | FinishReason::Unknown => read(&reply.text),
        };
        let mut reply = self.ask(question)?;
        let mut found = read_whole(&reply);
        for _ in 0..self.judging.options.reasks {
            let Err(problem) = &found else { break };
            let answer = format!(
                "That reply cannot be used: {problem}. Reply again, with exactly the JSON that was asked for and \
                 nothing else."
            );
            reply = self.ask(&question.continued(&reply.text, answer))?;
            found = read_whole(&reply);
        }
        found.map_err(|problem| judge_reply(format!("{problem}: {}", quoted(&reply.text))).into())
    }
}

/// The failure of a sample whose judge cannot be understood.
pub(crate) fn judge_reply(detail: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::JudgeReply, detail: detail.into() }
}

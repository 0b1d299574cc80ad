//! One conversation with a judge: questions, replies from it or from the cache, and what they add up to.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

use super::{
    FinishReason, JudgeError, JudgeReply, JudgeUsage, Judging, Message, ReplyFormat, Role, limits::lock,
};
use crate::{Error, Failure, FailureKind, judged::reply::quoted};

/// One question of a metric.
#[derive(Clone)]
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
    /// The judge answers no further question; what it said and what to do.
    Refused(String),
    /// The whole run has failed.
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

/// Where replies come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The cache, and the judge for what is not there.
    Judge,
    /// The cache alone: what would be asked is noted and ends the interview.
    Cache,
}

/// All conversations about one sample.
pub(crate) struct Interview<'j> {
    pub(super) judging: &'j Judging,
    pub(super) sample: &'j str,
    pub(super) repeat: u32,
    pub(super) source: Source,
    pub(super) log: &'j RefCell<Log>,
}

/// A question with what is said about its replies until one can be used.
pub(crate) struct Conversation<'i> {
    interview: &'i Interview<'i>,
    /// How often the whole conversation was had before, without a reply that could be used.
    attempt: u32,
    /// Replies so far.
    depth: Cell<u32>,
    /// Whether one of them came from the judge just now.
    is_new: Cell<bool>,
}

/// A question that was not asked, since replies come from the cache alone.
pub(super) struct Unasked {
    /// Its length, approximately.
    pub(super) tokens: u64,
    /// How many replies its conversation has before it.
    pub(super) depth: u32,
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
    /// What would have been asked, if replies come from the cache alone.
    pub(super) unasked: Option<Unasked>,
}

impl Interview<'_> {
    /// Has the conversation that `first` begins, which `talk` leads to something that can be used, or says that there is nothing.
    ///
    /// Replies are kept whether they can be used or not, so that the same run gives the same result. A conversation of
    /// which the cache had every reply, and none to be used, is had once more where
    /// [`JudgingOptions::retry_unusable`](super::JudgingOptions::retry_unusable) says so; the one that was had last is the one that counts from
    /// then on.
    pub(crate) fn converse<T, U>(
        &self,
        first: &Question,
        talk: impl Fn(&Conversation<'_>) -> Result<Result<T, U>, Stop>,
    ) -> Result<Result<T, U>, Stop> {
        let mut attempt = 0;
        loop {
            let conversation =
                Conversation { interview: self, attempt, depth: Cell::new(0), is_new: Cell::new(false) };
            let found = talk(&conversation)?;
            attempt += 1;
            let was_had = || {
                let (_, key) = self.judging.request(self.sample, self.repeat, attempt, first);
                self.judging.cache.contains(&key)
            };
            let goes_on = || self.judging.options.retry_unusable || was_had();
            if found.is_ok() || conversation.is_new.get() || !goes_on() {
                return Ok(found);
            }
        }
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
        let found = self.converse(question, |conversation| {
            let mut question = question.clone();
            let mut reasks = self.judging.options.reasks;
            loop {
                let reply = conversation.ask(&question)?;
                let problem = match read_whole(&reply) {
                    Ok(found) => return Ok(Ok(found)),
                    Err(problem) => problem,
                };
                conversation.count_unusable();
                if reasks == 0 {
                    return Ok(Err(format!("{problem}: {}", quoted(&reply.text))));
                }
                reasks -= 1;
                let answer = format!(
                    "That reply cannot be used: {problem}. Reply again, with exactly the JSON that was asked for and \
                     nothing else."
                );
                question = question.continued(&reply.text, answer);
            }
        })?;
        found.map_err(|problem| judge_reply(problem).into())
    }
}

impl Conversation<'_> {
    /// Asks a question, or finds the reply to it in the cache.
    pub(crate) fn ask(&self, question: &Question) -> Result<JudgeReply, Stop> {
        let &Interview { judging, sample, repeat, source, log } = self.interview;
        let (request, key) = judging.request(sample, repeat, self.attempt, question);
        let mut log = log.borrow_mut();
        let cached = judging.cache.get::<JudgeReply>(&key);
        let reply = match (cached, source) {
            (Some(reply), _) => {
                log.usage.cached += 1;
                if source == Source::Judge {
                    lock(&judging.usage).cached += 1;
                }
                reply
            }
            (None, Source::Cache) => {
                log.unasked = Some(Unasked { tokens: request.approximate_tokens(), depth: self.depth.get() });
                let detail = "the cache has no reply".to_owned();
                return Err(Failure { kind: FailureKind::NotMeasured, detail }.into());
            }
            (None, Source::Judge) => {
                let outcome = judging.judge.ask(&request);
                let price = judging.options.price.as_ref();
                log.usage.add_call(&outcome, price);
                if let Err(JudgeError::Unavailable { retries, .. }) = &outcome {
                    log.asked += 1 + retries;
                }
                lock(&judging.usage).add_call(&outcome, price);
                let reply = outcome.map_err(|error| match error {
                    JudgeError::Refused { detail } => Stop::Refused(detail),
                    JudgeError::Unavailable { detail, .. } => {
                        Stop::Failure(Failure { kind: FailureKind::JudgeUnavailable, detail })
                    }
                })?;
                judging.cache.put_all([(key.as_str(), &reply)])?;
                self.is_new.set(true);
                reply
            }
        };
        self.depth.set(self.depth.get() + 1);
        log.asked += 1 + reply.retries;
        log.latency_ms += reply.latency_ms;
        log.replies.push((question.purpose, reply.text.clone()));
        if !reply.model.is_empty() {
            log.models.insert(reply.model.clone());
        }
        log.created.extend(reply.created);
        Ok(reply)
    }

    /// Counts the last reply as one that cannot be used.
    pub(crate) fn count_unusable(&self) {
        let Interview { judging, source, log, .. } = self.interview;
        log.borrow_mut().usage.unusable += 1;
        if *source == Source::Judge {
            lock(&judging.usage).unusable += 1;
        }
    }
}

/// The failure of a sample whose judge cannot be understood.
pub(crate) fn judge_reply(detail: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::JudgeReply, detail: detail.into() }
}

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::Mutex,
};

use ferrotune_core::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::{
    FinishReason, Judge, JudgeError, JudgeIdentity, JudgeReply, JudgeRequest, TokenUsage, limits::lock,
};
use crate::{
    Error, LineProblem, Result,
    lines::{for_each_line, parse_json},
};

/// One line of a file of replies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedReply {
    /// The sample it is about.
    pub sample: String,
    /// Which question it answers, see [`JudgeRequest::purpose`].
    pub purpose: String,
    /// What the judge wrote.
    pub text: String,
    /// What it cost, if that is known.
    #[serde(default)]
    pub usage: TokenUsage,
    /// Why it ends.
    #[serde(default = "complete")]
    pub finish: FinishReason,
}

fn complete() -> FinishReason {
    FinishReason::Stop
}

/// A judge that repeats replies which were written down: by another program, by a person, or by a test.
///
/// Replies to the same question about the same sample are given in the order of the file, each once.
#[derive(Debug)]
pub struct RecordedJudge {
    name: String,
    sha256: String,
    replies: Mutex<HashMap<(String, String), VecDeque<RecordedReply>>>,
}

impl RecordedJudge {
    /// A judge of this name with these replies.
    pub fn new(name: impl Into<String>, replies: impl IntoIterator<Item = RecordedReply>) -> Self {
        let mut by_question: HashMap<(String, String), VecDeque<RecordedReply>> = HashMap::new();
        let mut text = String::new();
        for reply in replies {
            text.push_str(&json!(reply).to_string());
            by_question.entry((reply.sample.clone(), reply.purpose.clone())).or_default().push_back(reply);
        }
        let sha256 = digest::of_bytes(text.as_bytes());
        Self { name: name.into(), sha256, replies: Mutex::new(by_question) }
    }

    /// The replies in a file of JSON lines, each a [`RecordedReply`]; the judge is called after the file.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::NoRecords`], and [`Error::Line`] for a line that is no reply.
    pub fn from_file(path: &Path) -> Result<Self> {
        let mut replies = Vec::new();
        for_each_line(path, |line, text| {
            let wrong = |problem| Error::Line { path: path.to_owned(), line, problem };
            let reply: RecordedReply = serde_json::from_value(parse_json(text).map_err(wrong)?)
                .map_err(|error| wrong(LineProblem::NotAReply { detail: error.to_string() }))?;
            replies.push(reply);
            Ok(())
        })?;
        if replies.is_empty() {
            return Err(Error::NoRecords { path: path.to_owned() });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self::new(format!("recorded replies of {name}"), replies))
    }
}

impl RecordedJudge {
    /// The replies that no question has asked for so far, each by its question and sample, in alphabetical order.
    #[must_use]
    pub fn unused(&self) -> Vec<String> {
        let replies = lock(&self.replies);
        let names = replies.iter().flat_map(|((sample, purpose), left)| {
            left.iter().map(move |_| format!("`{purpose}` about sample `{sample}`"))
        });
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names
    }
}

impl Judge for RecordedJudge {
    fn identity(&self) -> JudgeIdentity {
        let mut params = Map::new();
        params.insert("replies_sha256".to_owned(), json!(self.sha256));
        JudgeIdentity { name: self.name.clone(), params }
    }

    fn ask(&self, request: &JudgeRequest) -> Result<JudgeReply, JudgeError> {
        let question = (request.sample.clone(), request.purpose.clone());
        match lock(&self.replies).get_mut(&question).and_then(VecDeque::pop_front) {
            Some(reply) => Ok(JudgeReply {
                text: reply.text,
                usage: reply.usage,
                finish: reply.finish,
                model: self.name.clone(),
                ..JudgeReply::default()
            }),
            None => Err(JudgeError::Unavailable {
                detail: format!(
                    "there is no further recorded reply to `{}` about sample `{}`",
                    request.purpose, request.sample
                ),
                retries: 0,
                wasted: TokenUsage::default(),
            }),
        }
    }
}

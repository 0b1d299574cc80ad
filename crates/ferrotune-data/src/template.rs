//! The study's template: what a record looks like between BOS and EOS.
//!
//! ```text
//! <BOS>[INST] Below is an instruction that describes a task. Write a response that appropriately completes the request.
//!
//! {request} [/INST]
//!
//! {response}<EOS>
//! ```
//!
//! BOS and EOS are ids that [`encode`](fn@encode) places; no text here spells them.

use std::{ops::Range, sync::Arc};

use ferrotune_core::{PromptTemplate as _, Tokenize};

use crate::{ChatTemplate, Encoded, Error, Limits, Preamble, Record, chat_encode, encode, encode_prompt};

/// The sentence between `[INST]` and the request.
pub const PREAMBLE: &str = "Below is an instruction that describes a task. \
     Write a response that appropriately completes the request.";

/// Names the template in cache keys and reports; changes with every change of the text it renders.
pub const TEMPLATE: &str = "instruction-v1";

/// What records are written in: the study's template, or a checkpoint's own.
#[derive(Clone, Debug, Default)]
pub enum Template {
    /// That of this module.
    #[default]
    Study,
    /// A chat template; BOS and EOS are the template's to spell.
    Chat(Arc<ChatTemplate>),
}

impl Template {
    /// Names it in cache keys and reports, with the digest of a chat template.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Study => TEMPLATE.to_owned(),
            Self::Chat(template) => format!("chat template {}", template.fingerprint()),
        }
    }

    /// Encodes one record.
    ///
    /// By a chat template the whole conversation is tokenized once; the model's turns with what ends them are supervised.
    /// BOS is put before the text unless the template did, EOS after it only if the template writes nothing after an
    /// answer. What spells a special token is that token, in the records' texts too, as in transformers.
    ///
    /// # Errors
    /// As [`encode`](fn@encode); [`Error::ChatTemplate`] for a template that refuses the conversation, or writes its beginning
    /// differently once it goes on.
    pub fn encode(
        &self,
        record: &Record,
        tokenizer: &dyn Tokenize,
        limits: &Limits,
    ) -> Result<Encoded, Error> {
        match self {
            Self::Study => encode(record, tokenizer, limits),
            Self::Chat(template) => chat_encode::encode(record, template, tokenizer, limits),
        }
    }

    /// The ids a model is given to answer a record's last request.
    ///
    /// # Errors
    /// As [`encode_prompt`](fn@encode_prompt); [`Error::ChatTemplate`].
    pub fn encode_prompt(&self, record: &Record, tokenizer: &dyn Tokenize) -> Result<Vec<u32>, Error> {
        match self {
            Self::Study => encode_prompt(record, tokenizer),
            Self::Chat(template) => chat_encode::encode_prompt(record, template, tokenizer),
        }
    }
}

/// A record as text: one segment for each turn, each ended by EOS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// In order; BOS comes before the first only.
    pub segments: Vec<Segment>,
}

/// The text of one turn, tokenized in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Frame, request and response.
    pub text: String,
    /// The bytes of `text` that are the request, without frame and preamble.
    pub request: Range<usize>,
    /// The bytes of `text` that are the response, to its end; empty in a prompt.
    pub response: Range<usize>,
}

/// The text of a whole record.
///
/// The first turn carries the preamble, or the record's own system message in its place, or neither where
/// [`Preamble::Omitted`] says that the request brings its own; later turns carry the request alone.
///
/// ```
/// use ferrotune_data::{Record, template};
/// let rendered = template::render(&Record::new("Name a prime.", "Seven.", 1));
/// let segment = &rendered.segments[0];
/// assert!(segment.text.starts_with("[INST] Below is an instruction"));
/// assert!(segment.text.ends_with("\n\nName a prime. [/INST]\n\nSeven."));
/// assert_eq!(&segment.text[segment.response.clone()], "Seven.");
/// ```
#[must_use]
pub fn render(record: &Record) -> Rendered {
    let segments = record
        .turns
        .iter()
        .enumerate()
        .map(|(index, turn)| segment(introduction(record, index), &turn.request, &turn.response))
        .collect();
    Rendered { segments }
}

/// The text of a record up to where the model answers its last request: that response is left out.
///
/// The last segment ends with the blank line after `[/INST]`; see [`encode_prompt`](fn@encode_prompt) for
/// how its ids relate to those of the whole record.
#[must_use]
pub fn render_prompt(record: &Record) -> Rendered {
    let mut rendered = render(record);
    if let Some(last) = rendered.segments.last_mut() {
        last.text.truncate(last.response.start);
        last.response.end = last.response.start;
    }
    rendered
}

/// The text of a single request with the preamble, up to where the model answers.
#[must_use]
pub fn prompt(request: &str) -> String {
    segment(Some(PREAMBLE), request, "").text
}

fn introduction(record: &Record, turn: usize) -> Option<&str> {
    match (turn, &record.system, record.preamble) {
        (1.., ..) => None,
        (0, Some(system), _) => Some(system),
        (0, None, Preamble::Added) => Some(PREAMBLE),
        (0, None, Preamble::Omitted) => None,
    }
}

fn segment(introduction: Option<&str>, request: &str, response: &str) -> Segment {
    let mut text = String::from("[INST] ");
    if let Some(introduction) = introduction {
        text.push_str(introduction);
        text.push_str("\n\n");
    }
    let request_start = text.len();
    text.push_str(request);
    let request = request_start..text.len();
    text.push_str(" [/INST]\n\n");
    let response_start = text.len();
    text.push_str(response);
    let response = response_start..text.len();
    Segment { text, request, response }
}

//! From a record to a [`Sample`]: one tokenization of each turn, supervision by byte offsets, BOS and EOS as
//! ids.
//!
//! The prompt's length in tokens is never measured by tokenizing it alone: a tokenizer may merge across the
//! boundary, so that a prompt's ids need not be a prefix of the record's. A token is supervised when it
//! covers **at least one byte of a response**. A token that straddles the boundary is therefore supervised:
//! leaving it out would leave the first bytes of the response unlearnt, while learning a few bytes of the
//! fixed frame costs nothing.

use std::ops::Range;

use ferrotune_core::{BoxError, Sample, Tokenize};
use serde::{Deserialize, Serialize};

use crate::{Error, Record, Rendered, template};

/// The limits that records are encoded under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The most ids of a sample, special tokens included; at least 2. Longer records keep their start and
    /// lose EOS.
    pub max_seq_length: usize,
    /// A record is kept only if each of its requests has fewer tokens than this.
    pub max_request_tokens: usize,
}

impl Default for Limits {
    /// The study's: 1024 ids, requests below 2048 tokens.
    fn default() -> Self {
        Self { max_seq_length: 1024, max_request_tokens: 2048 }
    }
}

impl Limits {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let setting = |setting, found: usize, expected: &str| Error::Setting {
            setting,
            found: found.to_string(),
            expected: expected.to_owned(),
        };
        if self.max_seq_length < 2 {
            return Err(setting("max_seq_length", self.max_seq_length, "at least 2 (BOS and one token)"));
        }
        if self.max_request_tokens < 1 {
            return Err(setting("max_request_tokens", self.max_request_tokens, "at least 1"));
        }
        Ok(())
    }
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// It is a training sample.
    Kept(Sample),
    /// A request has too many tokens; holds the largest count.
    RequestTooLong(usize),
    /// Truncation left no supervised token; training on it would give an undefined loss.
    NothingSupervised,
}

/// Encodes one record.
///
/// `ids` = BOS, then for each turn its tokens and EOS. Every token that covers a byte of a response is
/// supervised, and so is the EOS after it; BOS and prompts are not. A record longer than
/// [`max_seq_length`](Limits::max_seq_length) keeps its start, no EOS is put in place of what was cut, and
/// `truncated` is set.
///
/// # Errors
/// The tokenizer has no BOS or EOS, or refuses the text.
pub fn encode(record: &Record, tokenizer: &dyn Tokenize, limits: &Limits) -> Result<Encoded, Error> {
    limits.check()?;
    let (bos, eos) = (id("bos", tokenizer.special().bos)?, id("eos", tokenizer.special().eos)?);
    let rendered = template::render(record);
    let mut sample = Sample { ids: vec![bos], supervised: vec![false], truncated: false };
    let mut longest_request = 0;
    for segment in &rendered.segments {
        let encoding = tokenizer.encode(&segment.text).map_err(|source| refused(record, source))?;
        let covering = |bytes: &Range<usize>| {
            let bytes = bytes.clone();
            encoding.offsets.iter().map(move |token| covers(token, &bytes))
        };
        longest_request = longest_request.max(covering(&segment.request).filter(|&covers| covers).count());
        sample.ids.extend(&encoding.ids);
        sample.supervised.extend(covering(&segment.response));
        sample.ids.push(eos);
        sample.supervised.push(true);
    }
    Ok(within(limits, sample, longest_request))
}

/// The ids a model is given to answer a record's last request: BOS and the tokens of
/// [`render_prompt`](template::render_prompt), with EOS after each earlier turn.
///
/// Where the tokenizer merges nothing across the blank line before the response (the LLaMA 2 and Mixtral
/// tokenizers have no piece that holds a line break), these ids are a prefix of the record's training ids.
/// Byte-level tokenizers may join the blank line with what follows if the response itself begins with white
/// space; the prompt's last token is then another one than in training.
///
/// # Errors
/// The tokenizer has no BOS or EOS, or refuses the text.
pub fn encode_prompt(record: &Record, tokenizer: &dyn Tokenize) -> Result<Vec<u32>, Error> {
    let Rendered { segments } = template::render_prompt(record);
    let mut ids = vec![id("bos", tokenizer.special().bos)?];
    for (index, segment) in segments.iter().enumerate() {
        if index > 0 {
            ids.push(id("eos", tokenizer.special().eos)?);
        }
        ids.extend(tokenizer.encode(&segment.text).map_err(|source| refused(record, source))?.ids);
    }
    Ok(ids)
}

/// A text without any template as a sample: BOS, its tokens, EOS, every id but BOS supervised.
///
/// For continued pretraining and for scoring; cut at `max_seq_length` as [`encode`] does.
///
/// # Errors
/// `max_seq_length` is below 2, the tokenizer has no BOS or EOS, or refuses the text.
pub fn encode_text(text: &str, tokenizer: &dyn Tokenize, max_seq_length: usize) -> Result<Sample, Error> {
    Limits { max_seq_length, ..Limits::default() }.check()?;
    let (bos, eos) = (id("bos", tokenizer.special().bos)?, id("eos", tokenizer.special().eos)?);
    let encoding = tokenizer
        .encode(text)
        .map_err(|source| Error::Tokenize { origin: "a text in memory".to_owned(), source })?;
    let ids: Vec<u32> = [bos].into_iter().chain(encoding.ids).chain([eos]).collect();
    let supervised = (0..ids.len()).map(|position| position > 0).collect();
    let mut sample = Sample { ids, supervised, truncated: false };
    cut(&mut sample, max_seq_length);
    Ok(sample)
}

/// What becomes of a whole record, whose longest request has so many tokens.
pub(crate) fn within(limits: &Limits, mut sample: Sample, longest_request: usize) -> Encoded {
    if longest_request >= limits.max_request_tokens {
        return Encoded::RequestTooLong(longest_request);
    }
    cut(&mut sample, limits.max_seq_length);
    if sample.supervised_tokens() == 0 { Encoded::NothingSupervised } else { Encoded::Kept(sample) }
}

fn cut(sample: &mut Sample, max_seq_length: usize) {
    sample.truncated = sample.ids.len() > max_seq_length;
    sample.ids.truncate(max_seq_length);
    sample.supervised.truncate(max_seq_length);
}

/// Whether a token covers at least one of these bytes.
pub(crate) fn covers(token: &Range<usize>, bytes: &Range<usize>) -> bool {
    token.start.max(bytes.start) < token.end.min(bytes.end)
}

/// A special id that an encoding needs.
pub(crate) fn id(role: &'static str, id: Option<u32>) -> Result<u32, Error> {
    id.ok_or(Error::MissingSpecialToken { role })
}

/// The error of a record whose text the tokenizer refuses.
pub(crate) fn refused(record: &Record, source: BoxError) -> Error {
    Error::Tokenize { origin: record.origin.to_string(), source }
}

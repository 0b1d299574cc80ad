use std::ops::Range;

use crate::BoxError;

/// The ids of a text, with the bytes of the text that each came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each id the half-open byte range of the input text that it covers.
    pub offsets: Vec<Range<usize>>,
}

/// The ids with a meaning of their own; any of them may be absent. LLaMA 2 has no pad token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence: what a training record ends with.
    pub eos: Option<u32>,
    /// Further ids that end an answer: chat checkpoints list one for a turn's end beside that of a text's.
    pub other_ends: Vec<u32>,
    /// Padding. Batches are masked by length, never by comparing ids with this one.
    pub pad: Option<u32>,
}

impl SpecialTokens {
    /// Every id that ends an answer, [`eos`](Self::eos) first.
    pub fn ends(&self) -> impl Iterator<Item = u32> {
        self.eos.into_iter().chain(self.other_ends.iter().copied())
    }
}

/// Text to ids and back; implementors provide all methods.
///
/// No special token is ever added, and text that spells one (`</s>`) is text, except in
/// [`encode_markup`](Self::encode_markup): BOS and EOS are ids that callers place.
pub trait Tokenize: Send + Sync {
    /// Ids and offsets of `text`.
    fn encode(&self, text: &str) -> Result<Encoding, BoxError>;

    /// Ids and offsets of what a chat template wrote: text in which the spelling of a special token is that token.
    fn encode_markup(&self, text: &str) -> Result<Encoding, BoxError>;

    /// The text of `ids`; special tokens give no text.
    fn decode(&self, ids: &[u32]) -> Result<String, BoxError>;

    /// The special ids.
    fn special(&self) -> &SpecialTokens;

    /// One more than the largest id that [`encode`](Self::encode) can return.
    fn vocabulary_size(&self) -> usize;

    /// Hash of everything that changes what [`encode`](Self::encode) returns, for cache keys and reports.
    fn fingerprint(&self) -> &str;
}

use serde::{Deserialize, Serialize};

/// One tokenized training record.
///
/// `supervised[i]` says whether predicting `ids[i]` counts towards the loss; both have the same length. Position 0 is
/// never supervised, since nothing precedes it. Labels are shifted in one place, the loss, not here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Which ids are targets.
    pub supervised: Vec<bool>,
    /// Whether the record was longer than the limit and lost its end (and its EOS).
    pub truncated: bool,
}

impl Sample {
    /// Number of ids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no ids.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of ids whose prediction counts towards the loss.
    #[must_use]
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().skip(1).filter(|&&s| s).count()
    }
}

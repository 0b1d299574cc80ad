//! What an adapter's file says of the base that it was made for.

use std::fmt;

use crate::{Error, Result};

/// Which base an adapter was made for: digests of its weights, so that another base of the same shapes is told apart.
///
/// Ferrotune writes it into `adapter_model.safetensors`, beside the tensors; adapters of other programs have none. What is
/// digested is up to the writer, who names the rule: records of one rule can be compared, and equal weights give equal digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseRecord {
    /// What the writer calls the rule by which weights are digested: a word without blanks.
    pub rule: String,
    /// Digest of the matrices of attention, MLPs and experts, as they are stored or as their 4 bits decode.
    pub matrices: String,
    /// Digest of all other weights, which quantizing leaves as they are.
    pub others: String,
    /// Whether the folder has its matrices in 4 bits.
    pub in_4_bits: bool,
}

impl BaseRecord {
    /// Reads what [`Display`](fmt::Display) wrote; `place` names the file in messages.
    pub(crate) fn parse(text: &str, place: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        // The first records did not name their rule.
        let words = if let [form, matrices, others] = words[..] {
            [form, UNNAMED, matrices, others].to_vec()
        } else {
            words
        };
        match words[..] {
            [form @ (DENSE | PACKED), rule, matrices, others] => Ok(Self {
                rule: rule.to_owned(),
                matrices: matrices.to_owned(),
                others: others.to_owned(),
                in_4_bits: form == PACKED,
            }),
            _ => Err(Error::Config {
                field: "ferrotune_base".to_owned(),
                place: place.to_owned(),
                found: format!("{text:?}"),
                expected: format!("`{DENSE}` or `{PACKED}`, a rule and two digests"),
            }),
        }
    }

    /// What of another base is not this one's, in words; nothing if they agree in all that can be compared.
    ///
    /// Matrices in 4 bits cannot be compared with dense ones. Records of different rules cannot be compared at all, which is a
    /// difference.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.rule != other.rule {
            return Some(
                "another version recorded its base, by another rule, so that the two cannot be compared",
            );
        }
        if self.others != other.others {
            return Some("its embeddings, norms, routers or head are others");
        }
        let comparable = self.in_4_bits == other.in_4_bits;
        (comparable && self.matrices != other.matrices)
            .then_some("its matrices of attention, MLPs or experts are others")
    }
}

const UNNAMED: &str = "rows-8";
const DENSE: &str = "dense";
const PACKED: &str = "4-bit";

impl fmt::Display for BaseRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = if self.in_4_bits { PACKED } else { DENSE };
        write!(f, "{form} {} {} {}", self.rule, self.matrices, self.others)
    }
}

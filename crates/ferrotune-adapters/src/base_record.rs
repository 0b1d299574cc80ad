//! What an adapter's file says of the base that it was made for.

use std::fmt;

use crate::{Error, Result};

/// Which base an adapter was made for: digests of its weights, so that another base of the same shapes is told apart.
///
/// Ferrotune writes it into `adapter_model.safetensors`, beside the tensors; adapters of other programs have none. What is
/// digested is up to the writer, as long as equal weights give equal digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseRecord {
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
        match words[..] {
            [form @ (DENSE | PACKED), matrices, others] => Ok(Self {
                matrices: matrices.to_owned(),
                others: others.to_owned(),
                in_4_bits: form == PACKED,
            }),
            _ => Err(Error::Config {
                field: "ferrotune_base".to_owned(),
                place: place.to_owned(),
                found: format!("{text:?}"),
                expected: format!("`{DENSE}` or `{PACKED}` and two digests"),
            }),
        }
    }

    /// What of another base is not this one's, in words; nothing if they agree in all that can be compared.
    ///
    /// Matrices in 4 bits cannot be compared with dense ones.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.others != other.others {
            return Some("its embeddings, norms, routers or head are others");
        }
        let comparable = self.in_4_bits == other.in_4_bits;
        (comparable && self.matrices != other.matrices)
            .then_some("its matrices of attention, MLPs or experts are others")
    }
}

const DENSE: &str = "dense";
const PACKED: &str = "4-bit";

impl fmt::Display for BaseRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", if self.in_4_bits { PACKED } else { DENSE }, self.matrices, self.others)
    }
}

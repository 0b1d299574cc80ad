//! Texts to padded batches of ids.

use std::path::Path;

use ferrotune_core::digest;
use tch::{Device, Tensor};
use tokenizers::{Encoding, Tokenizer};

use crate::{Error, Result};

/// Texts encoded together; padding makes larger batches slower on a CPU, not faster.
pub(crate) const BATCH: usize = 32;

/// A folder's tokenizer, and where its ids go.
pub(crate) struct Texts {
    tokenizer: Tokenizer,
    device: Device,
}

/// The ids of some texts side by side.
pub(crate) struct Batch {
    pub(crate) encodings: Vec<Encoding>,
    /// `[b, t]`, shorter texts padded on the right.
    pub(crate) ids: Tensor,
    /// `[b, t]` of booleans, true at real tokens.
    pub(crate) mask: Tensor,
}

impl Texts {
    /// Reads `tokenizer.json`, whose own truncation and padding are replaced by a truncation to `length` tokens.
    pub(crate) fn open(folder: &Path, length: i64, device: Device) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let unreadable = |source| Error::Tokenizer { path: path.clone(), source };
        let mut tokenizer = Tokenizer::from_file(&path).map_err(unreadable)?;
        let cut = tokenizers::TruncationParams { max_length: length as usize, ..Default::default() };
        tokenizer.with_padding(None).with_truncation(Some(cut)).map_err(unreadable)?;
        Ok(Self { tokenizer, device })
    }

    pub(crate) fn batch(&self, texts: &[&str]) -> Result<Batch> {
        let encodings = texts
            .iter()
            .enumerate()
            .map(|(index, text)| {
                self.tokenizer.encode(*text, true).map_err(|source| Error::Tokenize { index, source })
            })
            .collect::<Result<Vec<_>>>()?;
        let width = encodings.iter().map(|encoding| encoding.get_ids().len()).max().unwrap_or(0);
        let mut ids = vec![0_i64; texts.len() * width];
        let mut real = vec![false; texts.len() * width];
        for (row, encoding) in encodings.iter().enumerate() {
            for (column, &id) in encoding.get_ids().iter().enumerate() {
                ids[row * width + column] = i64::from(id);
                real[row * width + column] = true;
            }
        }
        let shape = [texts.len() as i64, width as i64];
        let ids = Tensor::from_slice(&ids).f_view(shape)?.f_to_device(self.device)?;
        let mask = Tensor::from_slice(&real).f_view(shape)?.f_to_device(self.device)?;
        Ok(Batch { encodings, ids, mask })
    }
}

/// Texts of like length together, which needs less padding: their indices, batch by batch.
pub(crate) fn by_length(texts: &[&str]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&text| texts[text].len());
    order
}

/// The folder's name with the beginning of its weights' hash.
pub(crate) fn name_of(folder: &Path) -> Result<String> {
    let weights = folder.join("model.safetensors");
    let sha =
        digest::of_file(&weights).map_err(|source| ferrotune_nn::Error::Io { path: weights, source })?;
    let label = folder.file_name().map_or_else(|| "encoder".into(), |name| name.to_string_lossy());
    Ok(format!("{label} ({})", &sha[..12]))
}

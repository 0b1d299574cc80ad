//! Sentences to unit vectors.

use std::{fmt, path::Path};

use ferrotune_core::{BoxError, Embedder, digest};
use ferrotune_nn::checkpoint::Checkpoint;
use tch::{Device, Kind, Tensor};
use tokenizers::Tokenizer;

use crate::{Bert, Config, Error, Result};

/// Sentences encoded together; padding makes larger batches slower on a CPU, not faster.
const BATCH: usize = 32;

/// A BERT sentence encoder: mean over the tokens' last states, divided by the Euclidean norm.
///
/// ```no_run
/// use ferrotune_bert::SentenceEncoder;
/// use ferrotune_core::Embedder as _;
///
/// let encoder = SentenceEncoder::open(".models/all-minilm-l6-v2".as_ref(), tch::Device::Cpu)?;
/// assert_eq!(encoder.embed(&["A cat sits on a mat."])?[0].len(), encoder.dimension());
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct SentenceEncoder {
    bert: Bert,
    tokenizer: Tokenizer,
    hidden_size: i64,
    device: Device,
    name: String,
}

impl SentenceEncoder {
    /// Opens a sentence-transformers folder: `config.json`, `model.safetensors`, `tokenizer.json`.
    ///
    /// The tokenizer file's own truncation and padding are replaced by the folder's `max_seq_length`, as
    /// sentence-transformers does: the released MiniLM's file says 128 where its model takes 256.
    ///
    /// # Errors
    /// [`Error::Model`] and [`Error::Tokenizer`].
    pub fn open(folder: &Path, device: Device) -> Result<Self> {
        let config = Config::open(folder)?;
        let bert = Bert::load(&config, &Checkpoint::open(folder)?, device)?;
        let path = folder.join("tokenizer.json");
        let unreadable = |source| Error::Tokenizer { path: path.clone(), source };
        let mut tokenizer = Tokenizer::from_file(&path).map_err(unreadable)?;
        let cut =
            tokenizers::TruncationParams { max_length: config.max_seq_length as usize, ..Default::default() };
        tokenizer.with_padding(None).with_truncation(Some(cut)).map_err(unreadable)?;
        let weights = folder.join("model.safetensors");
        let sha =
            digest::of_file(&weights).map_err(|source| ferrotune_nn::Error::Io { path: weights, source })?;
        let label = folder.file_name().map_or_else(|| "encoder".into(), |name| name.to_string_lossy());
        let name = format!("{label} ({})", &sha[..12]);
        Ok(Self { bert, tokenizer, hidden_size: config.hidden_size, device, name })
    }

    /// One unit vector per text, `[texts, hidden]` on the encoder's device.
    ///
    /// # Errors
    /// [`Error::Tokenize`], [`Error::Model`].
    pub fn embed_tensor(&self, texts: &[&str]) -> Result<Tensor> {
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
        let ids = Tensor::from_slice(&ids).f_view(shape)?.f_to_device(self.device)?; // [b, t]
        let mask = Tensor::from_slice(&real).f_view(shape)?.f_to_device(self.device)?; // [b, t]
        tch::no_grad(|| {
            let states = self.bert.forward(&ids, &mask)?; // [b, t, hidden]
            let weights = mask.f_to_kind(Kind::Float)?.f_unsqueeze(-1)?; // [b, t, 1]
            let sums = states.f_mul(&weights)?.f_sum_dim_intlist(1, false, Kind::Float)?; // [b, hidden]
            let counts = weights.f_sum_dim_intlist(1, false, Kind::Float)?.f_clamp_min(1e-9)?; // [b, 1]
            let mean = sums.f_div(&counts)?;
            let norms = mean.f_norm_scalaropt_dim(2.0, [1].as_slice(), true)?.f_clamp_min(1e-12)?; // [b, 1]
            Ok(mean.f_div(&norms)?)
        })
    }
}

impl Embedder for SentenceEncoder {
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, BoxError> {
        // Texts of like length together: less padding, and order is restored below.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&text| texts[text].len());
        let mut vectors = vec![Vec::new(); texts.len()];
        for batch in order.chunks(BATCH) {
            let chosen: Vec<&str> = batch.iter().map(|&text| texts[text]).collect();
            let embedded = self.embed_tensor(&chosen)?.f_to_device(Device::Cpu)?;
            for (row, &text) in (0..).zip(batch) {
                vectors[text] = Vec::<f32>::try_from(embedded.f_select(0, row)?)?;
            }
        }
        Ok(vectors)
    }

    fn dimension(&self) -> usize {
        self.hidden_size as usize
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl fmt::Debug for SentenceEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SentenceEncoder({})", self.name)
    }
}

//! Sentences to unit vectors.

use std::{fmt, path::Path};

use ferrotune_core::{BoxError, Embedder};
use ferrotune_nn::checkpoint::Checkpoint;
use tch::{Device, Kind, Tensor};

use crate::{
    Bert, Config, Result,
    texts::{BATCH, Texts, by_length, name_of},
};

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
    texts: Texts,
    hidden_size: i64,
    name: String,
}

impl SentenceEncoder {
    /// Opens a sentence-transformers folder: `config.json`, `model.safetensors`, `tokenizer.json`.
    ///
    /// The tokenizer file's own truncation and padding are replaced by the folder's `max_seq_length`, as
    /// sentence-transformers does: the released MiniLM's file says 128 where its model takes 256.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) and [`Error::Tokenizer`](crate::Error::Tokenizer).
    pub fn open(folder: &Path, device: Device) -> Result<Self> {
        let config = Config::open(folder)?;
        Ok(Self {
            bert: Bert::load(&config, &Checkpoint::open(folder)?, device)?,
            texts: Texts::open(folder, config.max_seq_length, device)?,
            hidden_size: config.hidden_size,
            name: name_of(folder)?,
        })
    }

    /// One unit vector per text, `[texts, hidden]` on the encoder's device.
    ///
    /// # Errors
    /// [`Error::Tokenize`](crate::Error::Tokenize), [`Error::Model`](crate::Error::Model).
    pub fn embed_tensor(&self, texts: &[&str]) -> Result<Tensor> {
        let inputs = self.texts.batch(texts)?;
        tch::no_grad(|| {
            let states = self.bert.forward(&inputs.ids, &inputs.mask)?; // [b, t, hidden]
            let weights = inputs.mask.f_to_kind(Kind::Float)?.f_unsqueeze(-1)?; // [b, t, 1]
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
        let mut vectors = vec![Vec::new(); texts.len()];
        for batch in by_length(texts).chunks(BATCH) {
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

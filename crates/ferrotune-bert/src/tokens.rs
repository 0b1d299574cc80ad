//! Tokens to contextual vectors.

use std::{fmt, path::Path};

use ferrotune_core::{BoxError, TokenEmbedder, TokenVectors};
use ferrotune_nn::checkpoint::Checkpoint;
use tch::{Device, Kind, Tensor};

use crate::{
    Bert, Config, Error, Result,
    config::tokenizer_length,
    texts::{BATCH, Texts, by_length, name_of},
};

/// A BERT encoder's states at each token of a text, as BERTScore compares them.
///
/// Texts are cut where the folder's `tokenizer_config.json` says, which may be later than sentence-transformers cuts.
///
/// ```no_run
/// use ferrotune_bert::TokenEncoder;
/// use ferrotune_core::TokenEmbedder as _;
///
/// let encoder = TokenEncoder::open(".models/all-minilm-l6-v2".as_ref(), None, tch::Device::Cpu)?;
/// let text = &encoder.embed_tokens(&["A cat sits on a mat."])?[0];
/// assert_eq!(text.vectors.len(), text.ids.len() * encoder.dimension());
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct TokenEncoder {
    bert: Bert,
    texts: Texts,
    marks: [u32; 2],
    hidden_size: i64,
    name: String,
}

impl TokenEncoder {
    /// Opens a folder with `config.json`, `model.safetensors` and `tokenizer.json` for the states behind block `layer`,
    /// counted from 1; behind the last one where it is `None`.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Tokenizer`], [`Error::Layer`], [`Error::Marks`].
    pub fn open(folder: &Path, layer: Option<i64>, device: Device) -> Result<Self> {
        let mut config = Config::open(folder)?;
        let (layers, layer) = (config.num_hidden_layers, layer.unwrap_or(config.num_hidden_layers));
        if !(1..=layers).contains(&layer) {
            return Err(Error::Layer { found: layer, layers });
        }
        // The blocks behind it are not even read.
        config.num_hidden_layers = layer;
        let texts = Texts::open(folder, tokenizer_length(folder, &config)?, device)?;
        let empty = texts.batch(&[""])?;
        let Some(&[begin, end]) = empty.encodings.first().map(tokenizers::Encoding::get_ids) else {
            return Err(Error::Marks { folder: folder.to_owned() });
        };
        Ok(Self {
            bert: Bert::load(&config, &Checkpoint::open(folder)?, device)?,
            texts,
            marks: [begin, end],
            hidden_size: config.hidden_size,
            name: format!("{}, layer {layer} of {layers}", name_of(folder)?),
        })
    }
}

impl TokenEmbedder for TokenEncoder {
    fn embed_tokens(&self, texts: &[&str]) -> Result<Vec<TokenVectors>, BoxError> {
        let mut found = vec![TokenVectors::default(); texts.len()];
        for batch in by_length(texts).chunks(BATCH) {
            let chosen: Vec<&str> = batch.iter().map(|&text| texts[text]).collect();
            let inputs = self.texts.batch(&chosen)?;
            let states = tch::no_grad(|| -> Result<Tensor> {
                let states = self.bert.forward(&inputs.ids, &inputs.mask)?; // [b, t, hidden]
                Ok(states.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?)
            })?;
            for ((row, &text), encoding) in (0..).zip(batch).zip(&inputs.encodings) {
                let ids = encoding.get_ids().to_vec();
                let of_text = states.f_select(0, row)?.f_narrow(0, 0, ids.len() as i64)?; // [t, hidden]
                found[text] = TokenVectors {
                    vectors: Vec::<f32>::try_from(of_text.f_reshape(-1)?)?,
                    is_truncated: !encoding.get_overflowing().is_empty(),
                    ids,
                };
            }
        }
        Ok(found)
    }

    fn mark_ids(&self) -> [u32; 2] {
        self.marks
    }

    fn dimension(&self) -> usize {
        self.hidden_size as usize
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl fmt::Debug for TokenEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenEncoder({})", self.name)
    }
}

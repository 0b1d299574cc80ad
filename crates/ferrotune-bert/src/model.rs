//! The encoder, from token ids to states.

use ferrotune_nn::{Result, WeightSource, Weights};
use ferrotune_torch::SharedTensor;
use tch::{Device, Kind, Tensor};

use crate::Config;

/// BERT without its pooler: what sentence encoders use.
#[derive(Debug)]
pub struct Bert {
    words: SharedTensor,     // [vocabulary, hidden]
    positions: SharedTensor, // [positions, hidden]
    types: SharedTensor,     // [types, hidden]
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl Bert {
    /// Reads the weights, in 32 bits.
    ///
    /// # Errors
    /// A missing or misshapen tensor, by name.
    pub fn load(config: &Config, source: &dyn WeightSource, device: Device) -> Result<Self> {
        let root = Weights::new(source, device, Kind::Float);
        // Checkpoints saved with a head on top keep the encoder under its own name.
        let prefixed = root.at("bert");
        let root = if prefixed.at("embeddings.word_embeddings").contains("weight") { prefixed } else { root };
        let (hidden, at) = (config.hidden_size, root.at("embeddings"));
        let table = |name, rows| -> Result<SharedTensor> {
            Ok(at.at(name).tensor("weight", &[rows, hidden])?.into())
        };
        Ok(Self {
            words: table("word_embeddings", config.vocab_size)?,
            positions: table("position_embeddings", config.max_position_embeddings)?,
            types: table("token_type_embeddings", config.type_vocab_size)?,
            norm: LayerNorm::load(config, &at.at("LayerNorm"))?,
            layers: (0..config.num_hidden_layers)
                .map(|layer| Layer::load(config, &root.at("encoder.layer").at(layer)))
                .collect::<Result<_>>()?,
        })
    }

    /// States of the last layer, `[b, t, hidden]`, of ids `[b, t]`. `mask` is `[b, t]` of booleans, true at real tokens.
    pub fn forward(&self, ids: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let positions = self.positions.f_narrow(0, 0, ids.size()[1])?; // [t, hidden]
        let words = Tensor::f_embedding(&self.words, ids, -1, false, false)?; // [b, t, hidden]
        let sum = words.f_add(&self.types.f_select(0, 0)?)?.f_add(&positions)?;
        let mut x = self.norm.forward(&sum)?;
        let keys = mask.f_unsqueeze(1)?.f_unsqueeze(1)?; // [b, 1, 1, t]
        for layer in &self.layers {
            x = layer.forward(&x, &keys)?;
        }
        Ok(x)
    }
}

/// One block, normalized after each of its two halves.
#[derive(Debug)]
struct Layer {
    heads: i64,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

impl Layer {
    fn load(config: &Config, at: &Weights<'_>) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let square = |name: &str| Linear::load(hidden, hidden, &at.at(name));
        Ok(Self {
            heads: config.num_attention_heads,
            query: square("attention.self.query")?,
            key: square("attention.self.key")?,
            value: square("attention.self.value")?,
            attention_output: square("attention.output.dense")?,
            attention_norm: LayerNorm::load(config, &at.at("attention.output.LayerNorm"))?,
            intermediate: Linear::load(inner, hidden, &at.at("intermediate.dense"))?,
            output: Linear::load(hidden, inner, &at.at("output.dense"))?,
            output_norm: LayerNorm::load(config, &at.at("output.LayerNorm"))?,
        })
    }

    fn forward(&self, x: &Tensor, keys: &Tensor) -> Result<Tensor> {
        let (b, t, hidden) = (x.size()[0], x.size()[1], x.size()[2]);
        let heads = |linear: &Linear| -> Result<Tensor> {
            let projected = linear.forward(x)?.f_view([b, t, self.heads, hidden / self.heads])?;
            Ok(projected.f_transpose(1, 2)?) // [b, heads, t, head_dim]
        };
        let (query, key, value) = (heads(&self.query)?, heads(&self.key)?, heads(&self.value)?);
        let mixed = Tensor::f_scaled_dot_product_attention(
            &query,
            &key,
            &value,
            Some(keys),
            0.0,
            false,
            None,
            false,
        )?;
        let joined = mixed.f_transpose(1, 2)?.f_reshape([b, t, hidden])?;
        let x = self.attention_norm.forward(&self.attention_output.forward(&joined)?.f_add(x)?)?;
        let inner = self.intermediate.forward(&x)?.f_gelu("none")?; // [b, t, inner]
        self.output_norm.forward(&self.output.forward(&inner)?.f_add(&x)?)
    }
}

#[derive(Debug)]
struct Linear {
    weight: SharedTensor, // [out, in]
    bias: SharedTensor,   // [out]
}

impl Linear {
    fn load(out: i64, input: i64, at: &Weights<'_>) -> Result<Self> {
        Ok(Self {
            weight: at.tensor("weight", &[out, input])?.into(),
            bias: at.tensor("bias", &[out])?.into(),
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, Some(&*self.bias))?)
    }
}

#[derive(Debug)]
struct LayerNorm {
    weight: SharedTensor, // [hidden]
    bias: SharedTensor,   // [hidden]
    epsilon: f64,
}

impl LayerNorm {
    fn load(config: &Config, at: &Weights<'_>) -> Result<Self> {
        let shape = [config.hidden_size];
        let (weight, bias) = (at.tensor("weight", &shape)?.into(), at.tensor("bias", &shape)?.into());
        Ok(Self { weight, bias, epsilon: config.layer_norm_eps })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.weight.size();
        Ok(x.f_layer_norm(&hidden, Some(&*self.weight), Some(&*self.bias), self.epsilon, false)?)
    }
}

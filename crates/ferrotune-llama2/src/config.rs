//! `config.json` of LLaMA and Mistral checkpoints.

use ferrotune_nn::{
    Result, Role, WeightSpec,
    blocks::{AttentionConfig, RopeConfig},
    config::ConfigFile,
    decoder::embedding_spec,
    plan::BlockPlan,
};
use serde_json::json;

/// Which of the two families a configuration describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `model_type` `llama`.
    Llama,
    /// `model_type` `mistral`.
    Mistral,
}

/// The dimensions and constants of a model; fields are named as in `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family.
    pub family: Family,
    /// Number of token ids.
    pub vocab_size: i64,
    /// Width of the states.
    pub hidden_size: i64,
    /// Width inside the MLP.
    pub intermediate_size: i64,
    /// Number of blocks.
    pub num_hidden_layers: i64,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads.
    pub num_key_value_heads: i64,
    /// Width of a head; `hidden_size / num_attention_heads` where the file gives none.
    pub head_dim: i64,
    /// Added to the mean square in normalizations.
    pub rms_norm_eps: f64,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Tokens that a token sees, itself included; nothing for all before it.
    pub sliding_window: Option<i64>,
    /// Rotary positions.
    pub rope: RopeConfig,
}

/// The base of the rotary wavelengths in both families' files that give none.
const DEFAULT_THETA: f64 = 10_000.0;

/// The window of Mistral files that say nothing about it; those without one say `null`.
const DEFAULT_WINDOW: i64 = 4096;

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`ferrotune_nn::Error::Config`] for a missing or senseless field, an unknown `model_type`, and an option that
    /// changes the mathematics and is not implemented.
    pub fn read(file: &ConfigFile) -> Result<Self> {
        let family = match file.required::<String>("model_type")?.as_str() {
            "llama" => Family::Llama,
            "mistral" => Family::Mistral,
            other => return Err(file.refuse("model_type", &json!(other), "llama or mistral")),
        };
        file.only("hidden_act", &[json!("silu")])?;
        file.only("attention_dropout", &[json!(0.0)])?;
        let is_mistral = family == Family::Mistral;
        let flag = |field| Ok::<_, ferrotune_nn::Error>(file.optional::<bool>(field)?.unwrap_or(false));
        let (attention_bias, mlp_bias) = (flag("attention_bias")?, flag("mlp_bias")?);
        if is_mistral {
            file.only("attention_bias", &[json!(false)])?;
            file.only("mlp_bias", &[json!(false)])?;
        } else {
            file.only("sliding_window", &[])?;
        }
        let AttentionConfig { hidden_size, num_attention_heads, num_key_value_heads, head_dim, .. } =
            AttentionConfig::read(file, attention_bias)?;
        let sliding_window = match file.optional_size("sliding_window")? {
            None if is_mistral && !file.fields().contains_key("sliding_window") => Some(DEFAULT_WINDOW),
            window => window,
        };
        Ok(Self {
            family,
            vocab_size: file.size("vocab_size")?,
            hidden_size,
            intermediate_size: file.size("intermediate_size")?,
            num_hidden_layers: file.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps: file.not_negative("rms_norm_eps", 1e-6)?,
            attention_bias,
            mlp_bias,
            tie_word_embeddings: flag("tie_word_embeddings")?,
            initializer_range: file.not_negative("initializer_range", 0.02)?,
            sliding_window,
            rope: RopeConfig::read(file, head_dim, DEFAULT_THETA)?,
        })
    }

    /// What the attention blocks are built from.
    #[must_use]
    pub fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            hidden_size: self.hidden_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            attention_bias: self.attention_bias,
        }
    }

    /// What block `layer` keeps for its backward pass.
    #[must_use]
    pub fn block_plan(&self, layer: i64) -> BlockPlan {
        let at = format!("model.layers.{layer}");
        let module = |name: &str| vec![format!("{at}.mlp.{name}.weight")];
        let readers = [["gate_proj", "up_proj"].map(module).to_vec(), vec![module("down_proj")]];
        BlockPlan::attention(&self.attention(), &at).with_gated_mlp(
            self.hidden_size,
            self.intermediate_size,
            1,
            readers,
        )
    }

    /// Every weight of a checkpoint of this configuration, in the order in which the model asks for them.
    #[must_use]
    pub fn weights(&self) -> Vec<WeightSpec> {
        let mut specs = Vec::new();
        let hidden = self.hidden_size;
        let query = self.num_attention_heads * self.head_dim;
        let key_value = self.num_key_value_heads * self.head_dim;
        specs.push(embedding_spec(self.vocab_size, hidden, self.tie_word_embeddings));
        let mut add = |name: String, role, shape: &[i64], bias: bool| {
            specs.push(WeightSpec {
                name: format!("{name}.weight"),
                role,
                shape: shape.to_vec(),
                alias: None,
            });
            if bias {
                specs.push(WeightSpec {
                    name: format!("{name}.bias"),
                    role,
                    shape: shape[..1].to_vec(),
                    alias: None,
                });
            }
        };
        for layer in 0..self.num_hidden_layers {
            let at = format!("model.layers.{layer}");
            let bias = self.attention_bias;
            add(format!("{at}.input_layernorm"), Role::Norm, &[hidden], false);
            add(format!("{at}.self_attn.q_proj"), Role::Attention, &[query, hidden], bias);
            add(format!("{at}.self_attn.k_proj"), Role::Attention, &[key_value, hidden], bias);
            add(format!("{at}.self_attn.v_proj"), Role::Attention, &[key_value, hidden], bias);
            add(format!("{at}.self_attn.o_proj"), Role::Attention, &[hidden, query], bias);
            add(format!("{at}.post_attention_layernorm"), Role::Norm, &[hidden], false);
            add(format!("{at}.mlp.gate_proj"), Role::Mlp, &[self.intermediate_size, hidden], self.mlp_bias);
            add(format!("{at}.mlp.up_proj"), Role::Mlp, &[self.intermediate_size, hidden], self.mlp_bias);
            add(format!("{at}.mlp.down_proj"), Role::Mlp, &[hidden, self.intermediate_size], self.mlp_bias);
        }
        add("model.norm".into(), Role::Norm, &[hidden], false);
        if !self.tie_word_embeddings {
            add("lm_head".into(), Role::Head, &[self.vocab_size, hidden], false);
        }
        specs
    }
}

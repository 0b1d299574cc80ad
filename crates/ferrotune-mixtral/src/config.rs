//! `config.json` of Mixtral checkpoints, and the names of their weights.

use ferrotune_nn::{
    Result, Role, WeightSpec,
    blocks::{AttentionConfig, RopeConfig},
    config::ConfigFile,
    decoder::embedding_spec,
    plan::BlockPlan,
    weights::Alias,
};
use serde_json::json;

/// The dimensions and constants of a model; fields are named as in `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Number of token ids.
    pub vocab_size: i64,
    /// Width of the states.
    pub hidden_size: i64,
    /// Width inside an expert.
    pub intermediate_size: i64,
    /// Number of blocks.
    pub num_hidden_layers: i64,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads.
    pub num_key_value_heads: i64,
    /// Width of a head; `hidden_size / num_attention_heads` where the file gives none.
    pub head_dim: i64,
    /// Experts in a block.
    pub num_local_experts: i64,
    /// Experts that a token is sent to.
    pub num_experts_per_tok: i64,
    /// Coefficient of the router's balancing loss.
    pub router_aux_loss_coef: f64,
    /// Added to the mean square in normalizations.
    pub rms_norm_eps: f64,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Tokens that a token sees, itself included; nothing for all before it.
    pub sliding_window: Option<i64>,
    /// Rotary positions.
    pub rope: RopeConfig,
}

/// The base of the rotary wavelengths in this family's files that give none. The LLaMA default of 10,000 would be
/// silently wrong here.
const DEFAULT_THETA: f64 = 1_000_000.0;

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`ferrotune_nn::Error::Config`] for a missing or senseless field, an unknown `model_type`, and an option that
    /// changes the mathematics and is not implemented.
    pub fn read(file: &ConfigFile) -> Result<Self> {
        file.required::<String>("model_type")?;
        file.only("model_type", &[json!("mixtral")])?;
        file.only("hidden_act", &[json!("silu")])?;
        file.only("attention_dropout", &[json!(0.0)])?;
        file.only("router_jitter_noise", &[json!(0.0)])?;
        file.only("attention_bias", &[json!(false)])?;
        let AttentionConfig { hidden_size, num_attention_heads, num_key_value_heads, head_dim, .. } =
            AttentionConfig::read(file, false)?;
        let num_local_experts = file.size("num_local_experts")?;
        let num_experts_per_tok = file.size("num_experts_per_tok")?;
        if num_experts_per_tok > num_local_experts {
            let expected = format!("at most num_local_experts, {num_local_experts}");
            return Err(file.refuse("num_experts_per_tok", &json!(num_experts_per_tok), &expected));
        }
        Ok(Self {
            vocab_size: file.size("vocab_size")?,
            hidden_size,
            intermediate_size: file.size("intermediate_size")?,
            num_hidden_layers: file.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            num_local_experts,
            num_experts_per_tok,
            router_aux_loss_coef: file.not_negative("router_aux_loss_coef", 0.001)?,
            rms_norm_eps: file.not_negative("rms_norm_eps", 1e-5)?,
            tie_word_embeddings: file.optional("tie_word_embeddings")?.unwrap_or(false),
            initializer_range: file.not_negative("initializer_range", 0.02)?,
            sliding_window: file.optional_size("sliding_window")?,
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
            attention_bias: false,
        }
    }

    /// What block `layer` keeps for its backward pass. Beside what a dense block keeps, the experts' outputs stay until
    /// their weighted sum.
    #[must_use]
    pub fn block_plan(&self, layer: i64) -> BlockPlan {
        let at = format!("model.layers.{layer}");
        let experts = |part: &str| {
            let weight = |expert| format!("{at}.block_sparse_moe.experts.{expert}.{part}.weight");
            (0..self.num_local_experts).map(weight).collect::<Vec<_>>()
        };
        let readers = [vec![experts("w1"), experts("w3")], vec![experts("w2")]];
        let rows = self.num_experts_per_tok;
        let mut plan = BlockPlan::attention(&self.attention(), &at).with_gated_mlp(
            self.hidden_size,
            self.intermediate_size,
            rows,
            readers,
        );
        plan.kept += rows * self.hidden_size;
        plan
    }

    /// Every weight of a checkpoint of this configuration, in the order in which the model asks for them.
    ///
    /// Names are those of released files, one matrix per expert. The alias of each is its place in the files that
    /// transformers 5 writes with `save_original_format=False`: experts stacked, `w1` above `w3` in `gate_up_proj`.
    #[must_use]
    pub fn weights(&self) -> Vec<WeightSpec> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let query = self.num_attention_heads * self.head_dim;
        let key_value = self.num_key_value_heads * self.head_dim;
        let mut specs = vec![embedding_spec(self.vocab_size, hidden, self.tie_word_embeddings)];
        let mut add = |name: String, role, shape: &[i64], alias: Option<Alias>| {
            specs.push(WeightSpec { name: format!("{name}.weight"), role, shape: shape.to_vec(), alias });
        };
        for layer in 0..self.num_hidden_layers {
            let at = format!("model.layers.{layer}");
            add(format!("{at}.input_layernorm"), Role::Norm, &[hidden], None);
            add(format!("{at}.self_attn.q_proj"), Role::Attention, &[query, hidden], None);
            add(format!("{at}.self_attn.k_proj"), Role::Attention, &[key_value, hidden], None);
            add(format!("{at}.self_attn.v_proj"), Role::Attention, &[key_value, hidden], None);
            add(format!("{at}.self_attn.o_proj"), Role::Attention, &[hidden, query], None);
            add(format!("{at}.post_attention_layernorm"), Role::Norm, &[hidden], None);
            let router = Alias { name: format!("{at}.mlp.gate.weight"), slice: None };
            add(
                format!("{at}.block_sparse_moe.gate"),
                Role::Router,
                &[self.num_local_experts, hidden],
                Some(router),
            );
            for expert in 0..self.num_local_experts {
                let alias = |name, rows| Alias {
                    name: format!("{at}.mlp.experts.{name}"),
                    slice: Some((expert, rows)),
                };
                let at = format!("{at}.block_sparse_moe.experts.{expert}");
                add(
                    format!("{at}.w1"),
                    Role::Expert,
                    &[inner, hidden],
                    Some(alias("gate_up_proj", 0..inner)),
                );
                add(
                    format!("{at}.w3"),
                    Role::Expert,
                    &[inner, hidden],
                    Some(alias("gate_up_proj", inner..2 * inner)),
                );
                add(format!("{at}.w2"), Role::Expert, &[hidden, inner], Some(alias("down_proj", 0..hidden)));
            }
        }
        add("model.norm".into(), Role::Norm, &[hidden], None);
        if !self.tie_word_embeddings {
            add("lm_head".into(), Role::Head, &[self.vocab_size, hidden], None);
        }
        specs
    }
}

//! Grouped-query causal self-attention with rotary positions.

use ferrotune_torch::SharedTensor;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::{Rope, Rotations};
use crate::{
    Dims, Joint, KvCache, Pass, Projection, ProjectionBuilder, Result, Role, Site, Weights,
    config::ConfigFile,
};

/// The dimensions of an attention block, named as in checkpoints' configurations.
#[derive(Clone, Copy, Debug)]
pub struct AttentionConfig {
    /// Width of the states.
    pub hidden_size: i64,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Whether the four projections have biases.
    pub attention_bias: bool,
}

impl AttentionConfig {
    /// Reads the dimensions from a `config.json`; `attention_bias` is the family's to decide.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for sizes that are missing or do not divide one another.
    pub fn read(file: &ConfigFile, attention_bias: bool) -> Result<Self> {
        let hidden_size = file.size("hidden_size")?;
        let num_attention_heads = file.size("num_attention_heads")?;
        let num_key_value_heads = file.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads);
        if num_attention_heads % num_key_value_heads != 0 {
            let expected = format!("a divisor of num_attention_heads, {num_attention_heads}");
            return Err(file.refuse("num_key_value_heads", &json!(num_key_value_heads), &expected));
        }
        let head_dim = match file.optional_size("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
            None => {
                let expected = format!("a multiple of num_attention_heads, {num_attention_heads}");
                return Err(file.refuse("hidden_size", &json!(hidden_size), &expected));
            }
        };
        if head_dim % 2 != 0 {
            let expected = "an even number, since positions rotate pairs";
            return Err(file.refuse("head_dim", &json!(head_dim), expected));
        }
        Ok(Self { hidden_size, num_attention_heads, num_key_value_heads, head_dim, attention_bias })
    }
}

/// Causal self-attention: q, k, v, o.
#[derive(Debug)]
pub struct Attention {
    config: AttentionConfig,
    qkv: Box<dyn Joint>,
    o_proj: Box<dyn Projection>,
}

/// What all layers of one pass share: the rotations of the positions read, and who sees whom.
#[derive(Debug)]
pub struct AttentionContext {
    /// Tokens before these.
    start: i64,
    rotations: Rotations,
    visibility: Visibility,
}

#[derive(Debug)]
enum Visibility {
    /// Everybody sees everybody: one new token that continues a cache.
    All,
    /// Each position sees itself and what precedes it.
    Causal,
    /// True where the query of a row sees the key of a column, `[t, start + t]`.
    Mask(SharedTensor),
}

impl AttentionContext {
    /// The context of `count` tokens that follow `start` others. With a sliding window a token sees that many tokens
    /// including itself.
    pub fn new(
        rope: &Rope,
        start: i64,
        count: i64,
        sliding_window: Option<i64>,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let rotations = rope.rotations(start, count, kind, device)?;
        let all = start + count;
        let window = sliding_window.filter(|&window| window < all);
        let visibility = match window {
            None if count == 1 => Visibility::All,
            None if start == 0 => Visibility::Causal,
            _ => {
                let queries = Tensor::f_arange_start(start, all, (Kind::Int64, device))?.f_unsqueeze(1)?; // [t, 1]
                let keys = Tensor::f_arange(all, (Kind::Int64, device))?.f_unsqueeze(0)?; // [1, s]
                let mut mask = keys.f_le_tensor(&queries)?; // [t, s]
                if let Some(window) = window {
                    mask = mask.f_logical_and(&keys.f_gt_tensor(&queries.f_sub_scalar(window)?)?)?;
                }
                Visibility::Mask(mask.into())
            }
        };
        Ok(Self { start, rotations, visibility })
    }

    /// Tokens before these.
    #[must_use]
    pub fn start(&self) -> i64 {
        self.start
    }
}

impl Attention {
    /// Asks for `q_proj`, `k_proj`, `v_proj` and `o_proj` at `at`.
    pub fn build(
        config: AttentionConfig,
        at: &Weights<'_>,
        builder: &mut dyn ProjectionBuilder,
    ) -> Result<Self> {
        let AttentionConfig {
            hidden_size,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            attention_bias,
        } = config;
        let site = |out, input| Site::new(Role::Attention, Dims::new(out, input)).with_bias(attention_bias);
        let query = site(num_attention_heads * head_dim, hidden_size);
        let key_value = site(num_key_value_heads * head_dim, hidden_size);
        let output = site(hidden_size, num_attention_heads * head_dim);
        Ok(Self {
            config,
            qkv: builder.joint(&[(query, "q_proj"), (key_value, "k_proj"), (key_value, "v_proj")], at)?,
            o_proj: builder.projection(&output, &at.at("o_proj"))?,
        })
    }

    /// `[b, t, hidden]` to `[b, t, hidden]`. With a cache, keys and values of `layer` are appended to it.
    pub fn forward(
        &self,
        x: &Tensor,
        context: &AttentionContext,
        cache: Option<(&mut KvCache, usize)>,
        pass: &Pass,
    ) -> Result<Tensor> {
        let (b, t) = (x.size()[0], x.size()[1]);
        let AttentionConfig { num_attention_heads, num_key_value_heads, head_dim, .. } = self.config;
        let heads = |x: &Tensor, heads| x.f_view([b, t, heads, head_dim])?.f_transpose(1, 2); // [b, heads, t, head_dim]
        let qkv = self.qkv.forward(x, pass)?;
        let query = context.rotations.apply(&heads(&qkv[0], num_attention_heads)?)?;
        let mut key = context.rotations.apply(&heads(&qkv[1], num_key_value_heads)?)?;
        let mut value = heads(&qkv[2], num_key_value_heads)?;
        if let Some((cache, layer)) = cache {
            [key, value] = cache.append(layer, &key, &value)?; // [b, kv_heads, start + t, head_dim]
        }
        let (mask, is_causal) = match &context.visibility {
            Visibility::All => (None, false),
            Visibility::Causal => (None, true),
            Visibility::Mask(mask) => (Some(&**mask), false),
        };
        let grouped = num_key_value_heads != num_attention_heads;
        let mixed = Tensor::f_scaled_dot_product_attention(
            &query, &key, &value, mask, 0.0, is_causal, None, grouped,
        )?;
        let joined = mixed.f_transpose(1, 2)?.f_reshape([b, t, num_attention_heads * head_dim])?;
        self.o_proj.forward(&joined, pass)
    }
}

//! What a block keeps between forward and backward, as pure data: memory plans read it and need no model.

use crate::blocks::AttentionConfig;

/// What one block keeps for its backward pass, in numbers for each token, adapters aside.
///
/// A product with a frozen matrix keeps nothing; what is listed are the operands of norms, attention, activations and
/// element-wise products that libtorch's autograd saves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockPlan {
    /// Numbers in the compute type.
    pub kept: i64,
    /// Numbers in 32 bits whatever the compute type.
    pub kept_wide: i64,
    /// Numbers in the compute type that are gradients alive together in its backward pass.
    pub gradients: i64,
    /// What its projections read, each input once.
    pub inputs: Vec<ProjectionInput>,
}

/// A tensor that projections of a block read. An adapter may have to keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectionInput {
    /// Its width.
    pub width: i64,
    /// Rows of it for each token: the experts that a token is sent to, otherwise 1.
    pub rows: i64,
    /// Who reads it: for each projection the names of its weights, which are several where each expert has its own.
    pub readers: Vec<Vec<String>>,
}

impl BlockPlan {
    /// The shared first half of a block: two norms, attention and its projections. `at` is the block's path.
    ///
    /// Kept are the inputs of both norms (in 32 bits), rotated queries and keys, values, what attention gives, and a
    /// 32-bit logarithm of a sum for each head.
    #[must_use]
    pub fn attention(config: &AttentionConfig, at: &str) -> Self {
        let AttentionConfig { hidden_size, num_attention_heads, num_key_value_heads, head_dim, .. } = *config;
        let (query, key_value) = (num_attention_heads * head_dim, num_key_value_heads * head_dim);
        let module = |name: &str| vec![format!("{at}.self_attn.{name}.weight")];
        Self {
            kept: 2 * query + 2 * key_value,
            kept_wide: 2 * hidden_size + num_attention_heads,
            gradients: 2 * query + 2 * key_value,
            inputs: vec![
                ProjectionInput {
                    width: hidden_size,
                    rows: 1,
                    readers: ["q_proj", "k_proj", "v_proj"].map(module).to_vec(),
                },
                ProjectionInput { width: query, rows: 1, readers: vec![module("o_proj")] },
            ],
        }
    }

    /// With a gated MLP behind it, applied `rows` times to each token: the gate, its SiLU and the up projection are
    /// kept. `readers` are the weights of the projections in, and of the one out.
    #[must_use]
    pub fn with_gated_mlp(
        mut self,
        hidden_size: i64,
        intermediate_size: i64,
        rows: i64,
        [wide, narrow]: [Vec<Vec<String>>; 2],
    ) -> Self {
        let kept = 3 * intermediate_size * rows;
        self.kept += kept;
        self.gradients = self.gradients.max(kept);
        self.inputs.push(ProjectionInput { width: hidden_size, rows, readers: wide });
        self.inputs.push(ProjectionInput { width: intermediate_size, rows, readers: narrow });
        self
    }
}

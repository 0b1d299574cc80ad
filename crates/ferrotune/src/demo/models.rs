//! The two base models of the demo, as `config.json`.
//!
//! Fields are spelt as transformers 4 wrote them, which transformers 5 reads too; the reverse does not hold.

use serde_json::{Map, Value, json};

/// Id and text of the token that begins a sequence, as in LLaMA 2.
pub(super) const BOS: (u32, &str) = (1, "<s>");

/// Id and text of the token that ends a sequence.
pub(super) const EOS: (u32, &str) = (2, "</s>");

/// Positions of the models: over twice the longest page or record.
pub const MAX_POSITION_EMBEDDINGS: usize = 256;

/// A family that the demo compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Dense: two blocks of width 128, 662,144 weights in world 1.
    Llama,
    /// Sparse: the same with four experts of half the width, two of them for each token, and two heads of keys and
    /// values; 925,312 weights in world 1.
    Mixtral,
}

impl Family {
    /// Both families, in the order of the report.
    pub const ALL: [Self; 2] = [Self::Llama, Self::Mixtral];

    /// The `model_type`, which is also the name of the model's folder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mixtral => "mixtral",
        }
    }

    /// The `config.json` of the family's base model for a tokenizer of `vocabulary_size` ids.
    #[must_use]
    pub fn config(self, vocabulary_size: usize) -> Map<String, Value> {
        let (architecture, own) = match self {
            Self::Llama => {
                let own = json!({"intermediate_size": 384, "num_key_value_heads": 4, "attention_bias": false,
                    "mlp_bias": false});
                ("LlamaForCausalLM", own)
            }
            // The coefficient is Mixtral's published one. Transformers adds the balancing loss only where
            // `output_router_logits` is set: while growing, not while fine-tuning.
            Self::Mixtral => {
                let own = json!({"intermediate_size": 192, "num_key_value_heads": 2, "num_local_experts": 4,
                    "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02, "output_router_logits": false,
                    "sliding_window": null});
                ("MixtralForCausalLM", own)
            }
        };
        let common = json!({
            "architectures": [architecture],
            "model_type": self.name(),
            "torch_dtype": "float32",
            "vocab_size": vocabulary_size,
            "bos_token_id": BOS.0,
            "eos_token_id": EOS.0,
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": MAX_POSITION_EMBEDDINGS,
            // Written out for both: Mixtral's files mean 1,000,000 where they give none.
            "rope_theta": 10_000.0,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "initializer_range": 0.02,
            "tie_word_embeddings": false,
            "use_cache": true,
        });
        [common, own].into_iter().filter_map(|part| part.as_object().cloned()).flatten().collect()
    }
}

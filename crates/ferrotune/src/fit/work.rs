//! The floating-point operations of a fine-tuning run.

use ferrotune_adapters::Adaptation;
use ferrotune_nn::{Role, seam::Recompute};
use serde::Serialize;

use super::{FitConfig, as_built, planned};
use crate::{Architecture, AutoCausalLm, Result};

/// Floating-point operations of one token in training; a multiplication and an addition are two.
///
/// A frozen matrix costs a product forward and one backward, a trained one a second one backward. Of a mixture only the
/// experts that a token is sent to count. Attention counts all pairs of positions, also those that a causal kernel
/// skips. The head counts for every token; prompts that are not supervised cost less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Of the forward pass.
    pub forward: u64,
    /// Of the backward pass, with what is computed again.
    pub backward: u64,
}

impl Work {
    /// The work of a run.
    ///
    /// # Errors
    /// As [`MemoryPlan::new`](super::MemoryPlan::new).
    pub fn new(model: &AutoCausalLm, config: &FitConfig) -> Result<Self> {
        let untied = as_built(model, config)?;
        let model = untied.as_ref().unwrap_or(model);
        let specs = model.weights();
        let (layers, attention_width, held, chosen) = match model.architecture() {
            Architecture::Llama2(model) => {
                (model.num_hidden_layers, model.num_attention_heads * model.head_dim, 1, 1)
            }
            Architecture::Mixtral(model) => (
                model.num_hidden_layers,
                model.num_attention_heads * model.head_dim,
                model.num_local_experts as u64,
                model.num_experts_per_tok as u64,
            ),
        };
        let of_token = |role: Role, count: u64| match role {
            Role::Expert => count * chosen / held,
            _ => count,
        };
        let tied = !specs.iter().any(|spec| spec.role == Role::Head);
        let (mut head, mut frozen, mut trained) = (0, 0, 0);
        for spec in specs.iter().filter(|spec| spec.shape.len() == 2) {
            let count = of_token(spec.role, spec.shape.iter().product::<i64>() as u64);
            match spec.role {
                Role::Embedding if !tied => {}
                Role::Embedding | Role::Head => head += count,
                _ => frozen += count,
            }
        }
        for site in planned(config, &specs)? {
            match (site.role, site.adaptation) {
                (Role::Embedding | Role::Norm, _) | (_, Adaptation::Bias) => {}
                (role, _) => trained += of_token(role, site.parameters),
            }
        }
        let low_rank = if config.adapter.is_some() { trained } else { 0 };
        // Two products of one pair of positions for each layer; backward computes the scores again and two for each.
        let attention = layers as u64 * 4 * config.sequence_length * attention_width as u64;
        let blocks = 2 * (frozen + low_rank) + attention;
        let again = if config.recompute == Recompute::Blocks { blocks } else { 0 };
        Ok(Self {
            forward: blocks + 2 * head,
            backward: 2 * (frozen + head + low_rank + trained) + attention * 5 / 2 + again,
        })
    }

    /// Forward and backward.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.forward + self.backward
    }

    /// Hours for a number of tokens at a sustained rate of operations per second.
    #[must_use]
    pub fn hours(&self, tokens: f64, operations_per_second: f64) -> f64 {
        self.total() as f64 * tokens / operations_per_second / 3600.0
    }
}

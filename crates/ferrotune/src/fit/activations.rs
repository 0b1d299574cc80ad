//! What a model and its adapter keep between forward and backward.
//!
//! The models say what their blocks keep ([`BlockPlan`]). A product of low rank adds its input and its inner vector, in 32
//! bits; dropout adds its noise. Without dropout, an input that is in 32 bits already is kept once for all that read it.

use std::collections::HashMap;

use ferrotune_adapters::{Adaptation, PlannedSite};
use ferrotune_nn::{
    plan::{BlockPlan, ProjectionInput},
    seam::Recompute,
};
use tch::Device;

use super::FitConfig;
use crate::AutoCausalLm;

const FLOAT_BYTES: u64 = 4;

/// Bytes of a micro-batch.
#[derive(Debug)]
pub(super) struct Activations {
    /// What is kept for the backward pass, of all blocks and behind them.
    pub(super) kept: u64,
    /// What one block keeps while it is computed again; 0 where none is.
    pub(super) recomputed: u64,
    /// Gradients alive together inside a block's backward pass.
    pub(super) gradients: u64,
    /// Log-probabilities, their gradient and the gradient of the logits, all alive when the backward pass begins.
    pub(super) logits: u64,
}

impl Activations {
    pub(super) fn new(model: &AutoCausalLm, config: &FitConfig, sites: &[PlannedSite]) -> Self {
        let tokens = config.batch_size.saturating_mul(config.sequence_length);
        let kind = config.kind.elt_size_in_bytes() as u64;
        let changes: HashMap<&str, &PlannedSite> =
            sites.iter().map(|site| (site.weight.as_str(), site)).collect();
        let of_block = |plan: &BlockPlan| {
            let adapted: u64 = plan.inputs.iter().map(|input| kept_of_input(input, &changes, config)).sum();
            plan.kept as u64 * kind + plan.kept_wide as u64 * FLOAT_BYTES + adapted
        };
        let plans = model.block_plans();
        let blocks: Vec<u64> = plans.iter().map(of_block).collect();
        let gradients = plans.iter().map(|plan| plan.gradients as u64 * kind).max().unwrap_or(0);
        let hidden = model.hidden_size() as u64;
        // Behind the blocks: the last norm's input in 32 bits, and the states that the head reads.
        let behind = hidden * (FLOAT_BYTES + kind);
        let (kept, recomputed) = match config.recompute {
            Recompute::Nothing => (blocks.iter().sum(), 0),
            Recompute::Blocks => {
                (blocks.len() as u64 * hidden * kind, blocks.iter().copied().max().unwrap_or(0))
            }
        };
        Self {
            kept: tokens * (kept + behind),
            recomputed: tokens * recomputed,
            gradients: tokens * gradients,
            logits: 3 * tokens * model.vocabulary_size() as u64 * FLOAT_BYTES,
        }
    }
}

/// Bytes that are kept of an input, for one token, because of what reads it.
fn kept_of_input(input: &ProjectionInput, changes: &HashMap<&str, &PlannedSite>, config: &FitConfig) -> u64 {
    let kind = config.kind.elt_size_in_bytes() as u64;
    let adapter = config.adapter.as_ref();
    let dropout = adapter.is_some_and(|adapter| adapter.lora_dropout > 0.0);
    // On a CPU dropout keeps its noise in 32 bits, on a device a byte for each element.
    let noise = if config.device == Device::Cpu { FLOAT_BYTES } else { 1 };
    let (width, rows) = (input.width as u64, input.rows as u64);
    let (mut bytes, mut is_kept) = (0, false);
    for weights in &input.readers {
        let found = || weights.iter().filter_map(|weight| changes.get(weight.as_str()));
        is_kept |= found().any(|site| site.adaptation == Adaptation::Saved);
        let low_rank = found().filter_map(|site| match site.adaptation {
            Adaptation::LowRank { rank, .. } => Some((rank as u64, site.shape[0] as u64)),
            _ => None,
        });
        let Some((rank, out_features)) = low_rank.max() else { continue };
        bytes += rank * FLOAT_BYTES;
        if adapter.is_some_and(|adapter| adapter.use_dora) {
            bytes += out_features * FLOAT_BYTES; // what the magnitudes are multiplied with
        }
        if dropout {
            bytes += width * (noise + FLOAT_BYTES);
        } else if kind != FLOAT_BYTES {
            bytes += width * FLOAT_BYTES;
        } else {
            is_kept = true;
        }
    }
    rows * (bytes + if is_kept { width * kind } else { 0 })
}

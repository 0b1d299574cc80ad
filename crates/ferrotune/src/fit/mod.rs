//! Whether a fine-tuning run fits into a budget of memory, and how long it would take, from `config.json` alone.
//!
//! [`MemoryPlan`] adds up what a run holds at its peak, part by part; [`Work`] counts the floating-point operations of a
//! token. Both follow what this project's models keep and compute, operation by operation, so they change with them:
//! tests hold the plan against the measured peak of real runs and the operations against those that libtorch counted.

mod activations;
mod work;

use std::collections::HashMap;

use ferrotune_adapters::{Adaptation, LoraConfig, Nf4, PlannedSite, Quantization};
use ferrotune_nn::{Role, WeightSpec, seam::Recompute};
use serde::Serialize;
use tch::{Device, Kind};

use crate::{AutoCausalLm, Error, Result, adapted::untied};
use activations::Activations;

pub use work::Work;

/// Host memory of a process beside its tensors: libtorch's libraries, the tokenizer, the program itself.
///
/// 115 to 160 MB on x86-64 Linux with libtorch 2.11.0.
const HOST_PROGRAM_BYTES: u64 = 140_000_000;

/// Device memory of a CUDA context with libtorch's kernels and cuBLAS' workspace, outside of libtorch's allocator.
const CUDA_PROGRAM_BYTES: u64 = 600_000_000;

/// Bytes of a trained number: the value, its gradient, and the two moments of AdamW, all in 32 bits.
const TRAINED_BYTES: u64 = 4;

/// The settings of a run that decide what it needs.
#[derive(Clone, Debug)]
pub struct FitConfig {
    /// What trains; nothing for training all weights.
    pub adapter: Option<LoraConfig>,
    /// How the base's matrices are kept; nothing for dense ones.
    pub quantization: Option<Quantization>,
    /// Type of dense weights and of activations.
    pub kind: Kind,
    /// Where it runs.
    pub device: Device,
    /// Rows of a micro-batch.
    pub batch_size: u64,
    /// Tokens of its longest row.
    pub sequence_length: u64,
    /// Whether blocks keep their inputs only.
    pub recompute: Recompute,
}

/// The bytes that a run holds at its peak, by part.
///
/// Parts are what is alive at one moment, the peak; they add up to [`total`](Self::total). On a CUDA device, `program`
/// is the context's share and everything else lies in libtorch's allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// The base's weights: packed codes of quantized matrices, all others in the compute type.
    pub weights: u64,
    /// Scales of quantized matrices.
    pub scales: u64,
    /// What trains, in 32 bits.
    pub adapters: u64,
    /// Its gradients.
    pub gradients: u64,
    /// AdamW's two moments.
    pub optimizer: u64,
    /// What the blocks keep for the backward pass, or the part of it that is still kept at the peak.
    pub activations: u64,
    /// Logits, their probabilities and their gradient, in 32 bits.
    pub logits: u64,
    /// Memory that is used for a moment: a matrix being dequantized, the gradients inside a block, a weight being loaded.
    pub buffers: u64,
    /// The process itself, or the CUDA context.
    pub program: u64,
}

impl MemoryPlan {
    /// The plan of a run.
    ///
    /// # Errors
    /// An adapter's configuration that makes no sense or matches nothing in this model; experts whose rows the block size does not
    /// divide.
    pub fn new(model: &AutoCausalLm, config: &FitConfig) -> Result<Self> {
        let untied = as_built(model, config)?;
        let model = untied.as_ref().unwrap_or(model);
        let specs = model.weights();
        let sites = planned(config, &specs)?;
        let bytes_of_kind = config.kind.elt_size_in_bytes() as u64;
        let mut plan = Self {
            program: if config.device == Device::Cpu { HOST_PROGRAM_BYTES } else { CUDA_PROGRAM_BYTES },
            ..Self::default()
        };
        let (mut largest_packed, mut largest_dense) = (0, 0);
        for spec in &specs {
            let count = spec.shape.iter().product::<i64>() as u64;
            match config.quantization.as_ref().filter(|_| is_quantized(spec)) {
                Some(quantization) => {
                    refuse_blocks_across_rows(model, spec, quantization)?;
                    let scales = quantization.scale_bytes(count);
                    plan.weights += quantization.bytes(count) - scales;
                    plan.scales += scales;
                    largest_packed = largest_packed.max(count);
                }
                None => {
                    plan.weights += count * bytes_of_kind;
                    largest_dense = largest_dense.max(count * bytes_of_kind);
                }
            }
        }
        let trained: u64 = sites.iter().map(|site| site.parameters).sum();
        if config.adapter.is_some() {
            plan.adapters = trained * TRAINED_BYTES;
        }
        plan.gradients = trained * TRAINED_BYTES;
        plan.optimizer = 2 * trained * TRAINED_BYTES;

        let largest_packed = largest_packed.max(largest_experts(model, config, &specs));
        let Activations { kept, recomputed, gradients, logits } = Activations::new(model, config, &sites);
        let dequantized = largest_packed * bytes_of_kind;
        // The moments at which the most may be held. The first has everything the forward pass kept and the gradient of the
        // logits; the second, with recomputation, one whole block again beside what is kept of the others; the third is
        // the end of loading, with one weight as it was read and as it is kept.
        let moments = [
            Self { activations: kept, logits, buffers: dequantized, ..plan },
            Self { activations: kept + recomputed, buffers: dequantized + gradients, ..plan },
            Self {
                gradients: 0,
                optimizer: 0,
                buffers: 2 * largest_dense.max(largest_packed * bytes_of_kind),
                ..plan
            },
        ];
        Ok(moments.into_iter().max_by_key(Self::total).unwrap_or(plan))
    }

    /// Every part with its name, in the order in which they are declared.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, u64); 9] {
        let Self { weights, scales, adapters, gradients, optimizer, activations, logits, buffers, program } =
            *self;
        [
            ("weights", weights),
            ("scales", scales),
            ("adapters", adapters),
            ("gradients", gradients),
            ("optimizer", optimizer),
            ("activations", activations),
            ("logits", logits),
            ("buffers", buffers),
            ("program", program),
        ]
    }

    /// All parts together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl MemoryPlan {
    /// Refuses a plan that needs more than `limit` bytes.
    ///
    /// # Errors
    /// [`Error::MemoryLimit`] with every part.
    pub fn check(&self, limit: u64) -> Result<()> {
        if self.total() <= limit {
            return Ok(());
        }
        let mut parts = self.parts();
        parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let parts: Vec<String> = parts
            .iter()
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(name, bytes)| format!("{name} {bytes}"))
            .collect();
        Err(Error::MemoryLimit { needed: self.total(), limit, parts: parts.join(", ") })
    }
}

/// What trains. Where there is no adapter, every weight does.
/// The untied form of a tied model whose head or embedding the adapter changes: what a run builds.
fn as_built(model: &AutoCausalLm, config: &FitConfig) -> Result<Option<AutoCausalLm>> {
    match &config.adapter {
        None => Ok(None),
        Some(adapter) => untied(model, adapter),
    }
}

/// What loading would refuse. A folder that is in 4 bits already keeps its own blocks.
fn refuse_blocks_across_rows(model: &AutoCausalLm, spec: &WeightSpec, settings: &Quantization) -> Result<()> {
    let (columns, block_size) = (spec.shape[1], settings.block_size.get());
    if spec.role != Role::Expert
        || model.quantization().is_some()
        || (columns as usize).is_multiple_of(block_size)
    {
        return Ok(());
    }
    let place = format!("`{}`", model.folder().display());
    Err(ferrotune_adapters::Error::BlockAcrossRows { name: spec.name.clone(), place, columns, block_size }
        .into())
}

fn planned(config: &FitConfig, specs: &[WeightSpec]) -> Result<Vec<PlannedSite>> {
    let Some(adapter) = &config.adapter else {
        return Ok(specs
            .iter()
            .map(|spec| PlannedSite {
                weight: spec.name.clone(),
                role: spec.role,
                shape: spec.shape.clone(),
                adaptation: Adaptation::Saved,
                parameters: spec.shape.iter().product::<i64>() as u64,
            })
            .collect());
    };
    Ok(adapter.planned(specs)?)
}

/// Weights of the largest set of expert matrices that are decoded together: one expert's that read one input, or in bf16 on
/// CUDA those of all experts of a block, for one grouped product. 0 for dense models.
fn largest_experts(model: &AutoCausalLm, config: &FitConfig, specs: &[WeightSpec]) -> u64 {
    if config.quantization.is_none() {
        return 0;
    }
    let counts: HashMap<&str, u64> = specs
        .iter()
        .filter(|spec| spec.role == Role::Expert)
        .map(|spec| (spec.name.as_str(), spec.shape.iter().product::<i64>() as u64))
        .collect();
    let together = config.device != Device::Cpu && config.kind == Kind::BFloat16;
    let of_reader = |weights: &Vec<String>| -> u64 {
        let counted = weights.iter().filter_map(|weight| counts.get(weight.as_str()));
        counted.take(if together { weights.len() } else { 1 }).sum()
    };
    let plans = model.block_plans();
    let inputs = plans.iter().flat_map(|plan| &plan.inputs);
    inputs.map(|input| input.readers.iter().map(of_reader).sum()).max().unwrap_or(0)
}

fn is_quantized(spec: &WeightSpec) -> bool {
    Nf4::quantizes(spec.role) && spec.shape.len() == 2
}

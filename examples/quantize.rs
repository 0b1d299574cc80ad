//! A model with its matrices in 4 bits.

mod cli;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use ferrotune::{
    AutoCausalLm,
    adapters::{
        BlockSize, Codebook, Quantization,
        bitsandbytes::{Quantized, RoleCount},
    },
    nn::Role,
};
use serde::Serialize;

/// Writes a model folder with the matrices of attention, MLPs and experts in 4 bits, as transformers and bitsandbytes read
/// it.
///
/// Embeddings, norms, routers and the head stay as they are. Each tensor is read, quantized and written before the next.
#[derive(Debug, Parser)]
#[command(next_help_heading = "Quantizing")]
struct Flags {
    #[command(flatten)]
    common: cli::Common,
    /// Which sixteen numbers a code can stand for
    #[arg(long = "type", value_name = "TYPE", default_value = "nf4",
          value_parser = cli::words(&[("nf4", Codebook::Nf4), ("fp4", Codebook::Fp4)]))]
    codebook: Codebook,
    /// Keeps the scales in 8 bits: 4.127 bits a weight in blocks of 64, instead of 4.5
    #[arg(long)]
    double_quant: bool,
    /// Weights that share a scale: a power of two from 32 to 4096
    #[arg(long, value_name = "N", default_value_t = 64)]
    block_size: usize,
    /// Begins a new file beyond this size; 5 GB where absent
    #[arg(long, value_name = "BYTES")]
    max_shard_size: Option<u64>,
    /// Folder to write, complete or not at all
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Replaces an output folder that is not empty
    #[arg(long)]
    force: bool,
}

/// The last line of standard output.
#[derive(Debug, Serialize)]
struct Summary {
    output: PathBuf,
    /// Bytes of all tensors before.
    bytes_before: u64,
    /// Bytes of all tensors after, scales and maps included.
    bytes_after: u64,
    /// Tensors by what they are for.
    tensors: Vec<Tensors>,
    /// Weights that are in 4 bits now.
    quantized_weights: u64,
    /// Mean magnitude by which those moved.
    mean_absolute_error: f64,
    /// Largest magnitude by which one moved.
    max_absolute_error: f64,
    /// Norm of the difference over the norm of the weights, all tensors together.
    relative_error: f64,
    /// The largest relative error of one tensor.
    max_relative_error: f64,
    /// The tensor that has it.
    worst_tensor: Option<String>,
}

#[derive(Debug, Serialize)]
struct Tensors {
    role: &'static str,
    quantized: usize,
    kept: usize,
}

fn main() -> ExitCode {
    cli::run(quantize)
}

fn quantize(flags: Flags) -> cli::Result<Summary> {
    let settings = Quantization {
        codebook: flags.codebook,
        block_size: BlockSize::new(flags.block_size)?,
        double_quantization: flags.double_quant,
    };
    let model = AutoCausalLm::open(&flags.common.model)?;
    flags.common.compute.resolve()?;
    cli::refuse_inputs(&flags.output, &[&flags.common.model])?;
    let done = cli::write_folder(&flags.output, flags.force, |folder| {
        Ok(ferrotune::quantize(&model, &settings, flags.max_shard_size, folder)?)
    })?;
    Ok(summary(flags.output, done))
}

fn summary(output: PathBuf, done: Quantized) -> Summary {
    let tensors = |count: &RoleCount| Tensors {
        role: match count.role {
            Role::Embedding => "embedding",
            Role::Norm => "norm",
            Role::Attention => "attention",
            Role::Mlp => "mlp",
            Role::Expert => "expert",
            Role::Router => "router",
            Role::Head => "head",
        },
        quantized: count.quantized,
        kept: count.kept,
    };
    let (worst_tensor, max_relative_error) = done.worst.unzip();
    Summary {
        output,
        bytes_before: done.bytes_before,
        bytes_after: done.bytes_after,
        tensors: done.roles.iter().map(tensors).collect(),
        quantized_weights: done.deviation.weights,
        mean_absolute_error: done.deviation.mean_absolute(),
        max_absolute_error: done.deviation.max_absolute,
        relative_error: done.deviation.relative(),
        max_relative_error: max_relative_error.unwrap_or(0.0),
        worst_tensor,
    }
}

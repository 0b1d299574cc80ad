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
    /// Which sixteen numbers a code can stand for
    #[arg(long = "type", value_name = "TYPE", default_value = "nf4",
          value_parser = cli::words(&[("nf4", Codebook::Nf4), ("fp4", Codebook::Fp4)]))]
    codebook: Codebook,
    #[command(flatten)]
    blocks: cli::BlockFlags,
    /// Begins a new file beyond this size, such as 2GB; 5 GB where absent
    #[arg(long, value_name = "BYTES", value_parser = cli::bytes)]
    max_shard_size: Option<u64>,
    #[command(flatten)]
    output: cli::OutputFlags,
    #[command(flatten)]
    common: cli::Common<cli::HostFlags>,
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
    /// Matrices in 4 bits whose rows are no whole blocks; bitsandbytes' compiled CPU kernels decode these wrongly.
    blocks_across_rows: usize,
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
    let settings = flags.blocks.quantization(flags.codebook)?;
    let model = AutoCausalLm::open(&flags.common.model)?;
    flags.common.compute.resolve(cli::AUTO)?;
    let done = flags.output.write(&[&flags.common.model], |folder| {
        Ok(ferrotune::quantize(&model, &settings, flags.max_shard_size, folder)?)
    })?;
    say_blocks_across_rows(&model, &settings, &done);
    Ok(summary(flags.output.output, done))
}

/// Says what bitsandbytes cannot decode everywhere, and what could be done.
fn say_blocks_across_rows(model: &AutoCausalLm, settings: &Quantization, done: &Quantized) {
    let Some(first) = done.blocks_across_rows.first() else { return };
    let size = settings.block_size.get();
    let specs = model.weights();
    let rows = |name: &String| specs.iter().find(|spec| spec.name == *name).map_or(0, |spec| spec.shape[1]);
    let fits = |other: &BlockSize| {
        let across = |name| !(rows(name) as usize).is_multiple_of(other.get());
        other.get() < size && !done.blocks_across_rows.iter().any(across)
    };
    let remedy = match BlockSize::ALL.into_iter().rev().find(fits) {
        Some(other) => format!("--block-size {} avoids it", other.get()),
        None => "no block size avoids it".to_owned(),
    };
    cli::say(&format!(
        "{} of {} matrices in 4 bits have rows that are no multiple of {size} weights, the first `{first}` with {}: \
         bitsandbytes' compiled CPU kernels decode such matrices wrongly; its CUDA and its default backend do not, nor does Ferrotune; {remedy}",
        done.blocks_across_rows.len(),
        done.roles.iter().map(|count| count.quantized).sum::<usize>(),
        rows(first),
    ));
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
        blocks_across_rows: done.blocks_across_rows.len(),
        quantized_weights: done.deviation.weights,
        mean_absolute_error: done.deviation.mean_absolute(),
        max_absolute_error: done.deviation.max_absolute,
        relative_error: done.deviation.relative(),
        max_relative_error: max_relative_error.unwrap_or(0.0),
        worst_tensor,
    }
}

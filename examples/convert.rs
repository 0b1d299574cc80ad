//! An adapter of experts in another layout.

mod cli;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use ferrotune::{
    AutoCausalLm,
    adapters::{AdapterWeights, ExpertLayout},
};
use serde::Serialize;

/// Writes a PEFT adapter with what it adds to experts in the other of PEFT's layouts; no weight is rounded.
///
/// `per-expert` has a pair of factors for each matrix of each expert, as PEFT wrote on transformers 4 and most other
/// programs read. `flat` has one pair for all experts of a stacked parameter, as PEFT's `target_parameters` writes on
/// transformers 5. Where `w1` and `w3` have factors of their own, their rank doubles in the flat layout.
#[derive(Debug, Parser)]
#[command(next_help_heading = "Converting")]
struct Flags {
    /// PEFT folder of the adapter
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The layout to write
    #[arg(long, value_name = "LAYOUT",
          value_parser = cli::words(&[("per-expert", ExpertLayout::PerExpert), ("flat", ExpertLayout::Flat)]))]
    to: ExpertLayout,
    #[command(flatten)]
    output: cli::OutputFlags,
    #[command(flatten)]
    common: cli::Common<cli::HostFlags>,
}

/// The last line of standard output.
#[derive(Debug, Serialize)]
struct Converted {
    output: PathBuf,
    /// Tensors read.
    tensors_before: usize,
    /// Tensors written.
    tensors_after: usize,
    /// The ranks that differ from the general one, by the pattern that says where.
    rank_pattern: Vec<(String, i64)>,
}

fn main() -> ExitCode {
    cli::run(convert)
}

fn convert(flags: Flags) -> cli::Result<Converted> {
    let model = AutoCausalLm::open(&flags.common.model)?;
    let adapter = AdapterWeights::open(&flags.adapter)?;
    flags.common.compute.resolve(cli::AUTO)?;
    let converted = flags.output.write(&[&flags.common.model, &flags.adapter], |folder| {
        let converted = adapter.with_expert_layout(flags.to, &model.weights())?;
        converted.save(folder)?;
        Ok(converted)
    })?;
    Ok(Converted {
        output: flags.output.output,
        tensors_before: adapter.tensors().len(),
        tensors_after: converted.tensors().len(),
        rank_pattern: converted.config().rank_pattern.clone(),
    })
}

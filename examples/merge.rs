//! A model with an adapter added to its weights.

mod cli;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use ferrotune::{AutoCausalLm, adapters::AdapterWeights};
use serde::Serialize;

/// Adds a PEFT adapter to a model's weights and writes a Hugging Face folder that needs no adapter.
///
/// Each weight is computed in 32 bits and rounded once to the type it is stored in. The tokenizer comes along.
#[derive(Debug, Parser)]
#[command(next_help_heading = "Merging")]
struct Flags {
    #[command(flatten)]
    common: cli::Common,
    /// PEFT folder of the adapter
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Folder to write, complete or not at all
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Replaces an output folder that is not empty
    #[arg(long)]
    force: bool,
}

/// The last line of standard output.
#[derive(Debug, Serialize)]
struct Merged {
    output: PathBuf,
    /// Tensors that something was added to.
    changed: usize,
    /// Tensors that the adapter replaced.
    replaced: usize,
    /// Tensors copied as they were.
    copied: usize,
}

fn main() -> ExitCode {
    cli::run(merge)
}

fn merge(flags: Flags) -> cli::Result<Merged> {
    let model = AutoCausalLm::open(&flags.common.model)?;
    let adapter = AdapterWeights::open(&flags.adapter)?;
    flags.common.compute.resolve()?;
    cli::refuse_inputs(&flags.output, &[&flags.common.model, &flags.adapter])?;
    let merged = cli::write_folder(&flags.output, flags.force, |folder| {
        Ok(ferrotune::merge(&model, &adapter, folder)?)
    })?;
    let ferrotune::adapters::Merged { changed, replaced, copied } = merged;
    Ok(Merged { output: flags.output, changed, replaced, copied })
}

//! A mixture of experts grown from a dense model.

mod cli;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use ferrotune::{AutoCausalLm, Upcycle, copy_companions};
use serde::Serialize;

/// Writes a Mixtral whose experts all start as the dense model's MLP; the router is drawn by `--seed`.
///
/// It gives the dense model's logits until it is trained. The tokenizer comes along.
#[derive(Debug, Parser)]
#[command(next_help_heading = "Upcycling")]
struct Flags {
    #[command(flatten)]
    common: cli::Common,
    /// Experts in each block
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true)]
    experts: i64,
    /// Experts that a token is sent to
    #[arg(long, value_name = "K", default_value_t = 2, allow_negative_numbers = true)]
    top_k: i64,
    #[command(flatten)]
    output: cli::OutputFlags,
}

/// The last line of standard output.
#[derive(Debug, Serialize)]
struct Grown {
    output: PathBuf,
    parameters: u64,
    /// Those that one token crosses.
    active_parameters: u64,
}

fn main() -> ExitCode {
    cli::run(upcycle)
}

fn upcycle(flags: Flags) -> cli::Result<Grown> {
    let dense = AutoCausalLm::open(&flags.common.model)?;
    flags.common.compute.resolve()?;
    let plan = Upcycle { experts: flags.experts, top_k: flags.top_k, seed: flags.common.compute.seed };
    let (parameters, active_parameters) = flags.output.write(&[&flags.common.model], |folder| {
        ferrotune::upcycle(&dense, &plan, folder)?;
        copy_companions(dense.folder(), folder)?;
        Ok(AutoCausalLm::open(folder)?.parameters())
    })?;
    Ok(Grown { output: flags.output.output, parameters, active_parameters })
}

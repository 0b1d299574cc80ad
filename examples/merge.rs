//! A model with adapters added to its weights.

mod cli;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use ferrotune::{
    AutoCausalLm, Quantize,
    adapters::{MergeBase, MergeOptions},
};
use serde::Serialize;

/// Adds PEFT adapters to a model's weights and writes a Hugging Face folder that needs no adapter.
///
/// Each weight is computed in 32 bits and rounded once: to the type it is stored in, or to `--dtype`. An adapter that was
/// trained with `--quantize nf4` fits dequantize(quantize(W)) better than W: `--quantized-base nf4` adds it to that. What
/// a folder holds in 4 bits is dequantized in any case. The tokenizer comes along.
#[derive(Debug, Parser)]
#[command(next_help_heading = "Merging")]
struct Flags {
    /// Type to write; `auto` is the type in which each weight is stored
    #[arg(long, default_value = cli::AUTO, value_parser = cli::DTYPES)]
    dtype: String,
    /// PEFT folder of the adapter; several are added up
    #[arg(long, value_name = "DIR", required = true)]
    adapter: Vec<PathBuf>,
    #[command(flatten)]
    other: cli::OtherBase,
    /// What the adapters are added to: the weights as they are, or put into 4 bits and back
    #[arg(long, value_name = "TYPE", value_parser = cli::words(&cli::FORMATS))]
    quantized_base: Option<Quantize>,
    #[command(flatten)]
    blocks: cli::BlockFlags,
    #[command(flatten)]
    output: cli::OutputFlags,
    #[command(flatten)]
    common: cli::Common<cli::HostFlags>,
}

/// The last line of standard output.
#[derive(Debug, Serialize)]
struct Merged {
    output: PathBuf,
    /// What the adapters were added to.
    base: String,
    /// What each adapter says that it was trained on.
    trained_on: Vec<Option<String>>,
    /// Tensors that something was added to.
    changed: usize,
    /// Tensors that an adapter replaced.
    replaced: usize,
    /// Tensors that no adapter changed.
    copied: usize,
    /// Of all of them, those whose base came out of 4 bits.
    dequantized: usize,
}

fn main() -> ExitCode {
    cli::run(merge)
}

fn merge(flags: Flags) -> cli::Result<Merged> {
    let base = flags.blocks.config("--quantized-base", flags.quantized_base)?;
    let base = base.quantization()?.map_or(MergeBase::AsStored, MergeBase::Quantized);
    let model = AutoCausalLm::open(&flags.common.model)?;
    if model.quantization().is_some() && matches!(base, MergeBase::Quantized(_)) {
        return Err(format!(
            "`{}` is in 4 bits already, and is merged onto as it is; leave --quantized-base out",
            flags.common.model.display()
        )
        .into());
    }
    let adapters = flags
        .adapter
        .iter()
        .map(|folder| flags.other.open(folder, &model))
        .collect::<cli::Result<Vec<_>>>()?;
    let kind = flags.common.compute.resolve(&flags.dtype)?;
    let options = MergeOptions { base, kind: (flags.dtype != cli::AUTO).then_some(kind) };
    let inputs: Vec<_> =
        std::iter::once(&flags.common.model).chain(&flags.adapter).map(PathBuf::as_path).collect();
    let merged = flags.output.write(&inputs, |folder| {
        Ok(ferrotune::merge(&model, &adapters.iter().collect::<Vec<_>>(), &options, folder)?)
    })?;
    let ferrotune::adapters::Merged { changed, replaced, copied, dequantized } = merged;
    let trained_on =
        adapters.iter().map(|adapter| adapter.config().base_model_name_or_path.clone()).collect();
    let base = ferrotune::merge_base(&model, base);
    Ok(Merged { output: flags.output.output, base, trained_on, changed, replaced, copied, dequantized })
}

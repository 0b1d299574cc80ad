//! What a fine-tuning run would need, from a configuration alone.

mod cli;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;
use ferrotune::{
    AutoCausalLm, Compute, DataConfig, Error, FitConfig, MemoryPlan, Work, device_name, kind_name,
    nn::seam::Recompute,
    study::AdapterConfig,
    tch::{Device, Kind, Tensor},
    torch::memory,
    trainer::TrainingConfig,
};
use indicatif::HumanBytes;
use serde::Serialize;

/// Says what a fine-tuning run would need, part by part, whether it fits into a budget, and how long it would take.
///
/// Reads `config.json` and nothing else: no weights, no data, no device (unless it is asked to measure one).
#[derive(Debug, Parser)]
struct Flags {
    /// Model folder, or the `config.json` of one
    #[arg(long, value_name = "DIR|FILE")]
    model: PathBuf,
    /// TOML file with flags, without their dashes in front; flags on the command line win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Memory that there is, such as 80GiB, 24GB or a number of bytes
    #[arg(long, value_name = "BYTES", value_parser = cli::bytes)]
    budget: Option<u64>,
    #[command(flatten)]
    base: cli::BaseFlags,
    #[command(flatten)]
    adapter: AdapterFlags,
    #[command(flatten)]
    run: RunFlags,
    #[command(flatten)]
    time: TimeFlags,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Adapter")]
struct AdapterFlags {
    /// Rank
    #[arg(long, default_value_t = AdapterConfig::default().rank, allow_negative_numbers = true)]
    rank: i64,
    /// Dropout on the added product's input
    #[arg(long, default_value_t = AdapterConfig::default().dropout, allow_negative_numbers = true)]
    dropout: f64,
    /// Modules by name, separated by commas; or `all-linear`, `peft-all-linear`, or a regular expression
    #[arg(long, value_name = "NAMES", default_value = "q_proj,v_proj")]
    target_modules: String,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Run")]
struct RunFlags {
    /// Where it would run: `cpu` or `cuda`
    #[arg(long, default_value = "cuda", value_parser = cli::words(&DEVICES))]
    device: Device,
    /// Type of dense weights and of activations; `auto` is f32 on a CPU and bf16 on CUDA
    // Spelt out, since clap would take a plain `Option` for a flag that may be absent; here it is what `auto` means.
    #[arg(long, default_value = "auto", value_parser = cli::words(&KINDS))]
    dtype: std::option::Option<Kind>,
    /// Records per micro-batch
    #[arg(long, default_value_t = TrainingConfig::default().batch_size)]
    batch_size: usize,
    /// Tokens of the longest record
    #[arg(long, default_value_t = DataConfig::default().max_seq_length)]
    max_seq_length: usize,
    /// Keeps only the blocks' inputs and computes the rest again in the backward pass
    #[arg(long)]
    gradient_checkpointing: bool,
}

const DEVICES: [(&str, Device); 2] = [("cpu", Device::Cpu), ("cuda", Device::Cuda(0))];
const KINDS: [(&str, Option<Kind>); 4] =
    [("auto", None), ("f32", Some(Kind::Float)), ("bf16", Some(Kind::BFloat16)), ("f16", Some(Kind::Half))];

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Time")]
struct TimeFlags {
    /// Tokens to train on, all epochs together, such as 40e6: how long would they take at the rate given or measured?
    #[arg(long, value_name = "NUMBER", value_parser = above_zero)]
    tokens: Option<f64>,
    /// Floating-point operations per second that the run would sustain, such as 120e12; half of what a data sheet promises
    /// is a good result
    #[arg(long, value_name = "NUMBER", value_parser = above_zero, conflicts_with = "measure", requires = "tokens")]
    operations_per_second: Option<f64>,
    /// Measures them here instead, on dense products in the run's type on its device: an upper bound
    #[arg(long)]
    measure: bool,
}

/// The last line of standard output.
#[derive(Debug, Serialize)]
struct Fit {
    /// Bytes by part; they add up to `total_bytes`.
    parts: MemoryPlan,
    total_bytes: u64,
    budget_bytes: Option<u64>,
    /// Nothing where no budget was given.
    fits: Option<bool>,
    total_parameters: u64,
    trainable_parameters: u64,
    /// Floating-point operations for each token.
    operations_per_token: Work,
    operations_per_second: Option<f64>,
    /// Nothing where the number of tokens or the rate was not given.
    hours: Option<f64>,
}

fn main() -> ExitCode {
    cli::run(fit)
}

fn fit(flags: Flags) -> cli::Result<Fit> {
    let model = if flags.model.is_dir() {
        AutoCausalLm::open(&flags.model)?
    } else {
        AutoCausalLm::open_config(&flags.model)?
    };
    if flags.time.tokens.is_some() && flags.time.operations_per_second.is_none() && !flags.time.measure {
        return Err("`--tokens` says how long a run takes, and nothing says how fast it is; give \
                    --operations-per-second, or --measure"
            .into());
    }
    let config = flags.config(&model)?;
    let (plan, work) = (MemoryPlan::new(&model, &config)?, Work::new(&model, &config)?);
    let rate = match flags.time.operations_per_second {
        None if flags.time.measure => Some(measured(config.device, config.kind)?),
        given => given,
    };
    let hours = flags.time.tokens.zip(rate).map(|(tokens, rate)| work.hours(tokens, rate));
    let fits = flags.budget.map(|budget| plan.total() <= budget);
    say(&plan, &config, flags.budget);
    if let (Some(hours), Some(tokens), Some(rate)) = (hours, flags.time.tokens, rate) {
        let time =
            if hours < 1.0 { format!("{:.1} minutes", 60.0 * hours) } else { format!("{hours:.1} hours") };
        cli::say(&format!("{tokens:.3e} tokens at {rate:.3e} operations per second take {time}"));
    }
    Ok(Fit {
        total_bytes: plan.total(),
        parts: plan,
        budget_bytes: flags.budget,
        fits,
        total_parameters: model.parameters().0,
        trainable_parameters: plan.gradients / 4,
        operations_per_token: work,
        operations_per_second: rate,
        hours,
    })
}

/// The most records or tokens: far beyond any machine, and small enough that no count of bytes overflows.
const MOST: usize = 1 << 18;

fn positive(setting: &'static str, found: usize) -> cli::Result<u64> {
    if (1..=MOST).contains(&found) {
        return Ok(found as u64);
    }
    Err(Error::Setting {
        setting: setting.into(),
        found: found.to_string(),
        expected: format!("at least 1 and at most {MOST}"),
    }
    .into())
}

fn above_zero(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("expected a number above 0".to_owned()) }
}

impl Flags {
    fn config(&self, model: &AutoCausalLm) -> cli::Result<FitConfig> {
        let (adapter, run) = (&self.adapter, &self.run);
        let lora = AdapterConfig {
            rank: adapter.rank,
            dropout: adapter.dropout,
            target_modules: cli::names(&adapter.target_modules),
            ..AdapterConfig::default()
        };
        let default_kind = if run.device == Device::Cpu { Kind::Float } else { Kind::BFloat16 };
        Ok(FitConfig {
            adapter: Some(lora.lora()),
            quantization: self.base.config()?.kept(model)?,
            kind: run.dtype.unwrap_or(default_kind),
            device: run.device,
            batch_size: positive("batch_size", run.batch_size)?,
            sequence_length: positive("max_seq_length", run.max_seq_length)?,
            recompute: if run.gradient_checkpointing { Recompute::Blocks } else { Recompute::Nothing },
        })
    }
}

/// The plan as a table, largest part first, and whether it fits.
fn say(plan: &MemoryPlan, config: &FitConfig, budget: Option<u64>) {
    cli::say(&format!(
        "{} rows of {} tokens in {} on {}",
        config.batch_size,
        config.sequence_length,
        kind_name(config.kind),
        if config.device == Device::Cpu { "a CPU" } else { "a CUDA device" },
    ));
    for (part, bytes) in plan.parts().into_iter().filter(|(_, bytes)| *bytes > 0) {
        cli::say(&format!("{part:>12}  {:>12}", HumanBytes(bytes).to_string()));
    }
    cli::say(&format!("{:>12}  {:>12}", "together", HumanBytes(plan.total()).to_string()));
    if let Some(budget) = budget {
        let left = plan.total().abs_diff(budget);
        let verdict = if plan.total() <= budget { "fits, with" } else { "does not fit, it is short of" };
        let rest = if plan.total() <= budget { " left" } else { "" };
        cli::say(&format!("{verdict} {}{rest}", HumanBytes(left)));
    }
}

/// Operations per second of dense products, measured for about a second after a warm-up.
fn measured(device: Device, kind: Kind) -> cli::Result<f64> {
    let device =
        Compute { device: device_name(device).replace("cuda:0", "cuda"), ..Compute::default() }.resolve()?.0;
    let size = if device == Device::Cpu { 1024 } else { 8192 };
    let matrix = Tensor::f_randn([size, size], (Kind::Float, device))?.f_to_kind(kind)?;
    let product = || -> cli::Result<()> {
        let _ = matrix.f_matmul(&matrix)?;
        Ok(())
    };
    product()?;
    memory::synchronize(device)?;
    let (start, mut products) = (Instant::now(), 0_u32);
    while start.elapsed().as_secs_f64() < 1.0 {
        for _ in 0..4 {
            product()?;
        }
        memory::synchronize(device)?;
        products += 4;
    }
    Ok(f64::from(products) * 2.0 * (size as f64).powi(3) / start.elapsed().as_secs_f64())
}

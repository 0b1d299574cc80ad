//! The flags of `finetune`, and what they mean to the crates.

use std::path::PathBuf;

use clap::Parser;
use ferrotune::{
    DataConfig,
    adapters::{Bias, Init, LoraConfig, ModuleNames},
    data::{Format, SplitSizes},
    study::{AdapterConfig, ModelTemplate, RouterAuxLoss, is_pattern},
    trainer::{Existing, Scheduler, TrainingConfig},
};

use crate::cli;

/// Fine-tunes a model with LoRA on instruction data.
///
/// The output folder gets the adapter as a PEFT folder, `checkpoint-N` folders to resume from, `trainer_state.json`,
/// `log.jsonl`, TensorBoard files in `runs`, and `summary.json`. Defaults are those of the study that Ferrotune
/// reproduces. Everything is read and checked before the output folder is touched.
#[derive(Debug, Parser)]
#[command(next_help_heading = "Run")]
pub(crate) struct Flags {
    /// PEFT folder of an adapter to train further, with its own settings, instead of a new one
    #[arg(long, value_name = "DIR", conflicts_with_all = ADAPTER_FLAGS)]
    pub(crate) adapter: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) other: cli::OtherBase,
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Goes on with the run in the output folder after its newest checkpoint
    #[arg(long, conflicts_with = "force")]
    pub(crate) resume: bool,
    /// Begins anew over a run in the output folder
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) common: cli::Common,
    #[command(flatten)]
    pub(crate) base: cli::BaseFlags,
    #[command(flatten)]
    pub(crate) data: DataFlags,
    #[command(flatten)]
    pub(crate) lora: LoraFlags,
    #[command(flatten)]
    pub(crate) training: TrainingFlags,
}

const ADAPTER_FLAGS: [&str; 15] = [
    "rank",
    "alpha",
    "dropout",
    "target_modules",
    "target_parameters",
    "exclude_modules",
    "layers_to_transform",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "bias",
    "use_rslora",
    "use_dora",
    "init",
    "lora_bias",
];

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataFlags {
    /// Data file: .json, .jsonl, .csv, .tsv or .parquet, optionally with .gz or .zst; repeatable
    #[arg(long = "data", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// What the columns mean; `auto` tells it from their names
    #[arg(long, default_value = "auto", value_parser = cli::words(&FORMATS))]
    format: Format,
    /// What records are written in: the template of the study, or the checkpoint's own chat template, for instruct checkpoints
    #[arg(long, default_value = "study", value_parser = cli::words(&cli::TEMPLATES))]
    pub(crate) template: ModelTemplate,
    /// Makes a bad record an error instead of dropping and counting it
    #[arg(long)]
    strict: bool,
    /// Part of the records that validates, dealt by the seed
    #[arg(long, value_name = "FRACTION", default_value_t = 0.1)]
    eval_fraction: f64,
    /// The most tokens of a record; longer ones lose their end
    #[arg(long, default_value_t = DataConfig::default().max_seq_length)]
    max_seq_length: usize,
    /// Records are used only if their requests have fewer tokens than this
    #[arg(long, default_value_t = DataConfig::default().max_request_tokens)]
    max_request_tokens: usize,
    /// Folder that keeps tokenized records for the next run
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

const FORMATS: [(&str, Format); 4] = [
    ("auto", Format::Auto),
    ("alpaca", Format::Alpaca),
    ("instruct-v3", Format::InstructV3),
    ("messages", Format::Messages),
];

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Adapter")]
pub(crate) struct LoraFlags {
    /// Rank
    #[arg(long, default_value_t = AdapterConfig::default().rank, allow_negative_numbers = true)]
    rank: i64,
    /// The added product is multiplied by alpha / rank
    #[arg(long, default_value_t = AdapterConfig::default().alpha, allow_negative_numbers = true)]
    alpha: f64,
    /// Dropout on the added product's input
    #[arg(long, default_value_t = AdapterConfig::default().dropout, allow_negative_numbers = true)]
    dropout: f64,
    /// Modules by name, separated by commas; or `all-linear`, `peft-all-linear`, or a regular expression
    #[arg(long, value_name = "NAMES", default_value = "q_proj,v_proj")]
    target_modules: String,
    /// Stacked parameters of all experts, separated by commas: `gate_up_proj` (w1 and w3 of every expert), `down_proj` (w2); what is
    /// saved has PEFT's layout of transformers 5
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    target_parameters: Vec<String>,
    /// Targeted modules to leave as they are, by name or regular expression
    #[arg(long, value_name = "NAMES")]
    exclude_modules: Option<String>,
    /// Layers to adapt, separated by commas; all where absent
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    layers_to_transform: Vec<i64>,
    /// Another rank for the modules that a regular expression matches; repeatable
    #[arg(long, value_name = "REGEX=RANK", value_parser = pattern::<i64>)]
    rank_pattern: Vec<(String, i64)>,
    /// Another alpha, likewise; repeatable
    #[arg(long, value_name = "REGEX=ALPHA", value_parser = pattern::<f64>)]
    alpha_pattern: Vec<(String, f64)>,
    /// Modules that train in full and are saved with the adapter, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    modules_to_save: Vec<String>,
    /// Which biases of the base train
    #[arg(long, default_value = "none", value_parser = cli::words(&BIASES))]
    bias: Bias,
    /// Gives the added product a bias of its own
    #[arg(long)]
    lora_bias: bool,
    /// Multiplies by alpha / √rank instead
    #[arg(long)]
    use_rslora: bool,
    /// Gives each row of an adapted matrix a magnitude of its own that trains (DoRA)
    #[arg(long)]
    use_dora: bool,
    /// How the added product begins: `true` (PEFT's default), `gaussian`, `pissa_niter_N` (fast) or `pissa` (exact and slow),
    /// `olora`; over a quantized base also `loftq` or `loftq_iter_N`. What is saved fits the base as it is; over a quantized
    /// base other readers have it only up to the base's rounding, but for `loftq` of one round
    #[arg(long, value_name = "WORD", default_value_t = Init::Default)]
    init: Init,
}

const BIASES: [(&str, Bias); 3] = [("none", Bias::None), ("all", Bias::All), ("lora_only", Bias::LoraOnly)];

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct TrainingFlags {
    /// How often every record is seen; may be a fraction
    #[arg(long, default_value_t = defaults().epochs, allow_negative_numbers = true)]
    epochs: f64,
    /// Number of optimizer steps, whatever --epochs says
    #[arg(long)]
    max_steps: Option<u64>,
    /// Records per micro-batch
    #[arg(long, default_value_t = defaults().batch_size)]
    batch_size: usize,
    /// Micro-batches per optimizer step
    #[arg(long, default_value_t = defaults().gradient_accumulation)]
    gradient_accumulation: usize,
    /// Learning rate after warm-up
    #[arg(long, default_value_t = defaults().learning_rate, allow_negative_numbers = true)]
    learning_rate: f64,
    /// Part of all steps that warms up
    #[arg(long, default_value_t = defaults().warmup_ratio, allow_negative_numbers = true)]
    warmup_ratio: f64,
    /// How the learning rate goes on after warm-up
    #[arg(long, default_value = "linear", value_parser = cli::words(&SCHEDULERS))]
    scheduler: Scheduler,
    /// Decoupled weight decay
    #[arg(long, default_value_t = defaults().weight_decay, allow_negative_numbers = true)]
    weight_decay: f64,
    /// Gradients of a larger global norm are scaled down to it; 0 never clips
    #[arg(long, default_value_t = defaults().max_grad_norm, allow_negative_numbers = true)]
    max_grad_norm: f64,
    /// Steps between evaluations; one after each epoch where absent
    #[arg(long)]
    eval_steps: Option<u64>,
    /// Steps between checkpoints; one after each epoch where absent
    #[arg(long)]
    save_steps: Option<u64>,
    /// How many checkpoints are kept; all where absent
    #[arg(long)]
    save_total_limit: Option<u64>,
    /// Steps between rows of the loss history
    #[arg(long, default_value_t = defaults().logging_steps)]
    logging_steps: u64,
    /// Keeps only the blocks' inputs and computes the rest again in the backward pass
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Memory that the run may take, such as 24GiB: refuses before weights are loaded if the plan of `fit` needs more
    #[arg(long, value_name = "BYTES", value_parser = cli::bytes)]
    pub(crate) memory_limit: Option<u64>,
    /// Balancing loss of a mixture of experts
    #[arg(long, default_value = "concatenated", value_parser = cli::words(&ROUTER_LOSSES))]
    pub(crate) router_aux_loss: RouterAuxLoss,
}

const SCHEDULERS: [(&str, Scheduler); 3] =
    [("constant", Scheduler::Constant), ("linear", Scheduler::Linear), ("cosine", Scheduler::Cosine)];

const ROUTER_LOSSES: [(&str, RouterAuxLoss); 3] = [
    ("off", RouterAuxLoss::Off),
    ("concatenated", RouterAuxLoss::Concatenated),
    ("per-layer", RouterAuxLoss::PerLayer),
];

fn defaults() -> TrainingConfig {
    TrainingConfig::default()
}

impl Flags {
    /// What happens to a run that the output folder holds.
    pub(crate) fn existing(&self) -> Existing {
        match (self.resume, self.force) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Force,
            _ => Existing::Refuse,
        }
    }

    pub(crate) fn training(&self) -> cli::Result<TrainingConfig> {
        let flags = &self.training;
        let config = TrainingConfig {
            epochs: flags.epochs,
            max_steps: flags.max_steps,
            batch_size: flags.batch_size,
            gradient_accumulation: flags.gradient_accumulation,
            learning_rate: flags.learning_rate,
            warmup_ratio: flags.warmup_ratio,
            scheduler: flags.scheduler,
            weight_decay: flags.weight_decay,
            max_grad_norm: flags.max_grad_norm,
            eval_steps: flags.eval_steps,
            save_steps: flags.save_steps,
            save_total_limit: flags.save_total_limit,
            logging_steps: flags.logging_steps,
            seed: self.common.compute.seed,
            gradient_checkpointing: flags.gradient_checkpointing,
            ..TrainingConfig::default()
        };
        config.validate()?;
        Ok(config)
    }

    pub(crate) fn lora(&self) -> cli::Result<LoraConfig> {
        let flags = &self.lora;
        let adapter = AdapterConfig {
            rank: flags.rank,
            alpha: flags.alpha,
            dropout: flags.dropout,
            target_modules: cli::names(&flags.target_modules),
            use_rslora: flags.use_rslora,
        };
        let config = LoraConfig {
            exclude_modules: flags.exclude_modules.as_deref().map(|text| match is_pattern(text) {
                true => ModuleNames::Pattern(text.to_owned()),
                false => ModuleNames::List(cli::names(text)),
            }),
            target_parameters: flags.target_parameters.clone(),
            layers_to_transform: flags.layers_to_transform.clone(),
            rank_pattern: flags.rank_pattern.clone(),
            alpha_pattern: flags.alpha_pattern.clone(),
            modules_to_save: flags.modules_to_save.clone(),
            bias: flags.bias,
            lora_bias: flags.lora_bias,
            use_dora: flags.use_dora,
            init_lora_weights: flags.init.clone(),
            base_model_name_or_path: Some(self.common.model.display().to_string()),
            ..adapter.lora()
        };
        config.check("the flags")?;
        Ok(config)
    }

    pub(crate) fn data(&self) -> cli::Result<DataConfig> {
        let DataFlags {
            files,
            format,
            template: _,
            strict,
            eval_fraction,
            max_seq_length,
            max_request_tokens,
            cache,
        } = &self.data;
        if !(0.0..1.0).contains(eval_fraction) {
            let expected = "at least 0 and below 1".to_owned();
            let found = eval_fraction.to_string();
            return Err(ferrotune::Error::Setting { setting: "eval_fraction".into(), found, expected }.into());
        }
        let (train, validation) = (1.0 - eval_fraction, *eval_fraction);
        Ok(DataConfig {
            files: files.clone(),
            format: *format,
            strict: *strict,
            split: SplitSizes::Fractions { train, validation, test: 0.0 },
            split_seed: self.common.compute.seed,
            max_seq_length: *max_seq_length,
            max_request_tokens: *max_request_tokens,
            cache: cache.clone(),
            ..DataConfig::default()
        })
    }
}

fn pattern<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(String, T), String> {
    let (pattern, value) = text.rsplit_once('=').ok_or("expected REGEX=VALUE")?;
    let value = value.parse().map_err(|problem| format!("`{value}` behind the last `=`: {problem}"))?;
    Ok((pattern.to_owned(), value))
}

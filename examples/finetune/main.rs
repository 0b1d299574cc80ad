//! LoRA fine-tuning of one model on instruction data.

#[path = "../cli/mod.rs"]
mod cli;
mod flags;
mod prose;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ferrotune::{
    Adapted, AutoCausalLm, BaseConfig, Error, FitConfig, Instructions, LoadOptions, MemoryPlan, Parts, Start,
    adapt,
    adapters::{AdapterWeights, LoraAdapter, LoraConfig},
    check_base,
    core::{Sample, digest},
    data::{Prepared, Template, Tokenizer},
    evaluation_plan, kind_name,
    study::TemplateResults,
    tch::{Device, Kind},
    torch::{generator, memory},
    trainer::{
        self, Dataset, Existing, Resume, Trainer, TrainingSummary,
        listeners::{JsonLog, Progress, TensorBoard},
        prepare_output,
    },
    training_plan,
};
use serde::Serialize;

use flags::Flags;

/// The last line of standard output, and `summary.json`.
#[derive(Debug, Serialize)]
struct Summary {
    #[serde(flatten)]
    training: TrainingSummary,
    /// Weights of the base and of the adapter.
    total_parameters: u64,
    output: PathBuf,
    /// What the records were written in.
    template: TemplateResults,
    train_records: usize,
    eval_records: usize,
    data: Vec<prose::FileCounts>,
}

fn main() -> ExitCode {
    cli::run(finetune)
}

fn finetune(flags: Flags) -> cli::Result<Summary> {
    let training = flags.training()?;
    let lora = flags.lora()?;
    let base_config = flags.base.config()?;
    cli::refuse_a_broken_link(&flags.output)?;
    if flags.existing() == Existing::Refuse {
        refuse_a_run(&flags.output)?;
    }
    if flags.existing() == Existing::Resume {
        refuse_a_finished_adapter(&flags.output)?;
    }
    let read = [Some(&flags.common.model), flags.adapter.as_ref()];
    cli::refuse_inputs(&flags.output, &read.into_iter().flatten().map(PathBuf::as_path).collect::<Vec<_>>())?;
    let (device, kind) = flags.common.compute.resolve()?;

    let base = AutoCausalLm::open(&flags.common.model)?;
    let tokenizer = cli::tokenizer(&base)?;
    let template = flags.data.template.open(base.folder())?;
    let further = flags.adapter.as_deref().map(|folder| flags.other.open(folder, &base)).transpose()?;
    if let Some(further) = &further {
        check_base(&base, further)?; // before data are read
    }
    let instructions = Instructions::read(flags.data()?)?;
    let encoding = encode(&instructions, &tokenizer, &template, &base)?;
    let data = prose::file_counts(&instructions, &encoding);
    let split = instructions.deal(&[&encoding])?;
    let parts = Parts::new(&encoding, &split);
    if parts.train.is_empty() {
        let (limit, counts) = (encoding.report.limits.max_seq_length, encoding.report.total);
        return Err(format!(
            "no record is left to train on: of {} good ones {} have a request that is too long and {} lose their \
             response beyond {limit} tokens; raise --max-seq-length, lower --eval-fraction, or give more data",
            counts.records, counts.request_too_long, counts.nothing_supervised
        )
        .into());
    }
    data.iter().for_each(|counts| cli::say(&counts.to_string()));
    cli::say(&format!("{} records train, {} validate", parts.train.len(), parts.validation.len()));
    if !split.repeated.is_empty() {
        let aside = split.repeated.len();
        cli::say(&format!("{aside} records do not validate because they ask what another one asks"));
    }

    // On a base in 4 bits an adapter stands as it was saved.
    let trained = match &further {
        None => &lora,
        Some(further) if base.quantization().is_some() => further.config(),
        Some(further) => further.trained(),
    };
    let memory_plan = MemoryPlan::new(
        &base,
        &FitConfig {
            adapter: Some(trained.clone()),
            quantization: base_config.kept(&base)?,
            kind,
            device,
            batch_size: training.batch_size.min(parts.train.len()) as u64,
            sequence_length: parts.train.iter().map(Sample::len).max().unwrap_or(0) as u64,
            recompute: training.recompute(),
        },
    )?;
    prose::say_model(&base, &base_config, &memory_plan, device, kind);
    if let Some(limit) = flags.training.memory_limit {
        memory_plan.check(limit)?;
    }
    // What is planned counts on it.
    memory::return_freed_blocks();
    if base_config.kept(&base)?.is_some() && trained.init_lora_weights.changes_base() {
        cli::say(
            "this initialisation trains over the quantized rest of the base; what reads the adapter here quantizes the same rest \
             again, PEFT puts it onto the quantized base itself, which rounds otherwise: measure there what is used there",
        );
    }
    if let Some(reason) = trained.unread_by_peft(&base.weights())? {
        cli::say(&format!(
            "PEFT will not read what is saved as it is meant: {reason}; Ferrotune does, and `merge` makes a model of it that \
             everything reads"
        ));
    }
    let mut identity = identity(&flags, &lora, &base_config, kind)?;
    identity.insert("--template".to_owned(), template.key());
    identity.insert("the base's config.json".to_owned(), digest::of_bytes(base.config_text().as_bytes()));
    // The adapter's first values come from this generator, so a resumed run builds the same model.
    generator::seed(Device::Cpu, training.seed)?;
    let options = LoadOptions {
        auxiliary_loss: flags.training.router_aux_loss.into(),
        ..LoadOptions::new(device, kind)
    };
    let interrupted = interrupted(&flags, &lora)?;
    let start = match (&further, &interrupted) {
        (Some(weights), _) => Start::From(weights),
        (None, Some(weights)) => Start::Resumed(&lora, weights),
        (None, None) => Start::New(&lora),
    };
    let (storage, census) = base_config.storage(&base)?;
    let Adapted { model, adapter } = adapt(&base, start, storage, &options)?;
    cli::say_census(&census);
    cli::say(&format!("the adapter changes {} modules", adapter.sites().len()));

    let plan = training_plan(lengths(&parts.train), training.batch_size, training.seed);
    let validation_plan = evaluation_plan(lengths(&parts.validation), training.batch_size);
    let name =
        |records: &[usize], position: usize| instructions.records[records[position]].origin.to_string();
    let training_name = |position: usize| name(&parts.train_records, position);
    let validation_name = |position: usize| name(&parts.validation_records, position);
    let export = |folder: &Path| adapter.save(folder).map_err(Into::into);
    let dataset = Dataset::new(&parts.train, &plan).with_names(&training_name);
    let mut trainer =
        Trainer::new(training, model.as_ref(), adapter.parameters(), dataset)?.with_export(&export);
    if !parts.validation.is_empty() {
        let validation = Dataset::new(&parts.validation, &validation_plan).with_names(&validation_name);
        trainer = trainer.with_validation(validation)?;
    }
    for (key, value) in &identity {
        trainer = trainer.with_identity(key, value);
    }

    let is_new = !flags.output.exists();
    let resume = begin(&flags)?;
    let (mut progress, mut log) = (Progress::new(), JsonLog::new(&flags.output.join("log.jsonl")));
    let mut board = TensorBoard::new(&flags.output.join("runs"));
    let finished = trainer
        .with_output(&flags.output)
        .with_listener(&mut log)
        .with_listener(&mut board)
        .with_listener(&mut progress)
        .run(resume)
        .inspect_err(|_| {
            if is_new {
                // A run that failed before its first row has left nothing; a folder with something in it stays.
                let _ = fs::remove_dir(&flags.output);
            }
        })?;
    finish(
        &flags,
        &adapter,
        Summary {
            total_parameters: base.parameters().0 + finished.summary.trainable_parameters,
            training: finished.summary,
            output: flags.output.clone(),
            template: TemplateResults::of(&template),
            train_records: parts.train.len(),
            eval_records: parts.validation.len(),
            data,
        },
    )
}

/// The adapter of the run that is resumed, where its base can be had from nothing else.
fn interrupted(flags: &Flags, lora: &LoraConfig) -> cli::Result<Option<AdapterWeights>> {
    if flags.existing() != Existing::Resume || !lora.init_lora_weights.changes_base() {
        return Ok(None);
    }
    let checkpoints = trainer::checkpoints(&flags.output)?;
    Ok(checkpoints.last().map(|(_, folder)| AdapterWeights::open(folder)).transpose()?)
}

fn lengths(samples: &[Sample]) -> Vec<usize> {
    samples.iter().map(Sample::len).collect()
}

fn encode(
    instructions: &Instructions,
    tokenizer: &Tokenizer,
    template: &Template,
    base: &AutoCausalLm,
) -> cli::Result<Prepared> {
    let (asked, positions) = (instructions.config().max_seq_length, base.max_positions());
    if positions < asked as i64 {
        cli::say(&format!(
            "records are cut at the model's {positions} positions, not at --max-seq-length {asked}"
        ));
    }
    let bar = prose::tokenization_bar(instructions.records.len())?;
    let encoding = instructions
        .encode(tokenizer, template, positions, &|progress| bar.set_position(progress.done as u64));
    bar.finish_and_clear();
    Ok(encoding?)
}

/// What a resumed run must share with the run that it goes on with, beside what the trainer compares by itself.
fn identity(
    flags: &Flags,
    lora: &LoraConfig,
    base: &BaseConfig,
    kind: Kind,
) -> cli::Result<BTreeMap<String, String>> {
    let mut identity = BTreeMap::from([
        ("--dtype".to_owned(), kind_name(kind).to_owned()),
        ("--quantize".to_owned(), base.describe()),
        ("--router-aux-loss".to_owned(), format!("{:?}", flags.training.router_aux_loss)),
    ]);
    match &flags.adapter {
        Some(adapter) => weight_digests(adapter, "adapter", &mut identity)?,
        None => {
            let mut fields = lora.to_fields();
            fields.remove("base_model_name_or_path"); // the base is compared by its contents
            identity
                .extend(fields.into_iter().map(|(field, value)| (format!("`{field}`"), value.to_string())));
        }
    }
    weight_digests(&flags.common.model, "base", &mut identity)?;
    Ok(identity)
}

fn weight_digests(folder: &Path, what: &str, into: &mut BTreeMap<String, String>) -> cli::Result<()> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| Error::Io { path, source }
    };
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        let path = entry.map_err(io(folder))?.path();
        // What an adapter's configuration says scales its weights; of the base's, the caller compares what counts.
        let is_config = path.file_name().is_some_and(|name| name == "adapter_config.json");
        if is_config || path.extension().is_some_and(|extension| extension == "safetensors") {
            let name = path.file_name().unwrap_or_default().display();
            let key = format!("the SHA-256 of the {what}'s `{name}`");
            into.insert(key, digest::of_file(&path).map_err(io(&path))?);
        }
    }
    Ok(())
}

/// The refusal of [`prepare_output`], before the long way there.
fn refuse_a_run(output: &Path) -> cli::Result<()> {
    let Ok(mut entries) = fs::read_dir(output) else { return Ok(()) };
    match entries.next().and_then(io::Result::ok) {
        None => Ok(()),
        Some(entry) => {
            let (folder, found) = (output.to_owned(), entry.file_name().to_string_lossy().into_owned());
            Err(trainer::Error::OutputExists { folder, found }.into())
        }
    }
}

/// Refuses to resume where there is an adapter and nothing to resume from: the run would begin anew and overwrite it.
fn refuse_a_finished_adapter(output: &Path) -> cli::Result<()> {
    let adapter = RESULTS[2];
    if !output.join(adapter).exists() || !trainer::checkpoints(output)?.is_empty() {
        return Ok(());
    }
    Err(format!(
        "`{}` holds an adapter (`{adapter}`) and no checkpoint to resume from; train it further with --adapter, begin \
         anew with --force, or choose another folder",
        output.display()
    )
    .into())
}

/// The files of a finished run; the summary is the last one written.
const RESULTS: [&str; 4] = ["summary.json", "adapter_config.json", "adapter_model.safetensors", "README.md"];

/// The first touch of the output folder. A former run's results go, so that they are never taken for this one's.
fn begin(flags: &Flags) -> cli::Result<Resume> {
    let resume = prepare_output(&flags.output, flags.existing())?;
    if flags.force && RESULTS[1..3].iter().any(|name| flags.output.join(name).exists()) {
        for path in RESULTS.map(|name| flags.output.join(name)) {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Io { path, source }.into());
                }
                _ => {}
            }
        }
    }
    if resume == Resume::Newest && trainer::checkpoints(&flags.output)?.is_empty() {
        cli::say(&format!("`{}` has no checkpoint yet; beginning at the first step", flags.output.display()));
    }
    Ok(resume)
}

fn finish(flags: &Flags, adapter: &LoraAdapter, summary: Summary) -> cli::Result<Summary> {
    adapter.save(&flags.output)?;
    cli::write_file(
        &flags.output.join(RESULTS[0]),
        &format!("{}\n", serde_json::to_string_pretty(&summary)?),
    )?;
    cli::say(&format!("the adapter is in `{}`", flags.output.display()));
    Ok(summary)
}

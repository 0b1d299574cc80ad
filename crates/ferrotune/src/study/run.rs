//! The way through a study: read, encode, and for each model measure, fine-tune, measure.

use std::{
    path::Path,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ferrotune_adapters::LoraAdapter;
use ferrotune_core::{Sample, Tokenize as _, digest};
use ferrotune_data::{Prepared as Encoding, Record as DataRecord, Split, Tokenizer, template};
use ferrotune_eval::{Dataset as ScoredSet, Measurement, Model as ScoredModelInfo, Run};
use ferrotune_nn::{CausalLm, Frozen};
use ferrotune_trainer::{
    Dataset, Existing, Finished, Listener, LogRow, Resume, Trainer, TrainingConfig,
    listeners::{JsonLog, TensorBoard},
    prepare_output,
};
use tch::{Device, Kind};

use super::{
    Answer, CurvePoint, DataFile, DataResults, EncodingCounts, Environment, ModelConfig, ModelResults,
    Overfitting, RunResults, Study, StudyResults, comparisons, comparisons::Evaluated, config::slug,
    environment,
};
use crate::{
    Adapted, Architecture, AutoCausalLm, Error, Instructions, LoadOptions, Measure, Measured, Parts, Result,
    Start, adapt, instructions, measure,
};

/// How many answers are shown side by side.
const SHOWN_ANSWERS: usize = 8;

/// Hears how a study goes on; implementors provide both methods.
pub trait Interaction {
    /// A stage begins, or something should be said aloud; one line.
    fn say(&mut self, line: &str);

    /// Who listens to the next training run besides the study's own logs.
    fn listener(&mut self) -> Option<&mut dyn Listener>;
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Interaction for Silent {
    fn say(&mut self, _line: &str) {}

    fn listener(&mut self) -> Option<&mut dyn Listener> {
        None
    }
}

/// A study whose models, files and metrics are open, so that what can be refused has been.
#[derive(Debug)]
pub struct Prepared<'s> {
    study: &'s Study,
    start: Instant,
    measure: Measure,
    instructions: Instructions,
    contestants: Vec<Opened<'s>>,
    split: Split,
    device: Device,
    kind: Kind,
}

/// A model of the study, opened and with its records encoded.
#[derive(Debug)]
struct Opened<'s> {
    model: &'s ModelConfig,
    folder: AutoCausalLm,
    tokenizer: Tokenizer,
    encoding: Encoding,
    base_sha256: String,
}

impl Study {
    /// Opens every model, file and metric of the study; nothing is written.
    ///
    /// # Errors
    /// What reading and encoding give.
    pub fn prepare(&self, interaction: &mut dyn Interaction) -> Result<Prepared<'_>> {
        self.validate()?;
        let start = Instant::now();
        let (device, kind) = self.compute.resolve()?;
        let measure = Measure::new(self.evaluation.clone(), device)?;
        let instructions = Instructions::read(self.data.clone())?;
        for report in &instructions.reports {
            let name = report.path.display();
            interaction.say(&format!("{name}: {} records kept, {} dropped", report.kept, report.dropped));
        }
        let contestants = self
            .models
            .iter()
            .map(|model| Opened::open(model, &instructions, interaction))
            .collect::<Result<Vec<_>>>()?;
        let encodings: Vec<&Encoding> = contestants.iter().map(|contestant| &contestant.encoding).collect();
        let split = instructions.deal(&encodings)?;
        interaction.say(&format!(
            "{} records train, {} validate, {} are held out, {} are set aside as repeats, {} unused",
            split.train.len(),
            split.validation.len(),
            split.test.len(),
            split.repeated.len(),
            split.unused.len()
        ));
        for (part, what) in [(&split.train, "records that train"), (&split.test, "held-out records")] {
            if part.is_empty() {
                let (setting, found) = ("data.split", format!("one that leaves no {what}"));
                let expected = format!("at least one of the {what}");
                return Err(Error::Setting { setting, found, expected });
            }
        }
        Ok(Prepared { study: self, start, measure, instructions, contestants, split, device, kind })
    }

    /// The settings that all models share, as the report shows them.
    fn settings(&self) -> Vec<(String, String)> {
        let TrainingConfig { epochs, batch_size, gradient_accumulation, learning_rate, .. } = self.training;
        let training = &self.training;
        let warmup = match training.warmup_steps {
            Some(steps) => format!("{steps} steps"),
            None => format!("ratio {}", training.warmup_ratio),
        };
        let length = match training.max_steps {
            Some(steps) => format!("{steps} steps"),
            None => format!("{epochs} epochs"),
        };
        let seeds: Vec<_> = self.seeds.iter().map(u64::to_string).collect();
        [
            (
                "Adapter",
                format!(
                    "LoRA, rank {}, alpha {}, dropout {}",
                    self.adapter.rank, self.adapter.alpha, self.adapter.dropout
                ),
            ),
            ("Base weights", self.base().describe()),
            ("Router balancing loss", format!("{:?}", self.router_aux_loss).to_lowercase()),
            ("Target modules", self.adapter.target_modules.join(", ")),
            ("Length", length),
            ("Batch size", batch_size.to_string()),
            ("Gradient accumulation", gradient_accumulation.to_string()),
            ("Learning rate", format!("{learning_rate:e}")),
            ("Schedule", format!("{:?}, warm-up {warmup}", training.scheduler).to_lowercase()),
            (
                "Optimizer",
                format!(
                    "AdamW, betas {} and {}, epsilon {:e}",
                    training.adam_beta1, training.adam_beta2, training.adam_epsilon
                ),
            ),
            ("Weight decay", training.weight_decay.to_string()),
            ("Gradient clipping", training.max_grad_norm.to_string()),
            (
                "Longest sequence",
                format!("{} tokens, or the model's positions if fewer", self.data.max_seq_length),
            ),
            ("Longest request", format!("fewer than {} tokens", self.data.max_request_tokens)),
            ("Seeds", seeds.join(", ")),
            ("Longest answer", format!("{} tokens, greedy", self.evaluation.max_new_tokens)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

impl Prepared<'_> {
    /// Runs the study into the folder `output`, which must exist: adapters, checkpoints and logs of each run go below
    /// it, in place of those of a former study. Writing the report is the caller's, with
    /// [`report::write`](crate::report::write).
    ///
    /// # Errors
    /// What training and measuring give.
    pub fn run(&self, output: &Path, interaction: &mut dyn Interaction) -> Result<StudyResults> {
        let Self { study, measure, instructions, contestants, split, device, kind, .. } = self;
        let (device, kind) = (*device, *kind);
        let (mut models, mut evaluated) = (Vec::with_capacity(contestants.len()), Vec::new());
        for contestant in contestants {
            let bench = Bench { study, output, contestant, instructions, split, device, kind };
            models.push(bench.run(measure, &mut evaluated, interaction)?);
        }
        interaction.say("comparing what was measured, record by record");
        let finished = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        Ok(StudyResults {
            title: study.title.clone(),
            description: study.description.clone(),
            finished: environment::civil(finished),
            seconds: self.start.elapsed().as_secs_f64(),
            environment: Environment::detect(device, kind),
            settings: study.settings(),
            data: data_results(instructions, split),
            models,
            comparisons: comparisons::all(&evaluated, instructions.config().split_seed)?,
        })
    }
}

impl<'s> Opened<'s> {
    fn open(
        model: &'s ModelConfig,
        instructions: &Instructions,
        interaction: &mut dyn Interaction,
    ) -> Result<Self> {
        let folder = AutoCausalLm::open(&model.path)?;
        let tokenizer = Tokenizer::from_folder(&model.path)?;
        let vocabulary = folder.vocabulary_size();
        if tokenizer.vocabulary_size() as i64 > vocabulary {
            return Err(Error::VocabularyMismatch {
                folder: model.path.clone(),
                tokenizer: tokenizer.vocabulary_size(),
                model: vocabulary,
            });
        }
        let (asked, positions) = (instructions.config().max_seq_length, folder.max_positions());
        if positions < asked as i64 {
            interaction.say(&format!(
                "{}: sequences are cut at the model's {positions} positions, not {asked}",
                model.name
            ));
        }
        let encoding = instructions.encode(&tokenizer, positions, &|_| {})?;
        let counts = encoding.report.total;
        interaction.say(&format!(
            "{}: {} records encoded, {} of them cut; left out: {} with a long request, {} with nothing to learn from",
            model.name, counts.kept, counts.truncated, counts.request_too_long, counts.nothing_supervised
        ));
        let base_sha256 = crate::weights_digest(&model.path)?;
        Ok(Self { model, folder, tokenizer, encoding, base_sha256 })
    }

    fn family(&self) -> String {
        match self.folder.architecture() {
            Architecture::Mixtral(_) => "mixtral",
            Architecture::Llama2(config) => match config.family {
                ferrotune_llama2::Family::Llama => "llama",
                ferrotune_llama2::Family::Mistral => "mistral",
            },
        }
        .to_owned()
    }
}

/// One model on the test bench, with everything that its runs share.
struct Bench<'a> {
    study: &'a Study,
    output: &'a Path,
    contestant: &'a Opened<'a>,
    instructions: &'a Instructions,
    split: &'a Split,
    device: Device,
    kind: Kind,
}

/// Held-out records with their samples.
struct HeldOut<'a> {
    records: Vec<&'a DataRecord>,
    samples: Vec<&'a Sample>,
}

impl Bench<'_> {
    fn run(
        &self,
        measure: &Measure,
        evaluated: &mut Vec<Evaluated>,
        interaction: &mut dyn Interaction,
    ) -> Result<ModelResults> {
        let Opened { model, folder, tokenizer, encoding, base_sha256 } = self.contestant;
        let parts = Parts::new(encoding, self.split);
        let count = measure.count(parts.test.len());
        let held_out = HeldOut {
            records: parts.test_records[..count]
                .iter()
                .map(|&record| &self.instructions.records[record])
                .collect(),
            samples: parts.test[..count].iter().collect(),
        };

        let former = self.output.join(slug(&model.name));
        if former.is_dir() {
            std::fs::remove_dir_all(&former).map_err(|source| Error::Io { path: former, source })?;
        }
        interaction.say(&format!("{}: measuring the base on {count} held-out records", model.name));
        let (storage, census) = self.study.base().storage(folder)?;
        let base = folder.load(&LoadOptions::new(self.device, self.kind), &mut Frozen::new(storage))?;
        for tally in census.tallies() {
            interaction.say(&format!("{}: {tally}", model.name));
        }
        let base_loss = self.validation_loss(base.as_ref(), &parts)?;
        let run = self.scored_run(&held_out, None, 0);
        let before = measure.measure(base.as_ref(), tokenizer, &held_out.records, &held_out.samples, &run)?;
        drop(base);
        evaluated.push(self.evaluated(None, before.measurements));

        let mut runs = Vec::with_capacity(self.study.seeds.len());
        let (mut answers, mut trainable_parameters) = (Vec::new(), 0);
        for &seed in &self.study.seeds {
            let (results, after, trained) =
                self.fine_tune(seed, &parts, base_loss, &held_out, measure, interaction)?;
            if runs.is_empty() {
                trainable_parameters = trained;
                answers = side_by_side(&held_out, &before.answers, &after.answers);
            }
            evaluated.push(self.evaluated(Some(seed), after.measurements));
            runs.push(results);
        }
        let (parameters, active_parameters) = folder.parameters();
        let counts = encoding.report.total;
        let name = model.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ModelResults {
            name: model.name.clone(),
            family: self.contestant.family(),
            origin: model.origin.clone().unwrap_or(name),
            base_sha256: base_sha256.clone(),
            tokenizer_sha256: tokenizer.fingerprint().to_owned(),
            parameters,
            active_parameters,
            trainable_parameters,
            encoding: EncodingCounts {
                kept: counts.kept,
                request_too_long: counts.request_too_long,
                nothing_supervised: counts.nothing_supervised,
                truncated: counts.truncated,
                tokens: counts.tokens,
                supervised_tokens: counts.supervised_tokens,
            },
            base: before.records,
            runs,
            answers,
        })
    }

    fn evaluated(&self, seed: Option<u64>, measurements: Vec<Measurement>) -> Evaluated {
        Evaluated {
            contestant: super::Contestant { model: self.contestant.model.name.clone(), seed },
            tokenizer: self.contestant.tokenizer.fingerprint().to_owned(),
            measurements,
        }
    }

    /// The results of one fine-tuning, what was measured of it, and how many weights trained.
    fn fine_tune(
        &self,
        seed: u64,
        parts: &Parts,
        base_loss: Option<f64>,
        held_out: &HeldOut<'_>,
        measure: &Measure,
        interaction: &mut dyn Interaction,
    ) -> Result<(RunResults, Measured, u64)> {
        let Opened { model, folder, tokenizer, .. } = self.contestant;
        interaction.say(&format!("{}: fine-tuning with seed {seed}", model.name));
        let run_folder = self.output.join(slug(&model.name)).join(format!("seed-{seed}"));
        prepare_output(&run_folder, Existing::Force)?;
        ferrotune_torch::generator::seed(Device::Cpu, seed)?;
        let mut config = self.study.adapter.lora();
        config.base_model_name_or_path = Some(model.path.display().to_string());
        let auxiliary_loss = self.study.router_aux_loss.into();
        let options = LoadOptions { auxiliary_loss, ..LoadOptions::new(self.device, self.kind) };
        let (storage, _) = self.study.base().storage(folder)?;
        let Adapted { model: lm, adapter } = adapt(folder, Start::New(&config), storage, &options)?;
        let finished = self.train(seed, lm.as_ref(), &adapter, parts, &run_folder, interaction)?;
        let adapter_folder = run_folder.join("adapter");
        adapter.save(&adapter_folder)?;
        let adapter_sha = digest::of_file(&adapter_folder.join("adapter_model.safetensors"))
            .map_err(|source| Error::Io { path: adapter_folder, source })?;

        interaction.say(&format!("{}: measuring the model fine-tuned with seed {seed}", model.name));
        let run = self.scored_run(held_out, Some(adapter_sha), seed);
        let after = measure.measure(lm.as_ref(), tokenizer, &held_out.records, &held_out.samples, &run)?;
        ferrotune_eval::write_samples(
            &run_folder.join("samples.jsonl"),
            &after.samples,
            ferrotune_eval::Existing::Replace,
        )?;
        let results = run_results(seed, &finished, base_loss, after.records.clone());
        Ok((results, after, adapter.parameters().elements()))
    }

    fn train(
        &self,
        seed: u64,
        lm: &dyn CausalLm,
        adapter: &LoraAdapter,
        parts: &Parts,
        run_folder: &Path,
        interaction: &mut dyn Interaction,
    ) -> Result<Finished> {
        let config = TrainingConfig { seed, ..self.study.training.clone() };
        let lengths = |samples: &[Sample]| samples.iter().map(Sample::len).collect();
        let plan = instructions::training_plan(lengths(&parts.train), config.batch_size, seed);
        let validation_plan = instructions::evaluation_plan(lengths(&parts.validation), config.batch_size);
        let name = |records: &[usize], position: usize| {
            self.instructions.records[records[position]].origin.to_string()
        };
        let training_name = |position: usize| name(&parts.train_records, position);
        let validation_name = |position: usize| name(&parts.validation_records, position);
        let export = |folder: &Path| adapter.save(folder).map_err(Into::into);
        let mut log = JsonLog::new(&run_folder.join("log.jsonl"))?;
        let mut board = TensorBoard::new(&run_folder.join("runs"))?;
        let training = Dataset::new(&parts.train, &plan).with_names(&training_name);
        let mut trainer = Trainer::new(config, lm, adapter.parameters(), training)?
            .with_output(run_folder)
            .with_export(&export)
            .with_identity("base", &self.contestant.base_sha256)
            .with_identity("base weights", &self.study.base().describe())
            .with_identity("config", &digest::of_bytes(self.contestant.folder.config_text().as_bytes()))
            .with_listener(&mut log)
            .with_listener(&mut board);
        if !parts.validation.is_empty() {
            let validation = Dataset::new(&parts.validation, &validation_plan).with_names(&validation_name);
            trainer = trainer.with_validation(validation)?;
        }
        if let Some(listener) = interaction.listener() {
            trainer = trainer.with_listener(listener);
        }
        Ok(trainer.run(Resume::No)?)
    }

    /// The base's loss on the validation samples, the curve's point before any step.
    fn validation_loss(&self, lm: &dyn CausalLm, parts: &Parts) -> Result<Option<f64>> {
        if parts.validation.is_empty() {
            return Ok(None);
        }
        let lengths = parts.validation.iter().map(Sample::len).collect();
        let plan = instructions::evaluation_plan(lengths, self.study.training.batch_size);
        let dataset = Dataset::new(&parts.validation, &plan);
        Ok(Some(ferrotune_trainer::evaluate(lm, &dataset, &mut |_, _| Ok(()))?.loss))
    }

    fn scored_run(&self, held_out: &HeldOut<'_>, adapter_sha: Option<String>, seed: u64) -> Run {
        let Opened { model, folder, tokenizer, base_sha256, .. } = self.contestant;
        let state = if adapter_sha.is_some() { format!("seed-{seed}") } else { "base".to_owned() };
        let reports = &self.instructions.reports;
        let names: Vec<_> = reports.iter().map(|report| file_name(&report.path)).collect();
        let hashes: Vec<_> = reports.iter().map(|report| report.sha256.as_str()).collect();
        Run {
            run_id: format!("{}/{state}", slug(&model.name)),
            model: Some(ScoredModelInfo {
                base_sha: base_sha256.clone(),
                adapter_sha,
                dtype: self.study.base().describe_model(folder, self.kind),
            }),
            tokenizer_sha: Some(tokenizer.fingerprint().to_owned()),
            dataset: ScoredSet {
                path_name: names.join(" + "),
                sha256: hashes.join(" "),
                n_rows: held_out.records.len(),
            },
            template_sha: Some(digest::of_bytes(template::TEMPLATE.as_bytes())),
            seed,
        }
    }
}

fn run_results(
    seed: u64,
    finished: &Finished,
    base_loss: Option<f64>,
    metrics: Vec<ferrotune_eval::Record>,
) -> RunResults {
    let Finished { summary, state, .. } = finished;
    let mut training_curve = Vec::new();
    let mut validation_curve: Vec<CurvePoint> =
        base_loss.map(|loss| CurvePoint { step: 0, epoch: 0.0, loss }).into_iter().collect();
    for row in &state.log_history {
        match row {
            LogRow::Training(row) => {
                training_curve.push(CurvePoint {
                    step: row.step,
                    epoch: row.epoch,
                    loss: row.token_loss.unwrap_or(row.loss),
                });
            }
            LogRow::Evaluation(row) => {
                validation_curve.push(CurvePoint { step: row.step, epoch: row.epoch, loss: row.eval_loss });
            }
            LogRow::End(_) => {}
        }
    }
    let step =
        ferrotune_trainer::overfitting_step(validation_curve.iter().map(|point| (point.step, point.loss)));
    let overfitting = step.and_then(|step| {
        let lowest = validation_curve.iter().rev().find(|point| point.step == step)?;
        let last = validation_curve.last()?;
        Some(Overfitting { step, epoch: lowest.epoch, lowest_loss: lowest.loss, final_loss: last.loss })
    });
    RunResults {
        seed,
        steps: summary.steps,
        epochs: summary.epochs,
        train_seconds: summary.train_runtime_seconds,
        train_loss: summary.train_token_loss,
        validation_loss: summary.eval_loss,
        tokens_per_second: summary.tokens_per_second,
        supervised_tokens_per_second: summary.supervised_tokens_per_second,
        peak_rss_bytes: summary.peak_rss_bytes.unwrap_or(0),
        peak_device_bytes: summary.peak_device_bytes,
        training_curve,
        validation_curve,
        overfitting,
        metrics,
    }
}

fn side_by_side(held_out: &HeldOut<'_>, before: &[String], after: &[String]) -> Vec<Answer> {
    held_out
        .records
        .iter()
        .zip(before.iter().zip(after))
        .take(SHOWN_ANSWERS)
        .map(|(record, (base, fine_tuned))| Answer {
            request: measure::request(record).to_owned(),
            reference: measure::response(record).to_owned(),
            base: base.clone(),
            fine_tuned: fine_tuned.clone(),
        })
        .collect()
}

fn data_results(instructions: &Instructions, split: &Split) -> DataResults {
    let file = |report: &ferrotune_data::FileReport| DataFile {
        name: file_name(&report.path),
        sha256: report.sha256.clone(),
        read: report.read,
        kept: report.kept,
        dropped: report
            .dropped_by_reason
            .iter()
            .map(|(reason, &count)| (reason.to_string(), count))
            .collect(),
    };
    DataResults {
        files: instructions.reports.iter().map(file).collect(),
        split: split.counts(),
        split_seed: instructions.config().split_seed,
        template: template::TEMPLATE.to_owned(),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

//! One model of a study: measured as it is, fine-tuned once for each seed, measured again.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use ferrotune_adapters::{AdapterWeights, LoraAdapter};
use ferrotune_core::{Sample, Tokenize as _, digest};
use ferrotune_data::{Record as DataRecord, Split};
use ferrotune_eval::{Dataset as ScoredSet, Model as ScoredModelInfo, Run};
use ferrotune_nn::{CausalLm, Frozen};
use ferrotune_trainer::{
    Dataset, Existing, Finished, Resume, Trainer, TrainingConfig,
    listeners::{JsonLog, TensorBoard},
    prepare_output,
};
use tch::{Device, Kind};

use super::{
    Contestant, EncodingCounts, Interaction, ModelResults, Study,
    comparisons::Evaluated,
    done::{ADAPTER, Done, Trained},
    gather,
    opened::Opened,
};
use crate::{
    Adapted, Instructions, LoadOptions, Measure, Measured, Parts, Restored, Result, Start, Subject, adapt,
    instructions, slug::slug,
};

/// One model on the test bench, with everything that its runs share.
pub(super) struct Bench<'a> {
    pub(super) study: &'a Study,
    pub(super) output: &'a Path,
    pub(super) contestant: &'a Opened<'a>,
    pub(super) measure: &'a Measure,
    pub(super) instructions: &'a Instructions,
    pub(super) split: &'a Split,
    pub(super) device: Device,
    pub(super) kind: Kind,
}

/// Held-out records with their samples.
pub(super) struct HeldOut<'a> {
    pub(super) records: Vec<&'a DataRecord>,
    samples: Vec<&'a Sample>,
}

impl Bench<'_> {
    /// The results, and the seconds that earlier processes spent on what is in them.
    pub(super) fn run(
        &self,
        evaluated: &mut Vec<Evaluated>,
        interaction: &mut dyn Interaction,
    ) -> Result<(ModelResults, f64)> {
        let Opened { model, folder, tokenizer, encoding, base_sha256, .. } = self.contestant;
        let parts = Parts::new(encoding, self.split);
        let count = self.measure.count(parts.test.len());
        let held_out = HeldOut {
            records: parts.test_records[..count]
                .iter()
                .map(|&record| &self.instructions.records[record])
                .collect(),
            samples: parts.test[..count].iter().collect(),
        };

        let (base_loss, before, mut earlier) = self.base(&parts, &held_out, interaction)?;
        let (base_records, base_benchmarks) = (before.records.clone(), gather::benchmark_records(&before));
        let answers_before = before.answers.clone();
        evaluated.push(self.evaluated(None, before));

        let mut runs = Vec::with_capacity(self.study.seeds.len());
        let (mut answers, mut trainable_parameters) = (Vec::new(), 0);
        for &seed in &self.study.seeds {
            let (trained, after, seconds) = self.fine_tuned(seed, &parts, &held_out, interaction)?;
            earlier += seconds;
            if runs.is_empty() {
                trainable_parameters = trained.summary.trainable_parameters;
                answers = gather::side_by_side(&held_out, &answers_before, &after.answers);
            }
            runs.push(gather::run(seed, &trained, base_loss, &after));
            evaluated.push(self.evaluated(Some(seed), after));
        }
        let (parameters, active_parameters) = folder.parameters();
        let counts = encoding.report.total;
        let name = model.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let results = ModelResults {
            name: model.name.clone(),
            family: self.contestant.family(),
            origin: model.origin.clone().unwrap_or(name),
            template: self.contestant.template_results(),
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
            base: base_records,
            base_benchmarks,
            runs,
            answers,
        };
        Ok((results, earlier))
    }

    /// Where the files of one of the model's states go.
    fn folder(&self, seed: Option<u64>) -> PathBuf {
        let state = seed.map_or_else(|| "base".to_owned(), |seed| format!("seed-{seed}"));
        self.contestant.output(self.output).join(state)
    }

    fn evaluated(&self, seed: Option<u64>, measured: Measured) -> Evaluated {
        let benchmarks = measured.benchmarks.into_iter();
        Evaluated {
            contestant: Contestant { model: self.contestant.model.name.clone(), seed },
            tokens: format!("{} {}", self.contestant.tokenizer.fingerprint(), self.contestant.template.key()),
            measurements: measured.measurements,
            embeddings_usage: measured.embeddings_usage,
            // A benchmark's first measurement is its own; the others are other views of the same documents.
            benchmarks: benchmarks.filter_map(|outcome| outcome.measurements.into_iter().next()).collect(),
        }
    }

    /// The base's loss on the validation samples, what is measured of it, and the seconds that earlier processes spent on that.
    fn base(
        &self,
        parts: &Parts,
        held_out: &HeldOut<'_>,
        interaction: &mut dyn Interaction,
    ) -> Result<(Option<f64>, Measured, f64)> {
        let Opened { model, folder, .. } = self.contestant;
        let mut done = Done::open(&self.folder(None))?;
        let run = self.scored_run(held_out, None);
        let restored = self.restored(&done, held_out, &run, interaction)?;
        let earlier = restored.seconds();
        let has_loss = done.validation_loss().is_some() || parts.validation.is_empty();
        if has_loss && self.measure.is_complete(&restored) {
            return Ok((done.validation_loss(), self.measure.measured(restored, &run)?, earlier));
        }
        let count = held_out.records.len();
        interaction.say(&format!("{}: measuring the base on {count} held-out records", model.name));
        let (storage, census) = self.study.base().storage(folder)?;
        let base = folder.load(&LoadOptions::new(self.device, self.kind), &mut Frozen::new(storage))?;
        for tally in census.tallies() {
            interaction.say(&format!("{}: {tally}", model.name));
        }
        if !has_loss {
            done.keep_validation_loss(self.validation_loss(base.as_ref(), parts)?)?;
        }
        let measured = self.measured(base.as_ref(), held_out, &run, (restored, &mut done), interaction)?;
        Ok((done.validation_loss(), measured, earlier))
    }

    /// A fine-tuning, what is measured of it, and the seconds that earlier processes spent on that.
    fn fine_tuned(
        &self,
        seed: u64,
        parts: &Parts,
        held_out: &HeldOut<'_>,
        interaction: &mut dyn Interaction,
    ) -> Result<(Trained, Measured, f64)> {
        let Opened { model, folder, .. } = self.contestant;
        let state = self.folder(Some(seed));
        let mut done = Done::open(&state)?;
        let auxiliary_loss = self.study.router_aux_loss.into();
        let options = LoadOptions { auxiliary_loss, ..LoadOptions::new(self.device, self.kind) };
        let mut lm = None;
        let (trained, mut earlier) = match done.trained()? {
            Some(trained) => {
                interaction.say(&format!("{}: fine-tuned before with seed {seed}", model.name));
                let seconds = trained.summary.train_runtime_seconds;
                (trained, seconds)
            }
            None => {
                interaction.say(&format!("{}: fine-tuning with seed {seed}", model.name));
                // Goes on after the newest checkpoint; where there is none, at the first step.
                let resume = prepare_output(&state, Existing::Resume)?;
                ferrotune_torch::generator::seed(Device::Cpu, seed)?;
                let mut config = self.study.adapter.lora();
                config.base_model_name_or_path = Some(model.path.display().to_string());
                let (storage, _) = self.study.base().storage(folder)?;
                let Adapted { model, adapter } = adapt(folder, Start::New(&config), storage, &options)?;
                let start = Instant::now();
                let finished =
                    self.train(seed, model.as_ref(), &adapter, parts, (&state, resume), interaction)?;
                let seconds = finished.summary.train_runtime_seconds - start.elapsed().as_secs_f64();
                adapter.save(&state.join(ADAPTER))?;
                lm = Some(model);
                (done.keep_trained(finished)?, seconds.max(0.0))
            }
        };
        let run = self.scored_run(held_out, Some((seed, &trained.adapter_sha256)));
        let restored = self.restored(&done, held_out, &run, interaction)?;
        earlier += restored.seconds();
        if self.measure.is_complete(&restored) {
            return Ok((trained, self.measure.measured(restored, &run)?, earlier));
        }
        interaction.say(&format!("{}: measuring the model fine-tuned with seed {seed}", model.name));
        let lm = match lm {
            Some(lm) => lm,
            None => {
                let weights = AdapterWeights::open(&state.join(ADAPTER))?;
                let (storage, _) = self.study.base().storage(folder)?;
                adapt(folder, Start::From(&weights), storage, &options)?.model
            }
        };
        let measured = self.measured(lm.as_ref(), held_out, &run, (restored, &mut done), interaction)?;
        Ok((trained, measured, earlier))
    }

    /// What an earlier process measured of a state.
    fn restored(
        &self,
        done: &Done,
        held_out: &HeldOut<'_>,
        run: &Run,
        interaction: &mut dyn Interaction,
    ) -> Result<Restored> {
        let restored = self.measure.restore(&held_out.records, run, done.folder(), done.parts())?;
        let names: Vec<&str> = restored.names().collect();
        if !names.is_empty() {
            interaction.say(&format!("{}: measured before: {}", run.run_id, names.join(", ")));
        }
        Ok(restored)
    }

    /// Everything that is measured of the model in one of its states, of which a part may be there already.
    fn measured(
        &self,
        lm: &dyn CausalLm,
        held_out: &HeldOut<'_>,
        run: &Run,
        (restored, done): (Restored, &mut Done),
        interaction: &mut dyn Interaction,
    ) -> Result<Measured> {
        let subject = Subject {
            model: lm,
            tokenizer: &self.contestant.tokenizer,
            template: &self.contestant.template,
            records: &held_out.records,
            samples: &held_out.samples,
            styles: &self.contestant.styles,
            run,
        };
        let is_base = run.model.as_ref().is_none_or(|model| model.adapter_sha.is_none());
        let state = if is_base { "base".to_owned() } else { format!("seed {}", run.seed) };
        let name = format!("{}, {state}", self.contestant.model.name);
        let folder = done.folder().to_owned();
        self.measure.measure(
            &subject,
            &folder,
            restored,
            &mut |part, found| done.keep_part(part, found),
            &mut |progress| interaction.progress(&name, progress),
        )
    }

    fn train(
        &self,
        seed: u64,
        lm: &dyn CausalLm,
        adapter: &LoraAdapter,
        parts: &Parts,
        (run_folder, resume): (&Path, Resume),
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
        let mut log = JsonLog::new(&run_folder.join("log.jsonl"));
        let mut board = TensorBoard::new(&run_folder.join("runs"));
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
        Ok(trainer.run(resume)?)
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

    fn scored_run(&self, held_out: &HeldOut<'_>, tuned: Option<(u64, &str)>) -> Run {
        let Opened { model, folder, tokenizer, base_sha256, .. } = self.contestant;
        let state = tuned.map_or_else(|| "base".to_owned(), |(seed, _)| format!("seed-{seed}"));
        let reports = &self.instructions.reports;
        let names: Vec<_> = reports.iter().map(|report| gather::file_name(&report.path)).collect();
        let hashes: Vec<_> = reports.iter().map(|report| report.sha256.as_str()).collect();
        Run {
            run_id: format!("{}/{state}", slug(&model.name)),
            model: Some(ScoredModelInfo {
                base_sha: base_sha256.clone(),
                adapter_sha: tuned.map(|(_, sha)| sha.to_owned()),
                dtype: self.study.base().describe_model(folder, self.kind),
            }),
            tokenizer_sha: Some(tokenizer.fingerprint().to_owned()),
            dataset: ScoredSet {
                path_name: names.join(" + "),
                sha256: hashes.join(" "),
                n_rows: held_out.records.len(),
            },
            template_sha: Some(self.contestant.template_results().sha256),
            seed: tuned.map_or(0, |(seed, _)| seed),
        }
    }
}

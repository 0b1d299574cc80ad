//! One model of a study: measured as it is, fine-tuned once for each seed, measured again.

use std::path::{Path, PathBuf};

use ferrotune_adapters::LoraAdapter;
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
    Contestant, EncodingCounts, Interaction, ModelResults, RunResults, Study, comparisons::Evaluated, gather,
    opened::Opened,
};
use crate::{
    Adapted, Error, Instructions, LoadOptions, Measure, Measured, Parts, Result, Start, Subject, adapt,
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
    pub(super) fn run(
        &self,
        evaluated: &mut Vec<Evaluated>,
        interaction: &mut dyn Interaction,
    ) -> Result<ModelResults> {
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

        let former = self.folder(None);
        let former = former.parent().unwrap_or(&former);
        if former.is_dir() {
            std::fs::remove_dir_all(former)
                .map_err(|source| Error::Io { path: former.to_owned(), source })?;
        }
        interaction.say(&format!("{}: measuring the base on {count} held-out records", model.name));
        let (storage, census) = self.study.base().storage(folder)?;
        let base = folder.load(&LoadOptions::new(self.device, self.kind), &mut Frozen::new(storage))?;
        for tally in census.tallies() {
            interaction.say(&format!("{}: {tally}", model.name));
        }
        let base_loss = self.validation_loss(base.as_ref(), &parts)?;
        let before = self.measured(base.as_ref(), &held_out, None, interaction)?;
        drop(base);
        let (base_records, base_benchmarks) = (before.records.clone(), gather::benchmark_records(&before));
        let answers_before = before.answers.clone();
        evaluated.push(self.evaluated(None, before));

        let mut runs = Vec::with_capacity(self.study.seeds.len());
        let (mut answers, mut trainable_parameters) = (Vec::new(), 0);
        for &seed in &self.study.seeds {
            let (results, after, trained) =
                self.fine_tune(seed, &parts, base_loss, &held_out, interaction)?;
            if runs.is_empty() {
                trainable_parameters = trained;
                answers = gather::side_by_side(&held_out, &answers_before, &after.answers);
            }
            evaluated.push(self.evaluated(Some(seed), after));
            runs.push(results);
        }
        let (parameters, active_parameters) = folder.parameters();
        let counts = encoding.report.total;
        let name = model.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ModelResults {
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
        })
    }

    /// Where the files of one of the model's states go.
    fn folder(&self, seed: Option<u64>) -> PathBuf {
        let state = seed.map_or_else(|| "base".to_owned(), |seed| format!("seed-{seed}"));
        self.output.join(slug(&self.contestant.model.name)).join(state)
    }

    fn evaluated(&self, seed: Option<u64>, measured: Measured) -> Evaluated {
        let benchmarks = measured.benchmarks.into_iter();
        Evaluated {
            contestant: Contestant { model: self.contestant.model.name.clone(), seed },
            tokens: format!("{} {}", self.contestant.tokenizer.fingerprint(), self.contestant.template.key()),
            measurements: measured.measurements,
            // A benchmark's first measurement is its own; the others are other views of the same documents.
            benchmarks: benchmarks.filter_map(|outcome| outcome.measurements.into_iter().next()).collect(),
        }
    }

    /// Everything that is measured of the model in one of its states; `tuned` is the seed and the digest of the adapter.
    fn measured(
        &self,
        lm: &dyn CausalLm,
        held_out: &HeldOut<'_>,
        tuned: Option<(u64, &str)>,
        interaction: &mut dyn Interaction,
    ) -> Result<Measured> {
        let seed = tuned.map(|(seed, _)| seed);
        let folder = self.folder(seed);
        std::fs::create_dir_all(&folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
        let subject = Subject {
            model: lm,
            tokenizer: &self.contestant.tokenizer,
            template: &self.contestant.template,
            records: &held_out.records,
            samples: &held_out.samples,
            styles: &self.contestant.styles,
            run: &self.scored_run(held_out, tuned),
        };
        let state = seed.map_or_else(|| "base".to_owned(), |seed| format!("seed {seed}"));
        let name = format!("{}, {state}", self.contestant.model.name);
        self.measure.measure(&subject, &folder, &mut |progress| interaction.progress(&name, progress))
    }

    /// The results of one fine-tuning, what was measured of it, and how many weights trained.
    fn fine_tune(
        &self,
        seed: u64,
        parts: &Parts,
        base_loss: Option<f64>,
        held_out: &HeldOut<'_>,
        interaction: &mut dyn Interaction,
    ) -> Result<(RunResults, Measured, u64)> {
        let Opened { model, folder, .. } = self.contestant;
        interaction.say(&format!("{}: fine-tuning with seed {seed}", model.name));
        let run_folder = self.folder(Some(seed));
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
        let after = self.measured(lm.as_ref(), held_out, Some((seed, &adapter_sha)), interaction)?;
        let results = gather::run(seed, &finished, base_loss, &after);
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

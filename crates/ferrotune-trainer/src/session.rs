//! A run while it goes on: steps, rows of the history, evaluations and checkpoints in their order.

use std::time::Instant;

use ferrotune_nn::Pass;
use ferrotune_torch::{generator, memory};
use tch::Device;

use crate::{
    EndRow, Error, Estimate, EvaluationRow, Event, Finished, Listener, LogRow, Result, Resume, RunPlan,
    Schedule, StepReport, Trainer, TrainerState, TrainingRow, TrainingSummary,
    checkpoint::{self, Accumulated, Fingerprint, Position, TensorPrint},
    dataset::plan_digest,
    evaluate::{evaluate_at, validation_digest},
    optimizer::Optimizer,
    output,
    step::{Measured, Stepper},
};

/// The first step of a process allocates and warms caches; it is left out of the estimate.
const UNTIMED_STEPS: u64 = 1;

/// Steps that the estimate is a mean over.
const TIMED_STEPS: u64 = 3;

/// A run between its first and its last step.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    trainer: Trainer<'a>,
    schedule: Schedule,
    optimizer: Optimizer,
    fingerprint: Option<Fingerprint>,
    position: Position,
    state: TrainerState,
    epoch: Epoch,
    started: Instant,
    /// Seconds of the processes before this one.
    earlier_seconds: f64,
    last_step: Option<StepReport>,
    steps_here: u64,
    timed_seconds: f64,
}

/// The batches of one epoch.
#[derive(Debug)]
struct Epoch {
    number: u64,
    batches: Vec<Vec<usize>>,
}

impl<'a> Session<'a> {
    /// Everything up to the first step.
    pub(crate) fn begin(trainer: Trainer<'a>, resume: Resume) -> Result<Self> {
        let started = Instant::now();
        let config = &trainer.config;
        let device = trainer.model.device();
        let first = trainer.training.batches("training", 0)?;
        let total = config.total_steps(first.len());
        let schedule = Schedule {
            scheduler: config.scheduler,
            learning_rate: config.learning_rate,
            warmup: config.warmup(total),
            total,
        };
        let steps_per_epoch = first.len().div_ceil(config.gradient_accumulation) as u64;
        let default = TrainerState::default();
        let state = TrainerState {
            eval_steps: config.eval_steps.unwrap_or(default.eval_steps),
            save_steps: config.save_steps.unwrap_or(default.save_steps),
            logging_steps: config.logging_steps,
            max_steps: total,
            num_train_epochs: config
                .max_steps
                .map_or(config.epochs.ceil() as u64, |steps| steps.div_ceil(steps_per_epoch)),
            train_batch_size: Some(config.batch_size as u64),
            ..default
        };
        let mut session = Self {
            schedule,
            optimizer: Optimizer::new(trainer.parameters, config)?,
            fingerprint: None,
            position: Position::default(),
            state,
            epoch: Epoch { number: 0, batches: first },
            started,
            earlier_seconds: 0.0,
            last_step: None,
            steps_here: 0,
            timed_seconds: 0.0,
            trainer,
        };
        memory::reset_peak(device)?;
        if !session.restore(resume)? {
            let seed = session.trainer.config.seed;
            generator::seed(Device::Cpu, seed)?;
            if device != Device::Cpu {
                generator::seed(device, seed)?;
            }
        }
        let plan = session.plan();
        session.emit(&Event::Started { step: session.position.step, plan: &plan })?;
        Ok(session)
    }

    /// The remaining steps and the result.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        // An evaluation that failed has left a checkpoint without its row.
        let evaluated = self.state.evaluations().next_back().map_or(0, |(step, _)| step);
        if evaluated < self.position.step && self.is_due(self.trainer.config.eval_steps) {
            self.evaluate()?;
        }
        while self.position.step < self.schedule.total {
            self.enter_epoch()?;
            self.step()?;
            let config = &self.trainer.config;
            let (evaluate, save) = (self.is_due(config.eval_steps), self.is_due(config.save_steps));
            if self.is_due(Some(config.logging_steps)) {
                self.log()?;
            }
            let evaluated = if evaluate { self.evaluate() } else { Ok(()) };
            // Also where the evaluation failed: the steps since the last checkpoint are good.
            if save {
                self.save()?;
            }
            evaluated?;
        }
        self.end()
    }

    /// Whether what is done every so many steps, or else after each epoch, is to be done after the present one.
    fn is_due(&self, every: Option<u64>) -> bool {
        let Position { step, batch, .. } = self.position;
        let epoch_ended = batch == self.epoch.batches.len();
        step == self.schedule.total || every.map_or(epoch_ended, |every| step.is_multiple_of(every))
    }

    /// Goes on with the newest checkpoint, if that is asked for and there is one.
    fn restore(&mut self, resume: Resume) -> Result<bool> {
        let Some(folder) = self.trainer.output else { return Ok(false) };
        output::remove_incomplete(folder)?;
        let newest = output::checkpoints(folder)?.pop();
        let fingerprint = Fingerprint {
            config: self.trainer.config.clone(),
            samples: self.trainer.training.digest(),
            validation: self.trainer.validation.as_ref().map(validation_digest).transpose()?,
            parameters: TensorPrint::all(self.trainer.parameters),
            identity: self.trainer.identity.clone(),
        };
        let restored = match (newest, resume) {
            (None, _) => false,
            (Some((_, path)), Resume::No) => {
                let found = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Err(Error::OutputExists { folder: folder.to_owned(), found });
            }
            (Some((_, path)), Resume::Newest) => {
                let training = &self.trainer.training;
                let loaded = checkpoint::restore(
                    &path,
                    &fingerprint,
                    |epoch| Ok(plan_digest(&training.batches("training", epoch)?)),
                    self.trainer.parameters,
                    &self.optimizer,
                    self.trainer.model.device(),
                )?;
                self.earlier_seconds = loaded.position.seconds;
                self.position = loaded.position;
                self.state = TrainerState { save_steps: self.state.save_steps, ..loaded.state };
                true
            }
        };
        self.fingerprint = Some(fingerprint);
        Ok(restored)
    }

    /// Makes the epoch of the next step the present one.
    fn enter_epoch(&mut self) -> Result<()> {
        if self.position.batch == self.epoch.batches.len() && self.position.epoch == self.epoch.number {
            self.position.epoch += 1;
            self.position.batch = 0;
        }
        let number = self.position.epoch;
        if number != self.epoch.number {
            let batches = self.trainer.training.batches("training", number)?;
            if batches.len() != self.epoch.batches.len() {
                return Err(Error::PlanShape {
                    set: "training",
                    epoch: number,
                    problem: format!("are {}", batches.len()),
                    expected: format!("{} as in the first epoch", self.epoch.batches.len()),
                });
            }
            self.epoch = Epoch { number, batches };
            // A checkpoint at the end of an epoch is entered by its last batch.
            return self.enter_epoch();
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let start = Instant::now();
        let config = &self.trainer.config;
        let recompute = config.recompute();
        let stepper = Stepper {
            model: self.trainer.model,
            parameters: self.trainer.parameters,
            dataset: self.trainer.training,
            pass: Pass::train().with_recompute(recompute),
            max_grad_norm: config.max_grad_norm,
        };
        let end = (self.position.batch + config.gradient_accumulation).min(self.epoch.batches.len());
        let window = &self.epoch.batches[self.position.batch..end];
        let learning_rate = self.schedule.at(self.position.step);
        let step = self.position.step + 1;
        let measured = stepper.step(step, window, &mut self.optimizer, learning_rate)?;
        let seconds = start.elapsed().as_secs_f64();
        self.account(&measured, end, seconds);
        let report = StepReport {
            step,
            epoch: self.state.epoch,
            loss: measured.loss,
            auxiliary_loss: measured.auxiliary_loss,
            grad_norm: measured.grad_norm,
            learning_rate,
            tokens: measured.tokens,
            supervised_tokens: measured.supervised_tokens,
            seconds,
        };
        self.emit(&Event::Stepped(&report))?;
        self.last_step = Some(report);
        self.estimate(seconds)
    }

    fn account(&mut self, measured: &Measured, end: usize, seconds: f64) {
        let position = &mut self.position;
        position.step += 1;
        position.batch = end;
        position.samples += measured.samples;
        position.tokens += measured.tokens;
        position.supervised_tokens += measured.supervised_tokens;
        position.loss += measured.loss;
        let negative_log_likelihood = measured.loss * measured.supervised_tokens as f64;
        position.negative_log_likelihood += negative_log_likelihood;
        position.step_seconds += seconds;
        let since_log = &mut position.since_log;
        since_log.steps += 1;
        since_log.loss += measured.loss;
        since_log.negative_log_likelihood += negative_log_likelihood;
        since_log.supervised_tokens += measured.supervised_tokens;
        if let Some(loss) = measured.auxiliary_loss {
            *since_log.auxiliary_loss.get_or_insert(0.0) += loss;
        }
        self.state.global_step = position.step;
        self.state.epoch = position.epoch as f64 + end as f64 / self.epoch.batches.len() as f64;
        self.state.num_input_tokens_seen = position.tokens;
    }

    fn estimate(&mut self, seconds: f64) -> Result<()> {
        self.steps_here += 1;
        if self.steps_here > UNTIMED_STEPS {
            self.timed_seconds += seconds;
        }
        let remaining = self.schedule.total - self.position.step;
        if self.steps_here != UNTIMED_STEPS + TIMED_STEPS || remaining == 0 {
            return Ok(());
        }
        let seconds_per_step = self.timed_seconds / TIMED_STEPS as f64;
        let estimate = Estimate {
            seconds_per_step,
            remaining_seconds: seconds_per_step * remaining as f64,
            peak_rss_bytes: memory::host_peak_bytes(),
            peak_device_bytes: self.peak_device_bytes()?,
        };
        self.emit(&Event::Estimated(&estimate))
    }

    fn log(&mut self) -> Result<()> {
        let Some(last) = self.last_step else { return Ok(()) };
        let Accumulated { steps, loss, negative_log_likelihood, supervised_tokens, auxiliary_loss } =
            std::mem::take(&mut self.position.since_log);
        let row = TrainingRow {
            auxiliary_loss: auxiliary_loss.map(|loss| loss / steps as f64),
            epoch: self.state.epoch,
            grad_norm: last.grad_norm,
            learning_rate: last.learning_rate,
            loss: loss / steps as f64,
            step: self.position.step,
            token_loss: Some(negative_log_likelihood / supervised_tokens.max(1) as f64),
        };
        self.state.log_history.push(LogRow::Training(row.clone()));
        self.emit(&Event::Logged(&row))
    }

    fn evaluate(&mut self) -> Result<()> {
        let Some(validation) = self.trainer.validation else { return Ok(()) };
        let (step, model) = (self.position.step, self.trainer.model);
        let listeners = &mut self.trainer.listeners;
        let evaluation = evaluate_at(model, &validation, step, &mut |done, total| {
            emit(listeners, step, &Event::Evaluating { done, total })
        })?;
        let per_second = |count: usize| count as f64 / evaluation.seconds.max(f64::MIN_POSITIVE);
        let row = EvaluationRow {
            epoch: self.state.epoch,
            eval_loss: evaluation.loss,
            eval_runtime: evaluation.seconds,
            eval_samples_per_second: per_second(evaluation.samples),
            eval_steps_per_second: per_second(evaluation.batches),
            step,
        };
        if self.state.best_metric.is_none_or(|best| row.eval_loss < best) {
            self.state.best_metric = Some(row.eval_loss);
            self.state.best_global_step = Some(step);
        }
        self.state.log_history.push(LogRow::Evaluation(row.clone()));
        self.emit(&Event::Evaluated { row: &row, evaluation: &evaluation })
    }

    fn save(&mut self) -> Result<()> {
        let Some(folder) = self.trainer.output else { return Ok(()) };
        let Some(fingerprint) = self.fingerprint.clone() else { return Ok(()) };
        let step = self.position.step;
        self.emit(&Event::CheckpointBegun { step })?;
        let start = Instant::now();
        self.position.seconds = self.seconds();
        let plan = plan_digest(&self.epoch.batches);
        let path = output::write_checkpoint(folder, step, |folder| {
            checkpoint::write(
                folder,
                &checkpoint::Contents {
                    position: &self.position,
                    plan: &plan,
                    fingerprint: &fingerprint,
                    state: &self.state,
                },
                self.trainer.parameters,
                &self.optimizer,
                self.trainer.model.device(),
            )?;
            let Some(export) = self.trainer.export else { return Ok(()) };
            export(folder).map_err(|source| Error::Port { port: "the export", step, source })
        })?;
        if let Some(limit) = self.trainer.config.save_total_limit {
            output::rotate(folder, limit)?;
        }
        let (bytes, seconds) = (output::folder_bytes(&path)?, start.elapsed().as_secs_f64());
        self.emit(&Event::CheckpointWritten { step, path: &path, bytes, seconds })
    }

    fn end(mut self) -> Result<Finished> {
        let seconds = self.seconds();
        let position = self.position.clone();
        let rate = |count: f64, seconds: f64| count / seconds.max(f64::MIN_POSITIVE);
        let row = EndRow {
            epoch: self.state.epoch,
            step: position.step,
            total_flos: 0.0,
            train_loss: position.loss / position.step.max(1) as f64,
            train_runtime: seconds,
            train_samples_per_second: rate(position.samples as f64, seconds),
            train_steps_per_second: rate(position.step as f64, seconds),
        };
        let eval_loss = self.state.evaluations().next_back().map(|(_, loss)| loss);
        let summary = TrainingSummary {
            train_loss: row.train_loss,
            train_token_loss: position.negative_log_likelihood / position.supervised_tokens.max(1) as f64,
            eval_loss,
            eval_perplexity: eval_loss.map(f64::exp),
            best_eval_loss: self.state.best_metric,
            best_eval_step: self.state.best_global_step,
            overfitting_step: self.state.overfitting_step(),
            steps: position.step,
            epochs: self.state.epoch,
            train_runtime_seconds: seconds,
            step_seconds: position.step_seconds,
            tokens_per_second: rate(position.tokens as f64, position.step_seconds),
            supervised_tokens_per_second: rate(position.supervised_tokens as f64, position.step_seconds),
            tokens: position.tokens,
            supervised_tokens: position.supervised_tokens,
            trainable_parameters: self.trainer.parameters.elements(),
            peak_rss_bytes: memory::host_peak_bytes(),
            peak_device_bytes: self.peak_device_bytes()?,
        };
        self.state.log_history.push(LogRow::End(row.clone()));
        if let Some(folder) = self.trainer.output {
            output::write_file(&folder.join(output::TRAINER_STATE), self.state.to_json()?.as_bytes())?;
        }
        self.emit(&Event::Finished { row: &row, summary: &summary })?;
        Ok(Finished { summary, state: self.state })
    }

    fn plan(&self) -> RunPlan {
        let Trainer { config, parameters, .. } = &self.trainer;
        let steps_per_epoch = self.epoch.batches.len().div_ceil(config.gradient_accumulation) as u64;
        let total = self.schedule.total;
        let checkpoint_bytes = checkpoint::tensor_bytes(parameters);
        let written = total.div_ceil(config.save_steps.unwrap_or(steps_per_epoch));
        let held = config.save_total_limit.map_or(written, |limit| written.min(limit.saturating_add(1)));
        RunPlan {
            steps: total,
            steps_per_epoch,
            warmup_steps: self.schedule.warmup,
            samples: self.trainer.training.samples().len(),
            validation_samples: self.trainer.validation.map_or(0, |validation| validation.samples().len()),
            trainable_parameters: parameters.elements(),
            groups: self.optimizer.groups(),
            checkpoint_bytes,
            disk_bytes: self.trainer.output.map_or(0, |_| held.saturating_mul(checkpoint_bytes)),
            state_bytes: checkpoint_bytes / 3 * 4,
        }
    }

    fn seconds(&self) -> f64 {
        self.earlier_seconds + self.started.elapsed().as_secs_f64()
    }

    fn peak_device_bytes(&self) -> Result<Option<u64>> {
        Ok(memory::device(self.trainer.model.device())?.map(|memory| memory.peak_allocated))
    }

    fn emit(&mut self, event: &Event<'_>) -> Result<()> {
        emit(&mut self.trainer.listeners, self.position.step, event)
    }
}

fn emit(listeners: &mut [&mut dyn Listener], step: u64, event: &Event<'_>) -> Result<()> {
    listeners.iter_mut().try_for_each(|listener| {
        listener.on(event).map_err(|source| Error::Port { port: "a listener", step, source })
    })
}

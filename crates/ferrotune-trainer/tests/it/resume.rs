//! A run that goes on after any of its checkpoints is the run that was never interrupted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ferrotune_core::{BoxError, Sample};
use ferrotune_nn::{CausalLm, Parameters};
use ferrotune_torch::SharedTensor;
use ferrotune_trainer::{
    Dataset, Error, Event, Existing, Finished, Listener, LogRow, Resume, Scheduler, Trainer, TrainerState,
    TrainingConfig, checkpoints,
    listeners::{JsonLog, TensorBoard},
    prepare_output,
};
use tch::Tensor;
use tempfile::TempDir;

use crate::{
    logs::scalars,
    tiny::{
        DropoutLlama, HIDDEN, ROUTED, Tiny, Twist, alone, bits, copy_folder, samples, settings, shuffled,
    },
};

/// Two epochs of 4 steps (7 micro-batches, so the last window of an epoch is short), with everything that has a state.
fn config() -> TrainingConfig {
    TrainingConfig {
        epochs: 2.0,
        gradient_accumulation: 2,
        logging_steps: 3,
        eval_steps: Some(2),
        save_steps: Some(1),
        scheduler: Scheduler::Cosine,
        warmup_steps: Some(2),
        weight_decay: 0.1,
        ..settings()
    }
}

fn run_in(
    folder: &Path,
    config: TrainingConfig,
    model: (&dyn CausalLm, &Parameters),
    samples: &[Sample],
    resume: Resume,
) -> Result<Finished, Error> {
    run_until(u32::MAX, folder, config, model, samples, resume)
}

/// Fails in its validation batch of this number, counted over all evaluations from 1.
struct FailsIn(u32);

impl Listener for FailsIn {
    fn on(&mut self, event: &Event<'_>) -> Result<(), BoxError> {
        let Event::Evaluating { .. } = event else { return Ok(()) };
        self.0 -= 1;
        if self.0 == 0 { Err("a batch too many".into()) } else { Ok(()) }
    }
}

fn run_until(
    validation_batch: u32,
    folder: &Path,
    config: TrainingConfig,
    (model, parameters): (&dyn CausalLm, &Parameters),
    samples: &[Sample],
    resume: Resume,
) -> Result<Finished, Error> {
    let plan = shuffled(samples, config.batch_size);
    let validation = crate::tiny::samples(5);
    let held_out = crate::tiny::in_order(5, 2);
    let mut log = JsonLog::new(&folder.join("log.jsonl"));
    let mut board = TensorBoard::new(&folder.join("runs"));
    Trainer::new(config, model, parameters, Dataset::new(samples, &plan))?
        .with_validation(Dataset::new(&validation, &held_out))?
        .with_output(folder)
        .with_listener(&mut log)
        .with_listener(&mut board)
        .with_listener(&mut FailsIn(validation_batch))
        .with_identity("base model", "tiny")
        .run(resume)
}

/// The history without the clock.
fn history(state: &TrainerState) -> Vec<LogRow> {
    let timeless = |row: &LogRow| match row.clone() {
        LogRow::Evaluation(mut row) => {
            (row.eval_runtime, row.eval_samples_per_second, row.eval_steps_per_second) = (0.0, 0.0, 0.0);
            LogRow::Evaluation(row)
        }
        LogRow::End(mut row) => {
            (row.train_runtime, row.train_samples_per_second, row.train_steps_per_second) = (0.0, 0.0, 0.0);
            LogRow::End(row)
        }
        row => row,
    };
    state.log_history.iter().map(timeless).collect()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A copy of a run as it was right after `step`, except for its logs, which go on to the end.
fn interrupted_after(whole: &Path, step: u64) -> TempDir {
    let copy = folder();
    copy_folder(whole, copy.path());
    fs::remove_file(copy.path().join("trainer_state.json")).unwrap();
    for (other, path) in checkpoints(copy.path()).unwrap() {
        if other > step {
            fs::remove_dir_all(path).unwrap();
        }
    }
    copy
}

fn check_every_cut(model: impl Fn(u64) -> (Box<dyn CausalLm>, Parameters), samples: &[Sample]) {
    let whole = folder();
    let (lm, parameters) = model(1);
    let finished = run_in(whole.path(), config(), (&*lm, &parameters), samples, Resume::No).unwrap();
    assert_eq!(finished.summary.steps, 8);
    let expected = bits(&parameters);
    let log = fs::read(whole.path().join("log.jsonl")).unwrap();
    let board = scalars(&whole.path().join("runs"));
    assert!(!board.is_empty());

    for cut in 0..=8 {
        let copy = interrupted_after(whole.path(), cut);
        fs::create_dir(copy.path().join(".incomplete-checkpoint-3")).unwrap();
        let resume = prepare_output(copy.path(), Existing::Resume).unwrap();
        // Cut 0 has no checkpoint to take the weights from; the others must not depend on how the model began.
        let (lm, parameters) = model(if cut == 0 { 1 } else { 2 });
        let resumed = run_in(copy.path(), config(), (&*lm, &parameters), samples, resume).unwrap();
        assert_eq!(bits(&parameters), expected, "cut after step {cut}");
        assert_eq!(history(&resumed.state), history(&finished.state), "cut after step {cut}");
        assert_eq!(resumed.summary.tokens, finished.summary.tokens);
        assert_eq!(resumed.summary.train_loss.to_bits(), finished.summary.train_loss.to_bits());
        assert_eq!(fs::read(copy.path().join("log.jsonl")).unwrap(), log, "cut after step {cut}");
        assert_eq!(scalars(&copy.path().join("runs")), board, "cut after step {cut}");
        assert!(!copy.path().join(".incomplete-checkpoint-3").exists());
    }
}

#[test]
fn a_decoder_with_dropout_resumes_bit_for_bit_after_any_step() {
    let _alone = alone();
    let model = |seed| {
        let (model, parameters) = DropoutLlama::new(seed, 0.1);
        (Box::new(model) as Box<dyn CausalLm>, parameters)
    };
    check_every_cut(model, &samples(13));
}

#[test]
fn a_rarely_routed_expert_resumes_bit_for_bit_after_any_step() {
    let _alone = alone();
    let mut samples = samples(13);
    samples[4].ids[1] = ROUTED as u32;
    samples[4].supervised.fill(true);
    let model = |seed: u64| {
        let expert = Tensor::from_slice(&[seed as f32; HIDDEN as usize]).set_requires_grad(true);
        let (model, parameters) = Tiny::new(Twist::Expert(SharedTensor::from(expert)));
        (Box::new(model) as Box<dyn CausalLm>, parameters)
    };
    check_every_cut(model, &samples);
}

#[test]
fn an_evaluation_that_failed_is_made_up_for() {
    let _alone = alone();
    let whole = folder();
    let (model, parameters) = Tiny::new(Twist::None);
    let finished = run_in(whole.path(), config(), (&model, &parameters), &samples(13), Resume::No).unwrap();
    let expected = bits(&parameters);
    // Evaluations are after steps 2, 4, 6 and 8, of three batches each.
    for (batch, step) in [(5, 4), (12, 8)] {
        let broken = folder();
        let (model, parameters) = Tiny::new(Twist::None);
        let lm: (&dyn CausalLm, &Parameters) = (&model, &parameters);
        let error = run_until(batch, broken.path(), config(), lm, &samples(13), Resume::No).unwrap_err();
        assert!(matches!(error, Error::Port { .. }), "{error}");
        assert_eq!(checkpoints(broken.path()).unwrap().pop().unwrap().0, step, "the steps are kept");
        let (model, parameters) = Tiny::new(Twist::None);
        let resumed =
            run_in(broken.path(), config(), (&model, &parameters), &samples(13), Resume::Newest).unwrap();
        assert_eq!(bits(&parameters), expected);
        assert_eq!(history(&resumed.state), history(&finished.state), "failed after step {step}");
        assert_eq!(resumed.summary.eval_loss, finished.summary.eval_loss);
    }
}

/// A finished run and the message of resuming it with something else.
fn refusal(
    config_of_second: TrainingConfig,
    samples_of_second: &[Sample],
    change: impl FnOnce(&Path),
) -> String {
    let run = folder();
    let (model, parameters) = Tiny::new(Twist::None);
    run_in(run.path(), config(), (&model, &parameters), &samples(13), Resume::No).unwrap();
    change(run.path());
    let (model, parameters) = Tiny::new(Twist::None);
    let before = bits(&parameters);
    let error =
        run_in(run.path(), config_of_second, (&model, &parameters), samples_of_second, Resume::Newest)
            .unwrap_err();
    assert_eq!(before, bits(&parameters), "a refused checkpoint must leave the weights alone");
    error.to_string()
}

#[test]
fn another_run_is_refused_by_name() {
    let _alone = alone();
    let says = |message: String, words: &[&str]| {
        for word in words {
            assert!(message.contains(word), "{message}");
        }
    };
    let other = TrainingConfig { learning_rate: 2e-2, ..config() };
    says(
        refusal(other, &samples(13), |_| {}),
        &["checkpoint-8", "setting `learning_rate` was 0.01", "now 0.02"],
    );
    let other = TrainingConfig { max_steps: Some(20), ..config() };
    says(refusal(other, &samples(13), |_| {}), &["setting `max_steps` was null and is now 20"]);
    let mut other = samples(13);
    other[7].ids[0] += 1;
    says(refusal(config(), &other, |_| {}), &["digest of the training samples"]);
    let edit = |from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let path = folder.join("checkpoint-8/run.json");
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
        }
    };
    says(
        refusal(config(), &samples(13), edit("\"mix\"", "\"lora\"")),
        &["trainable tensor 1", "`lora`", "`mix`"],
    );
    says(
        refusal(config(), &samples(13), edit("\"tiny\"", "\"huge\"")),
        &["base model was huge and is now tiny"],
    );
    says(refusal(config(), &samples(13), edit("\"format\": 1", "\"format\": 2")), &["format 2, expected 1"]);
    says(refusal(config(), &samples(13), edit("\"plan\": \"", "\"plan\": \"0")), &["batch plan of epoch 1"]);
    says(refusal(config(), &samples(13), edit("{", "")), &["run.json", "damaged"]);
    let truncate = |folder: &Path| {
        let path = folder.join("checkpoint-8/run.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    };
    says(refusal(config(), &samples(13), truncate), &["run.safetensors"]);
}

#[test]
fn how_often_checkpoints_are_written_may_change() {
    let _alone = alone();
    let run = folder();
    let (model, parameters) = Tiny::new(Twist::None);
    run_in(run.path(), config(), (&model, &parameters), &samples(13), Resume::No).unwrap();
    let copy = interrupted_after(run.path(), 3);
    let other = TrainingConfig { save_steps: Some(4), save_total_limit: Some(1), ..config() };
    let (model, again) = Tiny::new(Twist::None);
    run_in(copy.path(), other, (&model, &again), &samples(13), Resume::Newest).unwrap();
    assert_eq!(bits(&parameters), bits(&again));
    let left: Vec<PathBuf> = checkpoints(copy.path()).unwrap().into_iter().map(|(_, path)| path).collect();
    assert_eq!(left, [copy.path().join("checkpoint-8")]);
}

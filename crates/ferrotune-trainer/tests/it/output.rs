//! The output folder: nothing overwritten, nothing half-written, nothing rotated away that is needed.

use std::{fs, path::Path};

use ferrotune_core::BoxError;
use ferrotune_trainer::{
    Dataset, Error, Event, Existing, Finished, Listener, Resume, Trainer, TrainerState, TrainingConfig,
    checkpoints, prepare_output,
};

use crate::tiny::{Tiny, Twist, alone, in_order, samples, settings};

fn run(
    folder: &Path,
    config: TrainingConfig,
    export: &dyn Fn(&Path) -> Result<(), BoxError>,
) -> Result<Finished, Error> {
    let (model, parameters) = Tiny::new(Twist::None);
    let (samples, plan) = (samples(12), in_order(12, 2));
    Trainer::new(config, &model, &parameters, Dataset::new(&samples, &plan))?
        .with_output(folder)
        .with_export(export)
        .run(Resume::No)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_existing_run_is_refused_resumed_or_replaced_as_asked() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/run");
    assert_eq!(prepare_output(&path, Existing::Refuse).unwrap(), Resume::No);
    run(&path, settings(), &|_| Ok(())).unwrap();
    fs::write(path.join("notes.txt"), "mine").unwrap();
    let before = names(&path);

    let error = prepare_output(&path, Existing::Refuse).unwrap_err();
    assert!(matches!(&error, Error::OutputExists { found, .. } if found == "checkpoint-6"), "{error}");
    // Also where nobody asked first.
    let error = run(&path, settings(), &|_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::OutputExists { .. }));
    assert_eq!(names(&path), before);

    fs::create_dir(path.join(".incomplete-checkpoint-9")).unwrap();
    fs::write(path.join(".incomplete-trainer_state.json"), "{").unwrap();
    assert_eq!(prepare_output(&path, Existing::Resume).unwrap(), Resume::Newest);
    assert_eq!(names(&path), before);

    assert_eq!(prepare_output(&path, Existing::Force).unwrap(), Resume::No);
    assert_eq!(names(&path), ["notes.txt"]);
    run(&path, settings(), &|_| Ok(())).unwrap();
    assert_eq!(names(&path), before);
}

#[test]
fn a_checkpoint_holds_its_own_files_and_the_export() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let config = TrainingConfig { save_steps: Some(4), ..settings() };
    let export = |folder: &Path| {
        fs::create_dir(folder.join("adapter"))?;
        Ok(fs::write(folder.join("adapter/adapter_config.json"), "{}")?)
    };
    let finished = run(folder.path(), config, &export).unwrap();
    assert_eq!(names(folder.path()), ["checkpoint-4", "checkpoint-6", "trainer_state.json"]);
    let files = ["adapter", "run.json", "run.safetensors", "trainer_state.json"];
    assert_eq!(names(&folder.path().join("checkpoint-4")), files);
    let state = TrainerState::load(&folder.path().join("trainer_state.json")).unwrap();
    assert_eq!(state, finished.state);
    assert_eq!((state.global_step, state.max_steps, state.epoch), (6, 6, 1.0));
    let state = TrainerState::load(&folder.path().join("checkpoint-4/trainer_state.json")).unwrap();
    assert_eq!((state.global_step, state.log_history.len()), (4, 4));
}

#[test]
fn rotation_keeps_the_newest() {
    let _alone = alone();
    let left = |save_total_limit| {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainingConfig { save_steps: Some(1), save_total_limit, ..settings() };
        run(folder.path(), config, &|_| Ok(())).unwrap();
        let steps: Vec<u64> = checkpoints(folder.path()).unwrap().iter().map(|(step, _)| *step).collect();
        steps
    };
    assert_eq!(left(None), [1, 2, 3, 4, 5, 6]);
    assert_eq!(left(Some(2)), [5, 6]);
    assert_eq!(left(Some(1)), [6]);
}

#[test]
fn steps_are_ordered_as_numbers() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["checkpoint-9", "checkpoint-10", "checkpoint-x", "checkpoint-2.old", "other"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let steps: Vec<u64> = checkpoints(folder.path()).unwrap().iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [9, 10]);
    assert!(checkpoints(&folder.path().join("absent")).unwrap().is_empty());
}

#[test]
fn a_checkpoint_that_fails_leaves_the_earlier_ones_and_nothing_else() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let config = TrainingConfig { save_steps: Some(2), save_total_limit: Some(1), ..settings() };
    let export = |path: &Path| {
        fs::write(path.join("half.bin"), [0; 100])?;
        if path.to_string_lossy().contains("checkpoint-4") {
            Err("no space left on device".into())
        } else {
            Ok(())
        }
    };
    let error = run(folder.path(), config, &export).unwrap_err();
    assert!(matches!(&error, Error::Port { port: "the export", step: 4, .. }), "{error}");
    assert_eq!(names(folder.path()), ["checkpoint-2"]);
}

#[test]
fn what_a_run_needs_is_said_before_its_first_step() {
    let _alone = alone();
    #[derive(Default)]
    struct Order(Vec<String>, u64, u64);
    impl Listener for Order {
        fn on(&mut self, event: &Event<'_>) -> Result<(), BoxError> {
            self.0.push(format!("{event:?}").split(['(', ' ']).next().unwrap().to_owned());
            if let Event::Started { plan, .. } = event {
                assert_eq!((plan.steps, plan.steps_per_epoch, plan.warmup_steps), (6, 6, 0));
                assert_eq!(plan.groups.iter().map(|group| group.tensors).collect::<Vec<_>>(), [3, 2]);
                assert_eq!(plan.groups[0].weight_decay, 0.1);
                assert_eq!(plan.groups[1].weight_decay, 0.0);
                assert_eq!(
                    plan.groups.iter().map(|group| group.elements).sum::<u64>(),
                    plan.trainable_parameters
                );
                (self.1, self.2) = (plan.checkpoint_bytes, plan.disk_bytes);
            }
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, parameters) = Tiny::new(Twist::None);
    let (samples, plan) = (samples(12), in_order(12, 2));
    let mut order = Order::default();
    let config = TrainingConfig { weight_decay: 0.1, logging_steps: 6, save_steps: Some(3), ..settings() };
    Trainer::new(config, &model, &parameters, Dataset::new(&samples, &plan))
        .unwrap()
        .with_output(folder.path())
        .with_listener(&mut order)
        .run(Resume::No)
        .unwrap();
    let expected = [
        "Started",
        "Stepped",
        "Stepped",
        "Stepped",
        "CheckpointBegun",
        "CheckpointWritten",
        "Stepped",
        "Estimated",
        "Stepped",
        "Stepped",
        "Logged",
        "CheckpointBegun",
        "CheckpointWritten",
        "Finished",
    ];
    assert_eq!(order.0, expected);
    let scalars: u64 = parameters.elements();
    assert_eq!((order.1, order.2), (3 * 4 * scalars, 2 * 3 * 4 * scalars));
}

#[test]
fn the_largest_limit_keeps_every_checkpoint() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let config = TrainingConfig {
        max_steps: Some(3),
        save_steps: Some(1),
        save_total_limit: Some(u64::MAX),
        ..settings()
    };
    run(folder.path(), config, &|_| Ok(())).unwrap();
    assert_eq!(checkpoints(folder.path()).unwrap().len(), 3);
}

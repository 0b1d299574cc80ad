//! Processes that are killed again and again, also while they write a checkpoint, or whose writes are refused, end where
//! an undisturbed one ends.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use ferrotune_core::BoxError;
use ferrotune_trainer::{
    Dataset, Event, Existing, Listener, Trainer, TrainerState, TrainingConfig, checkpoints,
    listeners::{JsonLog, TensorBoard},
    prepare_output,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    logs::scalars,
    tiny::{DropoutLlama, in_order, samples, settings, shuffled},
};

/// Where the child trains; set by the parent.
const FOLDER: &str = "FERROTUNE_TRAINER_KILL_TEST_FOLDER";

const KILLS: u32 = 10;
const SEED: u64 = 2026;

/// Longer than any step, evaluation or checkpoint here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn config() -> TrainingConfig {
    TrainingConfig {
        epochs: 5.0,
        gradient_accumulation: 2,
        warmup_ratio: 0.1,
        eval_steps: Some(7),
        save_steps: Some(2),
        save_total_limit: Some(2),
        ..settings()
    }
}

/// Appends a byte per step to a file beside the run, for the parent to see.
struct Steps(PathBuf);

impl Listener for Steps {
    fn on(&mut self, event: &Event<'_>) -> Result<(), BoxError> {
        if let Event::Stepped(_) = event {
            fs::OpenOptions::new().append(true).create(true).open(&self.0)?.write_all(b".")?;
        }
        Ok(())
    }
}

/// Not a test of its own: what the processes of the test below run.
#[test]
fn child_of_the_kill_test() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    tch::set_num_threads(1);
    let resume = prepare_output(folder, Existing::Resume).unwrap();
    let (model, parameters) = DropoutLlama::new(11, 0.1);
    let samples = samples(77);
    let plan = shuffled(&samples, 2);
    let (validation, held_out) = (crate::tiny::samples(6), in_order(6, 2));
    let mut log = JsonLog::new(&folder.join("log.jsonl"));
    let mut board = TensorBoard::new(&folder.join("runs"));
    let mut steps = Steps(folder.with_extension("steps"));
    // A slow file, so that many kills fall into the middle of a checkpoint.
    let export = |folder: &Path| -> Result<(), BoxError> {
        let mut file = fs::File::create(folder.join("adapter.bin"))?;
        for piece in 0..10u8 {
            file.write_all(&[piece; 1000])?;
            sleep(Duration::from_millis(3));
        }
        Ok(())
    };
    Trainer::new(config(), &model, &parameters, Dataset::new(&samples, &plan))
        .unwrap()
        .with_validation(Dataset::new(&validation, &held_out))
        .unwrap()
        .with_output(folder)
        .with_export(&export)
        .with_listener(&mut log)
        .with_listener(&mut board)
        .with_listener(&mut steps)
        .run(resume)
        .unwrap();
}

fn child(folder: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "kill::child_of_the_kill_test", "--test-threads", "1"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The same process, whose files may not grow beyond 32 KiB (64 blocks of 512 bytes): logs and the history fit, a
/// checkpoint's tensors do not.
fn child_with_little_room(folder: &Path) -> Output {
    Command::new("sh")
        // With the signal ignored, the write itself fails.
        .args(["-c", r#"trap "" XFSZ; ulimit -f 64; exec "$@""#, "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "kill::child_of_the_kill_test", "--test-threads", "1", "--nocapture"])
        .env(FOLDER, folder)
        .output()
        .unwrap()
}

/// Polls until something is so; false if the process ended before.
fn wait_until(child: &mut Child, so: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !so() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < PATIENCE, "the child makes no progress");
        sleep(Duration::from_micros(200));
    }
    true
}

fn incomplete(folder: &Path) -> bool {
    let names = fs::read_dir(folder).unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.into_iter().any(|name| name.starts_with(".incomplete-checkpoint"))
}

/// The rows of the history with a step, without the clock.
fn history(folder: &Path) -> Vec<String> {
    let state = TrainerState::load(&folder.join("trainer_state.json")).unwrap();
    let rows = state.log_history.iter().map(|row| serde_json::to_value(row).unwrap());
    rows.map(|mut row| {
        row.as_object_mut().unwrap().retain(|key, _| !key.contains("runtime") && !key.contains("per_second"));
        row.to_string()
    })
    .collect()
}

#[test]
fn a_run_that_is_killed_ten_times_ends_with_the_same_bits() {
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(child(whole.path()).wait().unwrap().success());

    let mut random = StdRng::seed_from_u64(SEED);
    eprintln!("seed {SEED}");
    let steps_file = broken.path().with_extension("steps");
    let steps = || fs::read(&steps_file).map_or(0, |steps| steps.len());
    let (mut kills, mut while_writing, mut last_epoch) = (0, 0, 0.0);
    while kills < KILLS {
        fs::write(&steps_file, "").unwrap();
        let mut child = child(broken.path());
        let wanted = random.random_range(5..=8);
        let pause = Duration::from_micros(random.random_range(0..15_000));
        let alive = wait_until(&mut child, || steps() >= wanted);
        let alive = alive && (kills % 2 == 0 || wait_until(&mut child, || incomplete(broken.path())));
        assert!(alive, "the run ended after {kills} kills; it must be longer");
        sleep(pause);
        child.kill().unwrap(); // SIGKILL
        assert!(!child.wait().unwrap().success(), "the run ended before it was killed");
        kills += 1;
        while_writing += u32::from(incomplete(broken.path()));
        if let Some((step, path)) = checkpoints(broken.path()).unwrap().pop() {
            last_epoch = TrainerState::load(&path.join("trainer_state.json")).unwrap().epoch;
            eprintln!("kill {kills} after checkpoint {step}, epoch {last_epoch:.2}");
        }
    }
    eprintln!("{while_writing} of {kills} kills fell into the writing of a checkpoint");
    assert!(while_writing >= 3 && last_epoch > 1.0, "{while_writing} {last_epoch}");

    assert!(child(broken.path()).wait().unwrap().success());
    for folder in [whole.path(), broken.path()] {
        fs::remove_file(folder.with_extension("steps")).unwrap();
    }
    let [whole, broken] = [whole.path(), broken.path()];
    let steps =
        |folder: &Path| checkpoints(folder).unwrap().iter().map(|(step, _)| *step).collect::<Vec<_>>();
    assert_eq!(steps(whole), [98, 100]);
    assert_eq!(steps(broken), [98, 100]);
    // Weights, moments, counts and generator.
    for checkpoint in ["checkpoint-98", "checkpoint-100"] {
        let read = |folder: &Path| fs::read(folder.join(checkpoint).join("run.safetensors")).unwrap();
        assert!(read(whole) == read(broken), "{checkpoint} differs");
    }
    assert_eq!(history(whole), history(broken));
    assert_eq!(fs::read(whole.join("log.jsonl")).unwrap(), fs::read(broken.join("log.jsonl")).unwrap());
    assert_eq!(scalars(&whole.join("runs")), scalars(&broken.join("runs")));
    assert!(!incomplete(broken));
}

#[test]
fn a_write_that_the_system_refuses_leaves_the_earlier_checkpoint_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(child(folder).wait().unwrap().success());
    let expected = fs::read(folder.join("checkpoint-100/run.safetensors")).unwrap();
    assert!(expected.len() > 32 * 1024, "the tensors must not fit");
    fs::remove_dir_all(folder.join("checkpoint-100")).unwrap();
    let before = fs::read(folder.join("checkpoint-98/run.safetensors")).unwrap();
    let run = child_with_little_room(folder);
    let errors = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success());
    assert!(errors.contains(".incomplete-checkpoint-100/run.safetensors"), "{errors}");
    let left = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut left: Vec<String> = left.filter(|name| name.contains("checkpoint")).collect();
    left.sort();
    assert_eq!(left, ["checkpoint-98"]);
    assert!(before == fs::read(folder.join("checkpoint-98/run.safetensors")).unwrap());

    assert!(child(folder).wait().unwrap().success());
    assert!(expected == fs::read(folder.join("checkpoint-100/run.safetensors")).unwrap());
    fs::remove_file(folder.with_extension("steps")).unwrap();
}

//! Studies whose processes are killed, wherever that is, end as the study that was never interrupted.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use ferrotune::{
    Error, Progress,
    core::BoxError,
    report,
    study::{Interaction, Silent, Study},
    trainer::{Event, Existing, Listener, Resume, prepare_output},
};
use serde_json::Value;

use crate::study::{grade, open, place, replies, study_text, synthetic};

/// Set by the parent: the study's file, its output folder, and at which sign of life the child is killed; 0 is never.
const STUDY: &str = "FERROTUNE_RESUME_TEST_STUDY";
const OUTPUT: &str = "FERROTUNE_RESUME_TEST_OUTPUT";
const DIES_AT: &str = "FERROTUNE_RESUME_TEST_DIES_AT";

/// How many signs of life the last child gave, and what it said: beside its output folder.
const SIGNS: &str = "signs";
const SAID: &str = "said";

/// Counts every word and event, and kills its own process at one of them.
struct Doomed {
    signs: u64,
    dies_at: u64,
    output: PathBuf,
}

impl Doomed {
    fn sign(&mut self) {
        self.signs += 1;
        if self.signs == self.dies_at {
            Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status().unwrap();
            loop {
                thread::park(); // until the signal arrives
            }
        }
    }

    fn note(&self, line: &str) {
        let path = self.output.with_extension(SAID);
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, format!("{text}{line}\n")).unwrap();
    }
}

impl Interaction for Doomed {
    fn say(&mut self, line: &str) {
        self.note(line);
        self.sign();
    }

    fn progress(&mut self, _subject: &str, _progress: &Progress<'_>) {
        self.sign();
    }

    fn listener(&mut self) -> Option<&mut dyn Listener> {
        Some(self)
    }
}

impl Listener for Doomed {
    fn on(&mut self, event: &Event<'_>) -> Result<(), BoxError> {
        if let Event::Started { step, .. } = event {
            self.note(&format!("training begins after step {step}"));
        }
        self.sign();
        Ok(())
    }
}

/// Not a test of its own: what the processes of the tests below run.
#[test]
fn child_of_the_resume_tests() {
    let (Some(study), Some(output)) = (env::var_os(STUDY), env::var_os(OUTPUT)) else { return };
    let dies_at = env::var(DIES_AT).unwrap().parse().unwrap();
    let (study, output) = (Study::open(Path::new(&study)).unwrap(), PathBuf::from(output));
    let mut doomed = Doomed { signs: 0, dies_at, output: output.clone() };
    fs::write(output.with_extension(SAID), "").unwrap();
    let resume = prepare_output(&output, Existing::Resume).unwrap();
    let results = study.prepare(&mut doomed).unwrap().run(&output, resume, &mut doomed).unwrap();
    report::write(&output, &results).unwrap();
    fs::write(output.with_extension(SIGNS), doomed.signs.to_string()).unwrap();
}

/// Runs a study in a process of its own, which goes on with what is in the folder; whether it came to its end.
fn run(study: &Path, output: &Path, dies_at: u64) -> bool {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "resume::child_of_the_resume_tests", "--test-threads", "1", "--nocapture"])
        .env(STUDY, study)
        .env(OUTPUT, output)
        .env(DIES_AT, dies_at.to_string())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&child.stderr).into_owned();
    assert!(!errors.contains("panicked"), "{errors}");
    child.status.success()
}

fn said(output: &Path) -> String {
    fs::read_to_string(output.with_extension(SAID)).unwrap()
}

/// Everything that metrics, benchmarks, a judge and training can leave behind, in a file of this name.
fn whole_study(name: &str) -> PathBuf {
    let grades = format!("{name}-grades.jsonl");
    replies(&grades, |index| (0..3).map(|state| grade(2 + (index + state) % 8)).collect());
    let benchmark = |name: &str, more: &str| {
        let data = synthetic(name);
        format!(
            "[[evaluation.tasks]]\nname = \"{name}\"\ndata = \"{}\"\nany_row_count = true\nshots = 0\nlimit = 2\n{more}\n",
            data.display()
        )
    };
    let text = study_text(&format!(
        "metrics = \"perplexity,exact_match,bleu,rouge,gpt4_score\"\n[evaluation.judge]\nreplies = \"{grades}\"\n\
         prompt_price = 10.0\nreply_price = 100.0\n{}{}",
        benchmark("gsm8k", "max_new_tokens = 3"),
        benchmark("mgsm", "parts = [\"de\", \"en\"]\nmax_new_tokens = 3"),
    ));
    open(name, &text.replace("max_steps = 2", "max_steps = 4, save_steps = 1, save_total_limit = 2"))
        .unwrap();
    place().folder.path().join(format!("{name}.toml"))
}

/// The results without times, memory and the date.
fn timeless(output: &Path) -> Value {
    fn strip(value: &mut Value) {
        const CLOCKS: [&str; 11] = [
            "seconds",
            "finished",
            "wall_s",
            "train_seconds",
            "tokens_per_second",
            "supervised_tokens_per_second",
            "peak_rss_bytes",
            "training_time",
            "times",
            "total_time",
            "duration",
        ];
        match value {
            Value::Object(fields) => {
                fields.retain(|name, _| !CLOCKS.contains(&name.as_str()));
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut results: Value = serde_json::from_slice(&fs::read(output.join("results.json")).unwrap()).unwrap();
    // What the pages show of all this is a function of it.
    results.as_object_mut().unwrap().remove("summary");
    strip(&mut results);
    results
}

/// Every file that is not a log of times, with its contents.
fn same_files(output: &Path, other: &Path) {
    for state in ["base", "seed-3", "seed-4"] {
        for file in [
            "likelihoods.jsonl",
            "samples.jsonl",
            "samples-gsm8k.jsonl",
            "samples-mgsm.jsonl",
            "adapter/adapter_model.safetensors",
            "log.jsonl",
        ] {
            let path = Path::new("tiny").join(state).join(file);
            let read = |folder: &Path| fs::read(folder.join(&path)).ok();
            assert!(read(output) == read(other), "{} differs", path.display());
        }
        assert!(output.join("tiny").join(state).join("samples.jsonl").is_file());
    }
}

#[test]
fn a_study_that_is_killed_anywhere_ends_as_if_it_had_not_been() {
    let study = whole_study("killed");
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    assert!(run(&study, &whole, 0));
    let signs: u64 = fs::read_to_string(whole.with_extension(SIGNS)).unwrap().parse().unwrap();
    let expected = timeless(&whole);
    assert!(expected["comparisons"].as_array().unwrap().len() > 8, "{expected}");

    // Once, at places that lie evenly over the whole way.
    const PLACES: u64 = 6;
    for place in 1..=PLACES {
        let output = folder.path().join(format!("once-{place}"));
        assert!(!run(&study, &output, place * signs / PLACES), "it ended before it was killed");
        assert!(!output.join("results.json").exists());
        assert!(run(&study, &output, 0));
        assert_eq!(
            timeless(&output),
            expected,
            "killed at sign {} of {signs}: {}",
            place * signs / PLACES,
            said(&output)
        );
        same_files(&output, &whole);
    }

    // Again and again, each time a little later than the part it was in allows.
    let output = folder.path().join("often");
    let mut kills = 0;
    while !run(&study, &output, 9 + 6 * kills) {
        kills += 1;
        assert!(kills < signs, "the study makes no progress");
    }
    eprintln!("{kills} kills, {signs} signs");
    assert!(kills >= 3);
    assert_eq!(timeless(&output), expected);
    same_files(&output, &whole);

    // What is complete is not done again: not a word of training or measuring.
    assert!(run(&study, &output, 0));
    assert_eq!(timeless(&output), expected);
    let words = said(&output);
    assert!(!words.contains("measuring the") && !words.contains("training begins"), "{words}");
    assert!(words.contains("tiny/seed-4: measured before: answers, gsm8k, mgsm, perplexity"), "{words}");
}

#[test]
fn an_interrupted_training_goes_on_after_its_newest_checkpoint() {
    let study = whole_study("training");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let mut dies_at = 1;
    while !output.join("tiny/seed-3/checkpoint-2").exists() {
        assert!(!run(&study, &output, dies_at), "the study ended before its second checkpoint");
        dies_at += 3;
    }
    let newest = ferrotune::trainer::checkpoints(&output.join("tiny/seed-3")).unwrap().pop().unwrap().0;
    assert!(run(&study, &output, 0));
    let words = said(&output);
    assert!(words.contains(&format!("training begins after step {newest}\n")), "{words}");
    assert!(words.contains("tiny/base: measured before: answers, gsm8k, mgsm, perplexity"), "{words}");

    // What was changed since counts as not done, and only that.
    let samples = output.join("tiny/seed-4/samples-gsm8k.jsonl");
    fs::write(&samples, fs::read_to_string(&samples).unwrap().replacen("score\":", "score\": ", 1)).unwrap();
    assert!(run(&study, &output, 0));
    let words = said(&output);
    assert!(words.contains("tiny/seed-4: measured before: answers, mgsm, perplexity"), "{words}");
    assert!(words.contains("tiny/seed-3: measured before: answers, gsm8k, mgsm, perplexity"), "{words}");
    assert!(!words.contains("training begins"), "{words}");

    // An adapter is its configuration too: it is saved again from the newest checkpoint.
    let config = output.join("tiny/seed-4/adapter/adapter_config.json");
    let saved = fs::read_to_string(&config).unwrap();
    let scaled = saved.replacen("\"lora_alpha\": ", "\"lora_alpha\": 6", 1);
    assert_ne!(scaled, saved);
    fs::write(&config, scaled).unwrap();
    assert!(run(&study, &output, 0));
    assert_eq!(fs::read_to_string(&config).unwrap(), saved);
    let words = said(&output);
    assert!(words.contains("fine-tuned before with seed 3"), "{words}");
    assert!(words.contains("fine-tuning with seed 4"), "{words}");
}

#[test]
fn nothing_that_a_study_reads_or_did_not_write_is_replaced() {
    let text = study_text("metrics = \"exact_match\"");
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, text: &str, output: &Path, resume: Resume| {
        let before = contents(output);
        let study = open(name, text).unwrap();
        let error = study.prepare(&mut Silent).unwrap().run(output, resume, &mut Silent).unwrap_err();
        assert_eq!(contents(output), before, "a refusal changes nothing");
        error.to_string()
    };
    let output = |name: &str| {
        let output = folder.path().join(name);
        fs::create_dir_all(output.join("tiny")).unwrap();
        output
    };

    let foreign = output("foreign");
    fs::write(foreign.join("tiny/notes.txt"), "mine").unwrap();
    let message = refused("foreign", &text, &foreign, Resume::No);
    assert!(message.contains("tiny` was not written by a study"), "{message}");

    let model = output("model");
    for entry in fs::read_dir(&place().model).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs::copy(entry.path(), model.join("tiny").join(entry.file_name())).unwrap();
        }
    }
    let inside =
        text.replace(&place().model.display().to_string(), &model.join("tiny").display().to_string());
    let message = refused("model-inside", &inside, &model, Resume::No);
    assert!(message.contains("tiny` is read by the study"), "{message}");

    let data = output("data");
    fs::copy(place().folder.path().join("train.json"), data.join("results.json")).unwrap();
    let inside = text.replace("\"train.json\"", &format!("\"{}\"", data.join("results.json").display()));
    let message = refused("data-inside", &inside, &data, Resume::No);
    assert!(message.contains("results.json` is read by the study"), "{message}");

    let report = folder.path().join("report");
    fs::create_dir(&report).unwrap();
    fs::write(report.join("results.json"), "mine").unwrap();
    let message = refused("report", &text, &report, Resume::Newest);
    assert!(message.contains("it is not empty, and has no `study.json`"), "{message}");
}

/// Every file below a folder with its contents.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn another_study_is_refused_by_the_name_of_what_differs() {
    let text = study_text("metrics = \"exact_match\"");
    let folder = tempfile::tempdir().unwrap();
    let (data, model) = (folder.path(), folder.path().join("model"));
    fs::create_dir(&model).unwrap();
    let copy = |from: &Path, to: &Path| {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    };
    copy(&place().model, &model);
    copy(place().folder.path(), data);
    let text = text.replace(&place().model.display().to_string(), &model.display().to_string());
    let text = text.replace("max_steps = 2", "max_steps = 1").replace("[3, 4]", "[3]");
    let write = |text: &str| {
        let path = data.join("changing.toml");
        fs::write(&path, text).unwrap();
        path
    };
    let output = data.join("out");
    assert!(run(&write(&text), &output, 0));
    let before = contents(&output);
    let refused = |text: &str| {
        let study = Study::open(&write(text)).unwrap();
        let error =
            study.prepare(&mut Silent).unwrap().run(&output, Resume::Newest, &mut Silent).unwrap_err();
        assert_eq!(contents(&output), before, "a refusal changes nothing");
        error.to_string()
    };
    for (from, to, expected) in [
        (
            "learning_rate = 0.05",
            "learning_rate = 0.04",
            "setting `training.learning_rate` was 0.05 and is now 0.04",
        ),
        ("rank = 2", "rank = 4", "setting `adapter.rank` was 2 and is now 4"),
        ("seeds = [3]", "seeds = [3, 5]", "setting `seeds` was [3] and is now [3,5]"),
        (
            "max_new_tokens = 6",
            "max_new_tokens = 7",
            "setting `evaluation.max_new_tokens` was 6 and is now 7",
        ),
        ("device = \"cpu\"", "device = \"cpu\", dtype = \"bf16\"", "dtype was \"f32\" and is now \"bf16\""),
    ] {
        assert!(text.contains(from), "{from}");
        let message = refused(&text.replacen(from, to, 1));
        assert!(message.contains(expected) && message.contains("cannot be resumed"), "{message}");
    }
    let train = fs::read_to_string(data.join("train.json")).unwrap();
    fs::write(data.join("train.json"), format!("{train} ")).unwrap();
    let message = refused(&text);
    assert!(message.contains("the SHA-256 of data file 1, `train.json`, was "), "{message}");
    fs::write(data.join("train.json"), train).unwrap();

    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let message = refused(&text);
    assert!(message.contains("the SHA-256 of the weights of Tiny was "), "{message}");
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();

    // What changes no number may change: where checkpoints are kept, what the study is called.
    let free = text
        .replace("A study of the way", "Another name")
        .replace("max_steps = 1", "max_steps = 1, save_steps = 1");
    assert!(run(&write(&free), &output, 0));
    assert!(!said(&output).contains("measuring the"), "{}", said(&output));

    fs::remove_file(output.join("study.json")).unwrap();
    let study = Study::open(&write(&text)).unwrap();
    let error = study.prepare(&mut Silent).unwrap().run(&output, Resume::Newest, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::NotResumable { .. }), "{error}");
    assert!(error.to_string().contains("no `study.json`"), "{error}");
}

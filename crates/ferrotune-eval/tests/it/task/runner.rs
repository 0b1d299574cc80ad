use std::path::Path;

use ferrotune_core::{
    BoxError, Continuation, Generation, GenerationLimits, LanguageModel, Likelihood, Message, PromptTemplate,
    Role,
};
use ferrotune_eval::{
    Error, OnFailure,
    task::{PromptStyle, RunOptions, Task, TaskSettings, Turns, open_task, rescore_task, run_task, tasks},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Echo, any_rows, write};

/// Problems `i + 1` with the answer `i + 1`, in the schema of GSM8K.
fn problems(n: usize) -> String {
    let line = |i: usize| json!({"question": format!("What is {i} + 1?"), "answer": format!("Add.\n#### {}", i + 1)});
    (0..n).map(|i| line(i).to_string() + "\n").collect()
}

fn gsm8k(test: usize, train: usize, settings: &TaskSettings) -> (TempDir, Box<dyn Task>) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "test.jsonl", &problems(test));
    write(folder.path(), "train.jsonl", &problems(train));
    let task = open_task("gsm8k", folder.path(), settings).unwrap();
    (folder, task)
}

/// Answers right where the number in the question is even.
fn even(prompt: &str) -> String {
    let number: usize = prompt.rsplit("What is ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
    if number.is_multiple_of(2) { format!("So.\n#### {}", number + 1) } else { "#### 0".to_owned() }
}

#[test]
fn a_run_keeps_order_and_does_not_depend_on_the_batch() {
    let (_folder, task) = gsm8k(11, 8, &any_rows());
    let mut outcomes = Vec::new();
    for batch in [1, 3, 64] {
        let mut model = Echo { answer: Some(even), ..Echo::default() };
        let mut seen = Vec::new();
        let options = RunOptions { batch, ..RunOptions::default() };
        let outcome =
            run_task(task.as_ref(), &mut model, &options, &mut |progress| seen.push(progress.done)).unwrap();
        assert_eq!(*seen.last().unwrap(), 11);
        assert_eq!(seen.len(), 11_usize.div_ceil(batch));
        outcomes.push((outcome.records.iter().map(|r| r.value).collect::<Vec<_>>(), outcome.samples));
    }
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(outcomes[0], outcomes[2]);
    let (values, samples) = &outcomes[0];
    assert_eq!(values[0], Some(6.0 / 11.0));
    let ids: Vec<&str> = samples.iter().take(11).map(|line| line.id.as_str()).collect();
    assert_eq!(ids, (0..11).map(|i| format!("test/{i}")).collect::<Vec<_>>());
    assert_eq!(samples[2].extracted.as_deref(), Some("3"));
    assert_eq!(samples[2].prompt_sha.as_ref().map(String::len), Some(64));
}

#[test]
fn a_limit_is_named_and_takes_the_first_documents_with_the_same_prompts() {
    let (_folder, task) = gsm8k(9, 8, &any_rows());
    let mut whole = Echo::default();
    run_task(task.as_ref(), &mut whole, &RunOptions::default(), &mut |_| ()).unwrap();
    let mut part = Echo::default();
    let options = RunOptions { limit: Some(4), ..RunOptions::default() };
    let outcome = run_task(task.as_ref(), &mut part, &options, &mut |_| ()).unwrap();
    assert_eq!(part.prompts, whole.prompts[..4]);
    let record = &outcome.records[0];
    assert_eq!((record.n_total, record.run.dataset.n_rows), (4, 4));
    assert_eq!(record.params["limit"], json!(4));
    assert_eq!(record.params["n_shot"], json!(5));
    assert_eq!(record.params["prompt_style"], json!("plain"));
}

#[test]
fn truncated_prompts_are_counted() {
    let (_folder, task) = gsm8k(6, 8, &any_rows());
    let mut model = Echo { positions: Some(10), ..Echo::default() };
    let outcome = run_task(task.as_ref(), &mut model, &RunOptions::default(), &mut |_| ()).unwrap();
    assert_eq!(outcome.records[0].params["n_truncated"], json!(6));
}

#[test]
fn a_written_file_is_scored_again_without_a_model() {
    let (_folder, task) = gsm8k(7, 8, &any_rows());
    let mut model = Echo { answer: Some(even), ..Echo::default() };
    let first = run_task(task.as_ref(), &mut model, &RunOptions::default(), &mut |_| ()).unwrap();
    let again = rescore_task(task.as_ref(), &first.samples, &RunOptions::default()).unwrap();
    assert_eq!(again.samples, first.samples);
    let values = |records: &[ferrotune_eval::Record]| records.iter().map(|r| r.value).collect::<Vec<_>>();
    assert_eq!(values(&again.records), values(&first.records));

    let mut strange = first.samples.clone();
    strange[0].id = "test/99".to_owned();
    let error = rescore_task(task.as_ref(), &strange[..1], &RunOptions::default()).unwrap_err();
    assert!(error.to_string().contains("`test/99`"), "{error}");
}

/// Marks turns; refuses a system message if asked to.
#[derive(Debug)]
struct Marked {
    refuses_system: bool,
}

impl PromptTemplate for Marked {
    fn prompt(&self, messages: &[Message]) -> Result<String, BoxError> {
        if self.refuses_system && messages.iter().any(|message| message.role == Role::System) {
            return Err("no system messages".into());
        }
        Ok(messages.iter().map(|m| format!("<{}>{}", m.role.name(), m.content)).collect::<String>()
            + "<assistant>")
    }

    fn fingerprint(&self) -> &str {
        "marked"
    }
}

#[test]
fn a_template_gets_one_turn_or_a_turn_per_example() {
    let settings = TaskSettings { shots: Some(1), ..any_rows() };
    let (_folder, task) = gsm8k(1, 1, &settings);
    let check = |turns, expected: &str| {
        let template = std::sync::Arc::new(Marked { refuses_system: true });
        let style = PromptStyle::Template { template, turns };
        let mut model = Echo::default();
        let options = RunOptions { style, ..RunOptions::default() };
        let outcome = run_task(task.as_ref(), &mut model, &options, &mut |_| ()).unwrap();
        assert_eq!(model.prompts, [expected]);
        assert_eq!(outcome.records[0].run.template_sha.as_deref(), Some("marked"));
    };
    let (asked, shown) = ("Question: What is 0 + 1?\nAnswer:", "Add.\n#### 1");
    check(Turns::One, &format!("<user>{asked} {shown}\n\n{asked}<assistant>"));
    check(Turns::PerExample, &format!("<user>{asked}<assistant>{shown}<user>{asked}<assistant>"));
}

/// Says nothing at all, or loses a reply.
struct Forgetful;

impl LanguageModel for Forgetful {
    fn log_likelihoods(&mut self, _: &[Continuation]) -> Result<Vec<Likelihood>, BoxError> {
        Err("out of memory".into())
    }

    fn generate(&mut self, _: &[String], _: &GenerationLimits) -> Result<Vec<Generation>, BoxError> {
        Ok(Vec::new())
    }
}

#[test]
fn what_goes_wrong_says_so() {
    let (_folder, task) = gsm8k(2, 8, &any_rows());
    let error = run_task(task.as_ref(), &mut Forgetful, &RunOptions::default(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, Error::ReplyCount { found: 0, expected: 2 }), "{error}");
    let options = RunOptions { batch: 0, on_failure: OnFailure::Error, ..RunOptions::default() };
    let error = run_task(task.as_ref(), &mut Forgetful, &options, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("`batch` is 0"), "{error}");

    let open = |name: &str| open_task(name, Path::new("nowhere"), &any_rows()).unwrap_err().to_string();
    assert!(open("gsm9k").contains("unknown task `gsm9k`, expected one of"), "{}", open("gsm9k"));
    assert!(
        open("gsm8k:best").contains("no variant `best`, expected one of: lm-eval"),
        "{}",
        open("gsm8k:best")
    );
    assert!(open("gsm8k").contains("expected a file, or a folder"), "{}", open("gsm8k"));
    assert!(tasks().iter().all(|entry| !entry.variants.is_empty() && !entry.summary.is_empty()));
}

#[test]
fn per_sample_lines_hold_whole_prompts_on_request() {
    let settings = TaskSettings { shots: Some(0), ..any_rows() };
    let (_folder, task) = gsm8k(1, 1, &settings);
    let options = RunOptions { whole_prompts: true, ..RunOptions::default() };
    let outcome = run_task(task.as_ref(), &mut Echo::default(), &options, &mut |_| ()).unwrap();
    let line = serde_json::to_value(&outcome.samples[0]).unwrap();
    assert_eq!(line["input"], json!("Question: What is 0 + 1?\nAnswer:"));
    assert_eq!(line["extracted"], Value::Null);
    assert_eq!(line["score"], json!(0.0));
}

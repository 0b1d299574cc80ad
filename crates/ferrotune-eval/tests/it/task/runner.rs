use std::path::Path;

use ferrotune_core::{
    BoxError, Continuation, Generation, GenerationLimits, LanguageModel, Likelihood, Message, PromptTemplate,
    Role,
};
use ferrotune_eval::{
    Error, Existing, Model, OnFailure, Record, Run, SampleLine, read_samples, rescorable_pairs,
    sandbox::SandboxConfig,
    statistics::Bootstrap,
    task::{
        CodeExecution, PromptStyle, RunOptions, Task, TaskSettings, Turns, documents_within, open_task,
        rescore_task, run_task, tasks,
    },
    write_samples,
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
fn a_limit_counts_in_each_language_and_subject() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "mgsm/mgsm_de.tsv", &"Was?\t3\n".repeat(5));
    write(folder.path(), "mgsm/mgsm_en.tsv", &"What?\t3\n".repeat(5));
    write(folder.path(), "mmlu/test/anatomy_test.csv", "q,a,b,c,d,A\n");
    write(folder.path(), "mmlu/test/virology_test.csv", &"q,a,b,c,d,A\n".repeat(3));
    let problem =
        |subject: &str| json!({"problem": "p", "solution": r"\boxed{1}", "type": subject}).to_string() + "\n";
    write(folder.path(), "math/test.jsonl", &["a", "b", "a", "a", "b", "b"].map(problem).concat());
    let check = |name: &str, parts: &[&str], kind: &str, expected: &[usize]| {
        let parts = parts.iter().map(|&part| part.to_owned()).collect();
        let settings = TaskSettings { shots: Some(0), parts, ..any_rows() };
        let task = open_task(name, &folder.path().join(name), &settings).unwrap();
        assert_eq!(documents_within(task.as_ref(), Some(2)), expected, "{name}");
        let options = RunOptions { limit: Some(2), batch: 2, ..RunOptions::default() };
        let outcome = run_task(task.as_ref(), &mut Echo::default(), &options, &mut |_| ()).unwrap();
        let record = &outcome.records[0];
        assert_eq!((record.n_total, record.run.dataset.n_rows), (expected.len(), expected.len()), "{name}");
        assert_eq!(
            (&record.params["limit"], &record.params["limit_per"]),
            (&json!(2), &json!(kind)),
            "{name}"
        );
        let ids: Vec<&str> = outcome.samples[..expected.len()].iter().map(|line| line.id.as_str()).collect();
        let of_task: Vec<String> = expected.iter().map(|&index| task.document(index).id).collect();
        assert_eq!(ids, of_task, "{name}");
        let again = rescore_task(task.as_ref(), &outcome.samples, &Bootstrap::default()).unwrap();
        assert_eq!(again.samples, outcome.samples, "{name}");
    };
    check("mgsm", &["de", "en"], "language", &[0, 1, 5, 6]);
    check("mmlu", &[], "subject", &[0, 1, 2]);
    check("math", &[], "subject", &[0, 1, 2, 4]);
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
    let again = rescore_task(task.as_ref(), &first.samples, &Bootstrap::default()).unwrap();
    assert_eq!(again.samples, first.samples);
    let timeless = |record: &Record| Record { wall_s: 0.0, ..record.clone() };
    assert_eq!(
        again.records.iter().map(timeless).collect::<Vec<_>>(),
        first.records.iter().map(timeless).collect::<Vec<_>>()
    );
}

#[test]
fn a_record_of_replies_scored_again_says_what_they_were_made_with() {
    let settings = TaskSettings { max_new_tokens: Some(7), ..any_rows() };
    let (_folder, task) = gsm8k(9, 8, &settings);
    let run = Run {
        run_id: "first".to_owned(),
        model: Some(Model { base_sha: "weights".to_owned(), adapter_sha: None, dtype: "bf16".to_owned() }),
        tokenizer_sha: Some("tokenizer".to_owned()),
        seed: 5,
        ..Run::default()
    };
    let options = RunOptions { run: run.clone(), limit: Some(4), ..RunOptions::default() };
    let mut model = Echo { positions: Some(10), ..Echo::default() };
    let first = run_task(task.as_ref(), &mut model, &options, &mut |_| ()).unwrap();
    let again = rescore_task(task.as_ref(), &first.samples, &Bootstrap::default()).unwrap();
    let record = &again.records[0];
    assert_eq!((&record.run.run_id, &record.run.model, record.run.seed), (&run.run_id, &run.model, 5));
    assert_eq!(record.run.dataset.n_rows, 4);
    for (name, expected) in [
        ("limit", json!(4)),
        ("max_new_tokens", json!(7)),
        ("n_shot", json!(5)),
        ("n_truncated", json!(4)),
        ("prompt_style", json!("plain")),
    ] {
        assert_eq!(record.params[name], expected, "{name}");
    }
}

#[test]
fn replies_are_not_scored_against_what_they_do_not_answer() {
    let (_folder, task) = gsm8k(7, 8, &any_rows());
    let mut model = Echo { answer: Some(even), ..Echo::default() };
    let samples = run_task(task.as_ref(), &mut model, &RunOptions::default(), &mut |_| ()).unwrap().samples;
    let check = |task: &dyn Task, change: &dyn Fn(&mut Vec<SampleLine>), expected: &str| {
        let mut lines = samples.clone();
        change(&mut lines);
        let error = rescore_task(task, &lines, &Bootstrap::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nexpected {expected}");
    };
    let same = |_: &mut Vec<SampleLine>| ();

    // Other files under the same ids: one question, one right answer, the examples.
    let opened = |test: &str, train: &str, settings: &TaskSettings| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "test.jsonl", test);
        write(folder.path(), "train.jsonl", train);
        open_task("gsm8k", folder.path(), settings).unwrap()
    };
    let (test, train) = (problems(7), problems(8));
    let other = opened(&test.replace("What is 3", "What was 3"), &train, &any_rows());
    check(
        other.as_ref(),
        &same,
        "sample `test/3` cannot be scored again by this task: the task asks another question",
    );
    let other = opened(&test.replace("Add.\\n#### 3", "Count.\\n#### 3"), &train, &any_rows());
    check(
        other.as_ref(),
        &same,
        "sample `test/2` cannot be scored again by this task: the task has another right answer",
    );
    let other = opened(&test, &train.replace("Add.", "Count."), &any_rows());
    check(other.as_ref(), &same, "shows other examples or choices");

    // Other settings.
    let settings = TaskSettings { max_new_tokens: Some(9), ..any_rows() };
    let other = opened(&test, &train, &settings);
    check(other.as_ref(), &same, "asked with `max_new_tokens` 256, and the task was opened with 9");
    let other = opened(&test, &train, &TaskSettings { shots: Some(2), ..any_rows() });
    check(other.as_ref(), &same, "asked with `n_shot` 5, and the task was opened with 2");

    // Lines that are missing, too many, of two runs, or that disagree.
    let task = task.as_ref();
    check(
        task,
        &|lines| lines.retain(|line| line.id != "test/6"),
        "sample `test/6` cannot be scored again by this task: it has no line",
    );
    check(task, &|lines| lines[0].id = "test/99".to_owned(), "sample `test/99`");
    check(
        task,
        &|lines| {
            let extra = SampleLine { id: "test/99".to_owned(), ..lines[0].clone() };
            lines.push(extra);
        },
        "sample `test/99` cannot be scored again by this task: it is none of the 7 documents",
    );
    check(task, &|lines| lines[2].asked.as_mut().unwrap().run.seed = 9, "made by another run");
    check(task, &|lines| lines[2].asked = None, "does not say how it was asked");
    check(task, &|lines| lines[2].prediction.push('!'), "two of its lines hold different replies");
    // The second line of an id, by another rule on the same reply.
    let second = samples.iter().rposition(|line| line.id == "test/2").unwrap();
    assert_ne!(second, 2);
    let expected = "sample `test/2` cannot be scored again by this task: two of its lines hold different questions or right \
         answers";
    check(task, &|lines| lines[second].reference = vec!["#### 7".to_owned()], expected);
    check(task, &|lines| lines[second].prompt_sha = None, expected);
    check(task, &|lines| lines[second].asked.as_mut().unwrap().question_sha = "0".repeat(64), expected);
    check(task, &|lines| lines[second].asked = None, "does not say how it was asked");
    let added = |lines: &mut Vec<SampleLine>| {
        for line in lines.iter_mut().filter(|line| line.id == "test/2") {
            line.other_predictions.push("#### 3".to_owned());
        }
    };
    check(
        task,
        &added,
        "sample `test/2` cannot be scored again by this task: it holds 2 answers, and 1 were drawn",
    );
    check(task, &Vec::clear, "`samples` is empty");
}

#[test]
fn a_reply_that_is_more_than_a_text_is_no_pair() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.jsonl");
    let (_folder, task) = gsm8k(1, 1, &TaskSettings { shots: Some(0), ..any_rows() });
    let outcome = run_task(task.as_ref(), &mut Echo::default(), &RunOptions::default(), &mut |_| ()).unwrap();
    let line = &outcome.samples[0];
    let refused = |line: SampleLine| {
        write_samples(&path, &[line], Existing::Replace).unwrap();
        rescorable_pairs(&path).map_err(|error| error.to_string())
    };
    assert_eq!(refused(line.clone()).unwrap().len(), 1);
    let choices = SampleLine { log_likelihoods: vec![-1.0, -2.0], ..line.clone() };
    let several = SampleLine { other_predictions: vec!["b".to_owned()], ..line.clone() };
    for (line, field) in [(choices, "log_likelihoods"), (several, "other_predictions")] {
        let error = refused(line).unwrap_err();
        assert!(error.contains(&format!("line 1: sample `test/0` holds {field}")), "{error}");
        assert!(error.contains("`--task`"), "{error}");
    }
}

/// A model that finds nothing likely: every log-likelihood of its second document is not a number.
struct Lost;

impl LanguageModel for Lost {
    fn log_likelihoods(&mut self, requests: &[Continuation]) -> Result<Vec<Likelihood>, BoxError> {
        let likelihood = |place: usize| Likelihood {
            log_likelihood: if place / 4 == 1 { f64::NAN } else { -1.0 },
            tokens: 1,
            is_greedy: false,
            dropped: 0,
        };
        Ok((0..requests.len()).map(likelihood).collect())
    }

    fn generate(&mut self, _: &[String], _: &GenerationLimits) -> Result<Vec<Generation>, BoxError> {
        Err("choices are scored".into())
    }
}

#[test]
fn a_reply_that_cannot_be_scored_does_not_take_the_others_with_it() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "test/anatomy_test.csv", &"q,a,b,c,d,A\n".repeat(3));
    let settings = TaskSettings { shots: Some(0), ..any_rows() };
    let task = open_task("mmlu", folder.path(), &settings).unwrap();
    let outcome = run_task(task.as_ref(), &mut Lost, &RunOptions::default(), &mut |_| ()).unwrap();
    assert_eq!((outcome.samples.len(), outcome.records[0].n_failed), (3, 1));
    outcome.check(OnFailure::Skip).unwrap();
    // What is no number survives the way through a file.
    let path = folder.path().join("samples.jsonl");
    write_samples(&path, &outcome.samples, Existing::Refuse).unwrap();
    let again = rescore_task(task.as_ref(), &read_samples(&path).unwrap(), &Bootstrap::default()).unwrap();
    assert_eq!((again.records[0].value, again.records[0].n_failed), (outcome.records[0].value, 1));
    let error = outcome.check(OnFailure::Error).unwrap_err();
    assert!(matches!(&error, Error::SampleFailed { metric, .. } if metric == "mmlu"), "{error}");
}

#[test]
fn what_a_user_changes_stands_in_the_variant() {
    let variant = |name: &str, settings: &TaskSettings| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "test.jsonl", &problems(2));
        write(folder.path(), "train.jsonl", &problems(8));
        open_task(name, folder.path(), settings).unwrap().info().variant.clone()
    };
    let usual = variant("gsm8k", &any_rows());
    assert_eq!(usual, "lm-eval (lm-evaluation-harness 0.4.13 `gsm8k`: 5 examples drawn from train)");
    let settings = TaskSettings { shots: Some(0), max_new_tokens: Some(4), ..any_rows() };
    let changed = variant("gsm8k", &settings);
    assert_eq!(changed, usual + ", changed: n_shot 0 instead of 5, max_new_tokens 4 instead of 256");
}

#[test]
fn a_setting_without_effect_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "test.jsonl", &problems(2));
    write(folder.path(), "train.jsonl", &problems(8));
    let check = |name: &str, settings: TaskSettings, setting: &str| {
        let error = open_task(name, folder.path(), &settings).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{setting}` changes nothing in `{name}`")), "{error}");
    };
    let elsewhere = || Some(folder.path().to_owned());
    for name in
        ["gsm8k:lm-eval", "math:simple-evals", "gpqa:by-record", "mmlu:hendrycks", "mgsm:lm-eval-direct"]
    {
        check(name, TaskSettings { answers: Some(3), ..any_rows() }, "answers");
        check(name, TaskSettings { temperature: Some(0.0), ..any_rows() }, "temperature");
        let code_execution = CodeExecution::Allowed(SandboxConfig::default());
        check(name, TaskSettings { code_execution, ..any_rows() }, "code_execution");
        if !["mmlu:hendrycks", "mgsm:lm-eval-direct"].contains(&name) {
            check(name, TaskSettings { parts: vec!["en".to_owned()], ..any_rows() }, "parts");
        }
    }
    for name in ["gsm8k:lm-eval", "math:simple-evals", "mmlu:lm-eval"] {
        check(name, TaskSettings { shots: Some(0), examples: elsewhere(), ..any_rows() }, "examples");
    }
    check("gpqa:lm-eval-n-shot", TaskSettings { examples: elsewhere(), ..any_rows() }, "examples");
    for name in ["gpqa:lm-eval-zeroshot", "mmlu:lm-eval-continuation"] {
        check(name, TaskSettings { max_new_tokens: Some(9), ..any_rows() }, "max_new_tokens");
    }
    let code_execution = CodeExecution::Allowed(SandboxConfig::default());
    let settings = TaskSettings { code_execution, ..any_rows() };
    check("humaneval:lm-eval", TaskSettings { shots: Some(1), ..settings.clone() }, "shots");
    check("humaneval:lm-eval", TaskSettings { parts: vec!["a".to_owned()], ..settings }, "parts");
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
    let options = RunOptions { batch: 0, ..RunOptions::default() };
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

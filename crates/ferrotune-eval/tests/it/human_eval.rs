use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use ferrotune_core::{
    BoxError, Continuation, Generation, GenerationLimits, LanguageModel, Likelihood, StopReason,
};
use ferrotune_eval::{
    Error, Existing, TaskDataProblem, read_samples,
    sandbox::{Limits, Mechanism, SandboxConfig},
    statistics::Bootstrap,
    task::{
        CodeExecution, Request, RowCount, RunOptions, Task, TaskOutcome, TaskSettings, open_task,
        rescore_task, run_task, score_completions,
    },
    write_samples,
};
use serde_json::{Value, json};

use crate::{assert_close, sandbox::sandboxes, shared_data::shared};

/// For programs that end by themselves, on a machine that is busy.
const LONG: Duration = Duration::from_secs(120);

fn allowed(wall: Duration, mechanism: Option<Mechanism>) -> TaskSettings {
    let limits = Limits { wall, ..Limits::default() };
    let code_execution =
        CodeExecution::Allowed(SandboxConfig { limits, mechanism, ..SandboxConfig::default() });
    TaskSettings { code_execution, rows: RowCount::Any, ..TaskSettings::default() }
}

/// Whether code can be run here; says so if not.
fn can_run() -> bool {
    if sandboxes().is_empty() {
        let _ = writeln!(std::io::stderr(), "skipped: nothing isolates programs here");
    }
    !sandboxes().is_empty()
}

fn write_lines(folder: &Path, name: &str, lines: &[Value]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    path
}

/// Two problems in the benchmark's schema: the second has a helper above the function, as four of the real ones have.
fn problems() -> Vec<Value> {
    vec![
        json!({
            "task_id": "T/0",
            "prompt": "from math import prod\n\n\ndef product(numbers):\n    \"\"\" The product.\n    \"\"\"\n",
            "entry_point": "product",
            "canonical_solution": "    return prod(numbers)\n",
            "test": "def check(candidate):\n    assert candidate([2, 3]) == 6\n    assert candidate([]) == 1\n",
        }),
        json!({
            "task_id": "T/1",
            "prompt": "def helper(x):\n    return x + 1\n\n\ndef twice(x):\n    \"\"\" Helper, twice.\n    \"\"\"\n",
            "entry_point": "twice",
            "canonical_solution": "    return helper(helper(x))\n",
            "test": "def check(candidate):\n    assert candidate(1) == 3\n",
        }),
    ]
}

fn open(folder: &Path, variant: &str, settings: &TaskSettings) -> Box<dyn Task> {
    let path = write_lines(folder, "HumanEval.jsonl", &problems());
    open_task(&format!("humaneval:{variant}"), &path, settings).unwrap()
}

/// Answers every prompt with the next of some texts, and keeps what it was asked.
#[derive(Default)]
struct Scripted {
    answers: Vec<String>,
    prompts: Vec<String>,
    limits: Vec<GenerationLimits>,
}

impl LanguageModel for Scripted {
    fn log_likelihoods(&mut self, _: &[Continuation]) -> Result<Vec<Likelihood>, BoxError> {
        Err("not asked for".into())
    }

    fn generate(
        &mut self,
        prompts: &[String],
        limits: &GenerationLimits,
    ) -> Result<Vec<Generation>, BoxError> {
        self.limits.push(limits.clone());
        self.prompts.extend_from_slice(prompts);
        let answer = |_: &String| Generation {
            text: self.answers.remove(0),
            tokens: 1,
            stop: StopReason::EndOfSequence,
            dropped: 0,
        };
        Ok(prompts.iter().map(answer).collect())
    }
}

/// What a variant makes of two answers, one for each problem.
fn run(variant: &str, answers: [&str; 2]) -> (TaskOutcome, Scripted) {
    let folder = tempfile::tempdir().unwrap();
    let task = open(folder.path(), variant, &allowed(LONG, None));
    let mut model = Scripted { answers: answers.map(str::to_owned).to_vec(), ..Scripted::default() };
    let outcome = run_task(task.as_ref(), &mut model, &RunOptions::default(), &mut |_| {}).unwrap();
    (outcome, model)
}

fn results(outcome: &TaskOutcome) -> &Value {
    &outcome.records[0].params["results"]
}

#[test]
fn every_canonical_solution_passes_and_no_empty_one_does() {
    let Some(data) = shared("data/HumanEval.jsonl.gz") else { return };
    let folder = tempfile::tempdir().unwrap();
    for (place, (sandbox, _)) in sandboxes().iter().enumerate() {
        let by = &sandbox.isolation().mechanism;
        let mechanism = if by == "namespaces" { Mechanism::Namespaces } else { Mechanism::Bubblewrap };
        let settings = TaskSettings { rows: RowCount::Published, ..allowed(LONG, Some(mechanism)) };
        let task = open_task("humaneval:human-eval", &data, &settings).unwrap();
        let options = RunOptions::default();
        let score = |name: &str, completion: &dyn Fn(usize) -> String| {
            let line = |index| json!({"task_id": task.document(index).id, "completion": completion(index)});
            let path = write_lines(folder.path(), name, &(0..task.len()).map(line).collect::<Vec<_>>());
            score_completions(task.as_ref(), &path, &options).unwrap()
        };
        let canonical = score("canonical.jsonl", &|index| task.document(index).references[0].clone());
        assert_eq!(results(&canonical)["passed"], 164, "{by}: {}", results(&canonical));
        assert_eq!(canonical.records[0].value, Some(1.0));
        let empty: &[&str] = if place == 0 { &["", "    pass\n"] } else { &[""] };
        for &empty in empty {
            let found = score("empty.jsonl", &|_| empty.to_owned());
            assert_eq!(results(&found)["failed"], 164, "{by}: {}", results(&found));
            assert_eq!(found.records[0].value, Some(0.0));
            // Wilson's interval of 0 of 164: its upper end is z² / (n + z²).
            let [low, high] = found.records[0].ci95.unwrap();
            assert_close(low, 0.0, "lower end");
            assert_close(high, 3.841_458_820_694_124 / 167.841_458_820_694_12, "upper end");
        }
        eprintln!("{by}: 164 of 164 canonical solutions passed, 0 of 164 empty ones");
    }
}

#[test]
fn code_is_not_run_unless_that_is_allowed() {
    // Before anything else: the file does not exist.
    let error = open_task("humaneval", "nowhere".as_ref(), &TaskSettings::default()).unwrap_err();
    assert!(matches!(error, Error::CodeExecutionNotAllowed { .. }), "{error}");
    assert!(error.to_string().contains("--allow-code-execution"), "{error}");
}

#[test]
fn every_completion_is_counted_in_its_class() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let task = open(folder.path(), "human-eval", &allowed(LONG, None));
    let classes = [
        ("    return prod(numbers)\n", "passed"),
        ("    return sum(numbers)\n", "failed: AssertionError"),
        ("    return undefined\n", "failed: NameError"),
        ("  return 1\n   x", "failed: IndentationError"),
        (
            "    import os\n    print('passed')\n    os._exit(0)\n",
            "failed: ended before its test, exit status 0",
        ),
        ("    raise SystemExit(0)\n", "failed: SystemExit"),
        (
            "    import os\n    os.kill(os.getppid(), 9)\n    os.kill(1, 9)\n    return 0\n",
            "failed: AssertionError",
        ),
        ("    import os\n    while True: os.fork()\n", "contained: PermissionError"),
        ("    import socket\n    socket.socket()\n", "contained: PermissionError"),
        ("    open('/usr/lib/escaped', 'w')\n", "contained: OSError"),
        ("    return bytearray(1 << 40)\n", "contained: MemoryError"),
        // What it prints makes no difference.
        ("    print('x' * 10**6)\n    return prod(numbers)\n", "passed"),
    ];
    let mut lines: Vec<Value> =
        classes.iter().map(|(completion, _)| json!({"task_id": "T/0", "completion": completion})).collect();
    lines.extend(vec![json!({"task_id": "T/1", "completion": "    return helper(helper(x))\n"}); 20]);
    let path = write_lines(folder.path(), "samples.jsonl", &lines);
    let outcome = score_completions(task.as_ref(), &path, &RunOptions::default()).unwrap();
    let found: Vec<&str> = outcome.samples[0].extracted.as_deref().unwrap().lines().collect();
    for ((completion, expected), found) in classes.iter().zip(&found) {
        assert!(found.starts_with(expected), "{found} of\n{completion}");
    }
    assert_eq!(found.len(), classes.len());
    let counts = json!({"passed": 22, "failed": 6, "timed_out": 0, "contained": 4, "not_executed": 0});
    assert_eq!(*results(&outcome), counts);
    // 2 of 12 and 20 of 20 pass; there are too few completions of the first problem for k = 100.
    let names: Vec<&str> = outcome.records.iter().map(|record| record.metric.as_str()).collect();
    assert_eq!(names, ["humaneval", "humaneval_pass@10"]);
    assert_close(outcome.records[0].value.unwrap(), (2.0 / 12.0 + 1.0) / 2.0, "pass@1");
    // All 10 drawn are the 10 of 12 that fail: 10! 2! / 12! = 1 / 66.
    assert_close(outcome.records[1].value.unwrap(), (1.0 - 1.0 / 66.0 + 1.0) / 2.0, "pass@10");
    assert!(outcome.records[1].ci95.is_some());
    // Scored again from the per-sample file.
    let file = folder.path().join("written.jsonl");
    write_samples(&file, &outcome.samples, Existing::Refuse).unwrap();
    let again = rescore_task(task.as_ref(), &read_samples(&file).unwrap(), &Bootstrap::default()).unwrap();
    assert_eq!(results(&again), results(&outcome));
    assert_eq!(again.records[1].value, outcome.records[1].value);
}

/// By a task of its own: the time that programs without an end are given would be too short, on a machine that is busy, for
/// those that end.
#[test]
fn completions_without_an_end_are_counted_as_timed_out() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let task = open(folder.path(), "human-eval", &allowed(Duration::from_secs(1), None));
    let lines: Vec<Value> = ["    while True: pass\n", "    import time\n    time.sleep(1000)\n"]
        .iter()
        .flat_map(|completion| ["T/0", "T/1"].map(|id| json!({"task_id": id, "completion": completion})))
        .collect();
    let path = write_lines(folder.path(), "samples.jsonl", &lines);
    let outcome = score_completions(task.as_ref(), &path, &RunOptions::default()).unwrap();
    assert_eq!(outcome.samples[0].extracted.as_deref(), Some("timed out\ntimed out"));
    let counts = json!({"passed": 0, "failed": 0, "timed_out": 4, "contained": 0, "not_executed": 0});
    assert_eq!((results(&outcome), outcome.records[0].value), (&counts, Some(0.0)));
}

#[test]
fn base_models_complete_the_program() {
    if !can_run() {
        return;
    }
    let (outcome, model) = run("lm-eval", ["    return prod(numbers)", "    return helper(x)"]);
    assert_eq!(outcome.records[0].metric, "humaneval");
    assert_eq!(outcome.records[0].value, Some(0.5));
    assert_eq!(model.prompts[0], problems()[0]["prompt"].as_str().unwrap());
    let limits = &model.limits[0];
    assert_eq!(limits.stop, ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]);
    assert_eq!((limits.max_new_tokens, limits.temperature), (1024, 0.0));
    assert!(outcome.records[0].params["isolation"]["python"].as_str().unwrap().contains("Python 3"));
}

#[test]
fn the_harness_begins_the_reply_of_instructed_models() {
    if !can_run() {
        return;
    }
    let (outcome, model) =
        run("lm-eval-instruct", ["    return prod(numbers)\n```\nThis works.", "    return x\n"]);
    assert_eq!(outcome.records[0].value, Some(0.5));
    let program = problems()[0]["prompt"].as_str().unwrap().to_owned();
    let expected = format!(
        "Write a solution to the following problem and make sure that it passes the tests:\n\
         ```python\n{program}\n```\nHere is the completed function:\n```python\n{program}\n"
    );
    assert_eq!(model.prompts[0], expected);
}

#[test]
fn simple_evals_drops_what_stands_before_the_first_indented_line() {
    if !can_run() {
        return;
    }
    let whole =
        "Here:\n```python\ndef product(numbers):\n    return prod(numbers)\n```\nand\n```python\nx\n```";
    let settings = TaskSettings { answers: Some(1), ..allowed(LONG, None) };
    // A body without a signature loses its first character, which breaks its indentation.
    let bare = "```python\n    return helper(helper(x))\n```";
    let folder = tempfile::tempdir().unwrap();
    let task = open(folder.path(), "simple-evals", &settings);
    let mut model = Scripted { answers: vec![whole.to_owned(), bare.to_owned()], ..Scripted::default() };
    let outcome = run_task(task.as_ref(), &mut model, &RunOptions::default(), &mut |_| {}).unwrap();
    let found: Vec<&str> =
        outcome.samples.iter().map(|sample| sample.extracted.as_deref().unwrap()).collect();
    assert_eq!(found[0], "passed");
    assert!(found[1].starts_with("failed: IndentationError"), "{found:?}");
    assert_eq!(model.limits[0].temperature, 0.5);
    // Ours takes both.
    assert_eq!(run("instruct", [whole, bare]).0.records[0].value, Some(1.0));
}

#[test]
fn instructed_models_may_answer_with_a_function_or_its_body() {
    if !can_run() {
        return;
    }
    for [first, second] in [
        // The prompt's import and helper are there for a function that is written again.
        [
            "```python\ndef product(numbers):\n    return prod(numbers)\n```",
            "def twice(x):\n    return helper(helper(x))",
        ],
        ["```\n    return prod(numbers)\n```", "Sure!\n```py\ndef twice(x): return helper(helper(x))\n"],
        [
            "```python\nimport math\n\ndef product(n):\n    return math.prod(n)\n```",
            "    return helper(x) + 1",
        ],
    ] {
        let (outcome, _) = run("instruct", [first, second]);
        assert_eq!(outcome.records[0].value, Some(1.0), "{:?}", outcome.samples);
    }
}

#[test]
fn draws_are_settled_by_variant_and_settings() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let drawn = |variant: &str, settings: &TaskSettings| match open(folder.path(), variant, settings)
        .document(0)
        .request
    {
        Request::Generation { limits, samples, .. } => (samples, limits.temperature, limits.top_p),
        Request::Choices { .. } => unreachable!("HumanEval has no choices"),
    };
    let settings = allowed(LONG, None);
    for (variant, expected) in [
        ("lm-eval", (1, 0.0, 1.0)),
        ("lm-eval-64", (64, 0.2, 0.95)),
        ("lm-eval-64-instruct", (64, 0.2, 0.95)),
        ("simple-evals", (5, 0.5, 1.0)),
        ("instruct", (1, 0.0, 1.0)),
        ("human-eval", (200, 0.8, 0.95)),
    ] {
        assert_eq!(drawn(variant, &settings), expected, "{variant}");
    }
    let few = TaskSettings { answers: Some(3), temperature: Some(1.0), ..settings.clone() };
    assert_eq!(drawn("human-eval", &few), (3, 1.0, 0.95));
    let path = write_lines(folder.path(), "HumanEval.jsonl", &problems());
    for (refused, option) in [
        (TaskSettings { answers: Some(2), ..settings.clone() }, "answers"),
        (TaskSettings { answers: Some(0), ..settings.clone() }, "answers"),
        (TaskSettings { temperature: Some(-1.0), ..settings.clone() }, "temperature"),
    ] {
        let error = open_task("humaneval", &path, &refused).unwrap_err();
        assert!(matches!(&error, Error::Setting { option: found, .. } if *found == option), "{error}");
    }
}

#[test]
fn a_file_that_is_not_the_benchmark_is_refused() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let settings = allowed(LONG, None);
    let refused = |lines: &[Value], settings: &TaskSettings| {
        let path = write_lines(folder.path(), "HumanEval.jsonl", lines);
        match open_task("humaneval", &path, settings).unwrap_err() {
            Error::TaskData { problem, .. } => *problem,
            other => panic!("{other}"),
        }
    };
    let published = TaskSettings { rows: RowCount::Published, ..settings.clone() };
    assert!(matches!(refused(&problems(), &published), TaskDataProblem::RowCount { found: 2, .. }));
    let twice = [problems()[0].clone(), problems()[0].clone()];
    assert!(matches!(refused(&twice, &settings), TaskDataProblem::DuplicateId { .. }));
    let without_test =
        [json!({"task_id": "T/0", "prompt": "", "entry_point": "f", "canonical_solution": ""})];
    assert!(
        matches!(refused(&without_test, &settings), TaskDataProblem::MissingColumn { column, .. } if column == "test")
    );

    let task = open(folder.path(), "human-eval", &settings);
    let refused = |lines: &[Value], options: &RunOptions| {
        let path = write_lines(folder.path(), "samples.jsonl", lines);
        score_completions(task.as_ref(), &path, options).unwrap_err().to_string()
    };
    let line = |id: &str| json!({"task_id": id, "completion": ""});
    let all = RunOptions::default();
    assert!(refused(&[line("T/0")], &all).contains("`T/1` is missing"));
    assert!(refused(&[line("T/0"), line("T/1"), line("T/2")], &all).contains("T/2"));
    assert!(refused(&[json!({"task_id": "T/0"})], &all).contains("completion"));
    let first = RunOptions { limit: Some(1), ..RunOptions::default() };
    let path = write_lines(folder.path(), "samples.jsonl", &[line("T/0")]);
    assert_eq!(score_completions(task.as_ref(), &path, &first).unwrap().records[0].n_total, 1);
}

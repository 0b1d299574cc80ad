//! Prompts and verdicts of lm-evaluation-harness and prompts of simple-evals, from their own files over synthetic documents
//! (`tests/golden/tasks/generate.py`).

use std::{io::Write as _, path::PathBuf};

use ferrotune_core::{Generation, Likelihood, StopReason, digest};
use ferrotune_eval::{
    sandbox::SandboxConfig,
    task::{
        Answered, CodeExecution, PromptStyle, Reply, Request, Scores, Task, TaskSettings, open_task, tasks,
    },
};
use serde_json::Value;

use super::any_rows;
use crate::{golden, sandbox::sandboxes};

/// The subjects that the synthetic MMLU has.
const SUBJECTS: usize = 4;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tasks/data").join(name)
}

fn files(task: &str) -> PathBuf {
    data(match task {
        "gpqa" => "gpqa_synthetic.csv",
        "humaneval" => "HumanEval.jsonl",
        other => other,
    })
}

fn opened(name: &str, shots: Option<usize>) -> Box<dyn Task> {
    let task = name.split(':').next().unwrap();
    let code_execution = match task {
        "humaneval" => CodeExecution::Allowed(SandboxConfig::default()),
        _ => CodeExecution::Refused,
    };
    open_task(name, &files(task), &TaskSettings { shots, code_execution, ..any_rows() }).unwrap()
}

#[test]
fn prompts_are_those_of_the_suites() {
    let golden = golden!("tasks/prompts");
    let golden = golden.as_object().unwrap();
    for (name, documents) in golden {
        let (task, shots) = name.rsplit_once(' ').unwrap();
        if task.starts_with("humaneval") && sandboxes().is_empty() {
            let _ =
                writeln!(std::io::stderr(), "skipped: {task} is not opened where nothing isolates programs");
            continue;
        }
        let task = opened(task, Some(shots.parse().unwrap()));
        let documents = documents.as_array().unwrap();
        assert_eq!(task.len(), documents.len(), "{name}");
        for (index, expected) in documents.iter().enumerate() {
            let document = task.document(index);
            let prompt = document.request.prompt();
            let context = PromptStyle::Plain.render(prompt).unwrap();
            let what = format!("{name}, document {index}");
            let end = expected["context"].as_str().unwrap();
            if let Some(sha) = expected["sha256"].as_str() {
                assert!(
                    context.ends_with(end),
                    "{what}: ends with {:?}",
                    &context[context.len().min(end.len())..]
                );
                assert_eq!(digest::of_bytes(context.as_bytes()), sha, "{what}: {context}");
            } else {
                assert_eq!(context, end, "{what}");
            }
            match &document.request {
                Request::Choices { choices, .. } => {
                    let delimiter = PromptStyle::Plain.delimiter(prompt);
                    let found: Vec<String> =
                        choices.iter().map(|choice| format!("{delimiter}{choice}")).collect();
                    assert_eq!(found, crate::strings(&expected["continuations"]), "{what}");
                }
                Request::Generation { limits, .. } => {
                    assert_eq!(limits.stop, crate::strings(&expected["until"]), "{what}");
                }
            }
        }
    }
    let covered = |name: &str| golden.keys().any(|key| key.starts_with(&format!("{name} ")));
    for entry in tasks() {
        for (variant, _) in entry.variants.iter().filter(|(variant, _)| variant.contains("-eval")) {
            let name = format!("{}:{variant}", entry.name);
            // simple-evals asks HumanEval in words of its own and the authors' package asks nothing.
            let is_listed = entry.name != "humaneval" || variant.starts_with("lm-eval");
            assert!(covered(&name) || !is_listed, "{name}");
        }
    }
}

fn answered(task: &dyn Task, index: usize, reply: Reply) -> Vec<Answered> {
    vec![Answered { index, document: task.document(index), prompt_sha: String::new(), reply }]
}

fn said(text: &str) -> Reply {
    Reply::Generations(vec![Generation {
        text: text.to_owned(),
        tokens: 1,
        stop: StopReason::Length,
        dropped: 0,
    }])
}

/// The score and the extracted answer under the measurement that a filter or metric of the harness stands for.
fn under(scores: &Scores, name: &str) -> (f64, Option<String>) {
    let place = usize::from(["flexible-extract", "acc_norm"].contains(&name));
    let sample = &scores.per_document[place].samples[0];
    (sample.score.clone().unwrap(), sample.extracted.clone())
}

fn check_response(task: &dyn Task, first: usize, case: &Value, what: &str) {
    let index = first + case["document"].as_u64().unwrap() as usize;
    let response = case["response"].as_str().unwrap();
    let scores = task.score(&answered(task, index, said(response))).unwrap();
    for (filter, expected) in case.as_object().unwrap().iter().filter(|(_, value)| value.is_object()) {
        let (score, extracted) = under(&scores, filter);
        let what = format!("{what}, document {index}, {filter} of {response:?}: found {extracted:?}");
        assert_eq!(score, expected["score"].as_f64().unwrap(), "{what}, expected {expected}");
        // The reference has two ways to say that there is no answer.
        if let Some(filtered) = expected["filtered"].as_str() {
            let found = extracted.as_deref().unwrap_or("[invalid]");
            assert!(
                found == filtered || filtered.is_empty() && extracted.is_none(),
                "{what}, expected {filtered:?}"
            );
        }
    }
}

#[test]
fn verdicts_are_those_of_the_harness() {
    let golden = golden!("tasks/verdicts");
    for (name, cases) in golden.as_object().unwrap() {
        let task = opened(name, Some(0));
        let cases = cases.as_array().unwrap();
        if let Some(groups) = cases.first().and_then(Value::as_array).map(|_| cases) {
            let size = task.len() / groups.len();
            assert!(name.starts_with("mgsm") || groups.len() == SUBJECTS, "{name}");
            for (group, cases) in groups.iter().enumerate() {
                for case in cases.as_array().unwrap() {
                    check_response(task.as_ref(), group * size, case, name);
                }
            }
            continue;
        }
        for (index, case) in cases.iter().enumerate() {
            if case.get("log_likelihoods").is_none() {
                check_response(task.as_ref(), 0, case, name);
                continue;
            }
            let likelihood =
                |log_likelihood| Likelihood { log_likelihood, tokens: 1, is_greedy: false, dropped: 0 };
            let likelihoods = crate::numbers(&case["log_likelihoods"]).into_iter().map(likelihood).collect();
            let reply = Reply::Likelihoods(likelihoods);
            let scores = task.score(&answered(task.as_ref(), index, reply)).unwrap();
            for metric in ["acc", "acc_norm"] {
                let Some(expected) = case[metric].as_f64() else { continue };
                // The first document has no second measurement where the harness has none.
                if metric == "acc_norm" && scores.per_document.len() < 2 {
                    continue;
                }
                assert_eq!(under(&scores, metric).0, expected, "{name}, document {index}, {metric}");
            }
        }
    }
}

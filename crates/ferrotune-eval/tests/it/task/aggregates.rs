//! Averages over parts, the orders of choices, and tasks in an index.

use std::path::PathBuf;

use ferrotune_core::{Generation, StopReason};
use ferrotune_eval::{
    Error, Record, Run, Tally,
    benchmark::{LabelExtractor, rest_of_line, same_rational},
    quality_index::QualityIndex,
    statistics::{Bootstrap, mean_stderr, wilson_interval},
    task::{
        Answered, Document, Reply, Request, RunOptions, Scores, Task, TaskOutcome, TaskSettings, open_task,
        run_task,
    },
};
use serde_json::json;

use super::{Echo, any_rows, write};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tasks/data").join(name)
}

fn run(task: &dyn Task, model: &mut Echo) -> TaskOutcome {
    run_task(task, model, &RunOptions::default(), &mut |_| ()).unwrap()
}

#[test]
fn mmlu_is_the_same_from_every_schema() {
    let open = |name: &str| open_task("mmlu", &data(name), &any_rows()).unwrap();
    let (folder, hub) = (open("mmlu"), open("mmlu-hub"));
    assert_eq!(folder.len(), 12);
    for index in 0..folder.len() {
        assert_eq!(folder.document(index), hub.document(index));
    }
    let settings = TaskSettings { shots: Some(0), ..any_rows() };
    let simple = open_task("mmlu", &data("mmlu-simple-evals.csv"), &settings).unwrap();
    let bare = open_task("mmlu", &data("mmlu"), &settings).unwrap();
    assert!((0..bare.len()).all(|index| bare.document(index) == simple.document(index)));
}

#[test]
fn mmlu_has_micro_and_macro_means_categories_and_subjects() {
    let folder = tempfile::tempdir().unwrap();
    // Four questions of one subject, the right choice always A; one of another with the right choice B.
    write(folder.path(), "test/anatomy_test.csv", &"q,a,b,c,d,A\n".repeat(4));
    write(folder.path(), "test/virology_test.csv", "q,a,b,c,d,B\n");
    let settings = TaskSettings { shots: Some(0), ..any_rows() };
    let task = open_task("mmlu", folder.path(), &settings).unwrap();
    let replies = |index: usize| {
        let best = 0;
        let likelihoods = (0..4).map(|choice| if choice == best { -1.0 } else { -2.0 });
        let likelihood = |log_likelihood| ferrotune_core::Likelihood {
            log_likelihood,
            tokens: 1,
            is_greedy: false,
            dropped: 0,
        };
        ferrotune_eval::task::Answered {
            index,
            document: task.document(index),
            prompt_sha: String::new(),
            reply: ferrotune_eval::task::Reply::Likelihoods(likelihoods.map(likelihood).collect()),
        }
    };
    let scores = task.score(&(0..task.len()).map(replies).collect::<Vec<_>>()).unwrap();
    let value = |name: &str| {
        let all = scores.per_document.iter().chain(&scores.aggregates);
        all.filter(|m| m.metric == name).map(|m| m.value().unwrap()).next()
    };
    assert_eq!(value("mmlu"), Some(0.8));
    assert_eq!(value("mmlu_macro"), Some(0.5));
    assert_eq!(value("mmlu/stem"), Some(1.0));
    assert_eq!(value("mmlu/other"), Some(0.0));
    assert_eq!(value("mmlu/anatomy"), Some(1.0));
    assert_eq!(value("mmlu/virology"), Some(0.0));
}

#[test]
fn the_mean_over_subjects_is_drawn_subject_by_subject() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "test/anatomy_test.csv", &"q,a,b,c,d,A\n".repeat(4));
    write(folder.path(), "test/virology_test.csv", &"q,a,b,c,d,B\n".repeat(2));
    let settings = TaskSettings { shots: Some(0), ..any_rows() };
    let task = open_task("mmlu:lm-eval-generative", folder.path(), &settings).unwrap();
    let right = |document: &Document| document.references[0].clone();
    // All of anatomy: no draw can change that subject's mean, nor leave the other subject out.
    let scores = task.score(&replies(task.as_ref(), right, |id| id.contains("anatomy"))).unwrap();
    let found = record(&scores, "mmlu_macro");
    assert_eq!((found.value, found.ci95), (Some(0.5), None));
    assert!(found.ci_method.starts_with("none: every resample gives the same value"), "{}", found.ci_method);
    let scores = task.score(&replies(task.as_ref(), right, |id| id.ends_with('0'))).unwrap();
    let found = record(&scores, "mmlu_macro");
    assert!(found.ci_method.contains("within each of 2 strata"), "{}", found.ci_method);
}

#[test]
fn rows_with_equal_choices_are_kept_and_counted() {
    let header =
        "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n";
    let folder = tempfile::tempdir().unwrap();
    // The right answer twice, a wrong one twice, twice after lm-evaluation-harness' cleaning only, and never.
    let rows = "r1,q,x,x,b,c\nr2,q,a,b,b,c\nr3,q, a,a ,b,c\nr4,q,a,b,c,d\n";
    write(folder.path(), "gpqa_main.csv", &(header.to_owned() + rows));
    for (variant, documents, counted) in
        [("lm-eval-zeroshot", 4, 3), ("by-record", 4, 3), ("simple-evals", 16, 2)]
    {
        let task = open_task(&format!("gpqa:{variant}"), folder.path(), &any_rows()).unwrap();
        assert_eq!(task.len(), documents, "{variant}");
        assert_eq!(task.info().params.get("rows_with_equal_choices"), Some(&json!(counted)), "{variant}");
        // The first of equal texts, whatever the order.
        let document = task.document(0);
        let question = &document.request.prompt().question;
        let mark = if variant == "simple-evals" { ") x" } else { " x" };
        let first = question[..question.find(mark).unwrap() + 1].chars().rev().find(char::is_ascii_uppercase);
        assert_eq!(document.references[0].chars().nth(1), first, "{question}");
    }
    write(folder.path(), "gpqa_diamond.csv", &(header.to_owned() + "r4,q,a,b,c,d\n"));
    let task = open_task("gpqa", &folder.path().join("gpqa_diamond.csv"), &any_rows()).unwrap();
    assert!(task.info().params.is_empty());
}

#[test]
fn an_order_by_record_does_not_depend_on_other_records() {
    let header =
        "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n";
    let row = |i: usize| format!("r{i},q{i},right{i},a{i},b{i},c{i}\n");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "all.csv", &(header.to_owned() + &(0..20).map(row).collect::<String>()));
    write(folder.path(), "part.csv", &(header.to_owned() + &row(13) + &row(4)));
    let open = |variant: &str, name: &str| {
        open_task(&format!("gpqa:{variant}"), &folder.path().join(name), &any_rows()).unwrap()
    };
    let (all, part) = (open("by-record", "all.csv"), open("by-record", "part.csv"));
    assert_eq!(all.document(13), part.document(0));
    assert_eq!(all.document(4), part.document(1));
    let right: Vec<String> = (0..20).map(|i| all.document(i).references[0].clone()).collect();
    for label in ["(A)", "(B)", "(C)", "(D)"] {
        assert!(right.iter().any(|found| found == label), "no answer is {label}");
    }
    // The reference's order moves with the file.
    let (all, part) = (open("lm-eval-zeroshot", "all.csv"), open("lm-eval-zeroshot", "part.csv"));
    assert_ne!(all.document(13).request, part.document(0).request);
}

#[test]
fn math_problems_are_scored_by_level_and_subject() {
    let folder = tempfile::tempdir().unwrap();
    let line =
        |solution: &str| json!({"problem": "p", "solution": solution, "level": 3, "subject": "Algebra"});
    let lines = [line(r"\boxed{0.5}"), line(r"\boxed{2}")].map(|line| line.to_string() + "\n").concat();
    write(folder.path(), "test.jsonl", &lines);
    let task = open_task("math", folder.path(), &any_rows()).unwrap();
    let mut model = Echo { answer: Some(|_| r"$\frac{2}{4}$".to_owned()), ..Echo::default() };
    let outcome = run(task.as_ref(), &mut model);
    let record = |name: &str| outcome.records.iter().find(|record| record.metric == name).unwrap();
    let counts = |name: &str| (record(name).value, record(name).n_scored, record(name).n_failed);
    assert_eq!(counts("math"), (Some(0.0), 2, 0));
    assert_eq!(counts("math_numeric"), (Some(0.5), 2, 0));
    assert_eq!(record("math/Level 3").n_total, 2);
    assert_eq!(record("math/Algebra").n_total, 2);
}

#[test]
fn a_math_solution_without_a_box_is_found_before_a_model_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let line = |solution: &str| json!({"problem": "p", "solution": solution}).to_string() + "\n";
    let good = line(r"\boxed{1}");
    write(folder.path(), "test.jsonl", &(good.clone() + &line("It is 2.") + &good));
    let error = open_task("math", folder.path(), &any_rows()).unwrap_err().to_string();
    assert!(
        error.contains("test.jsonl") && error.contains("line 2, column `solution` is \"It is 2.\""),
        "{error}"
    );
    // One file per problem, and among the examples too.
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "test/algebra/1.json", &good);
    write(folder.path(), "train/algebra/8.json", &line("It is 2."));
    open_task("math", folder.path(), &any_rows()).unwrap();
    let settings = TaskSettings { shots: Some(1), ..any_rows() };
    let error = open_task("math", folder.path(), &settings).unwrap_err().to_string();
    assert!(error.contains("8.json") && error.contains("column `solution`"), "{error}");
}

#[test]
fn math_problems_are_numbered_by_their_files() {
    let task = open_task("math", &data("math"), &any_rows()).unwrap();
    let ids: Vec<String> = (0..3).map(|index| task.document(index).id).collect();
    assert_eq!(ids, ["test/algebra/1", "test/algebra/2", "test/algebra/10"]);
}

#[test]
fn numbers_are_compared_exactly() {
    let same = [
        ("1,000", "1000"),
        ("2", "2.0"),
        (r"\frac{2}{4}", r"\frac{1}{2}"),
        (r"1\frac{1}{2}", "3/2"),
        ("-.5", r"-\frac12"),
        ("2^{10}", "1024"),
        (r"$3\cdot 4$", "12"),
        ("(1,2)", "( 1, 2 )"),
        (r"\sqrt{2}", r"\sqrt{2}"),
        (r"\frac{-1}{-3}", r"\dfrac{1}{3}"),
        ("1,020,", "1020"),
    ];
    let different = [
        ("5", "-5"),
        ("1,2", "12"),
        ("18.00", "1800"),
        (r"\sqrt{4}", "2"),
        ("1/0", "0"),
        ("", "0"),
        ("x", "y"),
        ("1..2", "1.2"),
    ];
    for (a, b) in same {
        assert!(same_rational(a, b) && same_rational(b, a), "{a} and {b}");
    }
    for (a, b) in different {
        assert!(!same_rational(a, b) && !same_rational(b, a), "{a} and {b}");
    }
    assert!(!same_rational(&"(".repeat(100_000), "1"));
}

#[test]
fn labels_are_found_as_the_specification_lists_them() {
    let extractor = LabelExtractor::new().unwrap();
    let choices = ["red fox", "blue", "Green!", "x"];
    let cases = [
        ("the answer is Red Fox.", Some("(A)")),
        ("Answer: C", Some("(C)")),
        ("D", None),
        ("(A) no (B)", Some("(B)")),
    ];
    for (response, expected) in cases {
        assert_eq!(extractor.last_label(response, &choices).as_deref(), expected, "{response}");
    }
    assert_eq!(rest_of_line("The answer is", &["The answer is "]), None);
}

#[test]
fn an_index_over_tasks_refuses_a_missing_part() {
    let settings = TaskSettings { shots: Some(0), ..any_rows() };
    let score = |name: &str, path: &str| {
        let task = open_task(name, &data(path), &settings).unwrap();
        run(task.as_ref(), &mut Echo::default()).benchmark_score().unwrap()
    };
    let scores = [score("mmlu", "mmlu"), score("gpqa", "gpqa_synthetic.csv"), score("math", "math")];
    assert_eq!(scores.iter().map(|score| score.name.as_str()).collect::<Vec<_>>(), ["mmlu", "gpqa", "math"]);
    let error = QualityIndex::mean_of_four().value(&scores).unwrap_err();
    assert!(
        matches!(&error, Error::MissingComponent { component, .. } if component == "humaneval"),
        "{error}"
    );
}

#[test]
fn choices_follow_the_prompt_after_one_space() {
    let task = open_task("mmlu", &data("mmlu"), &any_rows()).unwrap();
    let mut model = Echo::default();
    run(task.as_ref(), &mut model);
    assert!(matches!(task.document(0).request, Request::Choices { .. }));
    let texts: Vec<&str> = model.continuations[..4].iter().map(|c| c.text.as_str()).collect();
    assert_eq!(texts, [" A", " B", " C", " D"]);
    assert!(model.continuations[0].context.ends_with("Answer:"));
    let outcome = run(task.as_ref(), &mut model);
    assert_eq!(outcome.samples[0].log_likelihoods.len(), 4);
    assert!(outcome.records[0].params.contains_key("stderr_pooled_over_groups"));
}

/// A reply for each document of a task, right where `is_right` says so of its id.
fn replies(task: &dyn Task, right: fn(&Document) -> String, is_right: fn(&str) -> bool) -> Vec<Answered> {
    let reply = |index: usize| {
        let document = task.document(index);
        let text = if is_right(&document.id) { right(&document) } else { "nothing".to_owned() };
        let generation = Generation { text, tokens: 1, stop: StopReason::Length, dropped: 0 };
        Answered { index, document, prompt_sha: String::new(), reply: Reply::Generations(vec![generation]) }
    };
    (0..task.len()).map(reply).collect()
}

fn record(scores: &Scores, metric: &str) -> Record {
    let mut all = scores.per_document.iter().chain(&scores.aggregates);
    let found = all.find(|measurement| measurement.metric == metric).unwrap();
    Record::new(&Run::default(), found, &Bootstrap::default(), 0.0).unwrap()
}

const NORMAL: f64 = 1.959_963_984_540_054;

#[test]
fn the_orders_of_a_question_are_one_question() {
    let header =
        "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n";
    let row = |i: usize| format!("r{i},q{i},right{i},a{i},b{i},c{i}\n");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "gpqa_diamond.csv", &(header.to_owned() + &(0..20).map(row).collect::<String>()));
    let task = open_task("gpqa:simple-evals", folder.path(), &any_rows()).unwrap();
    assert_eq!(task.len(), 80);
    // Questions 10 to 19 are answered right under all four orders.
    let right = |document: &Document| format!("Answer: {}", &document.references[0][1..2]);
    let scores =
        task.score(&replies(task.as_ref(), right, |id| id.starts_with("r1") && id.len() > 4)).unwrap();
    let record = record(&scores, "gpqa");
    assert_eq!((record.value, record.n_scored), (Some(0.5), 80));
    let questions: Vec<f64> = (0..20).map(|i| f64::from(u8::from(i >= 10))).collect();
    crate::assert_close(record.stderr.unwrap(), mean_stderr(&questions).unwrap(), "standard error");
    let (low, high) = wilson_interval(10, 20, NORMAL).unwrap();
    let [found_low, found_high] = record.ci95.unwrap();
    crate::assert_close(found_low, low, "lower end");
    crate::assert_close(found_high, high, "upper end");
    assert!(record.ci_method.contains("20 clusters"), "{}", record.ci_method);
}

#[test]
fn the_languages_of_a_problem_are_one_problem() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..10).map(|i| format!("How many are {i}?\t{i}\n")).collect();
    for code in ["de", "en", "fr"] {
        write(folder.path(), &format!("mgsm_{code}.tsv"), &lines);
    }
    let task = open_task("mgsm", folder.path(), &any_rows()).unwrap();
    let right = |document: &Document| document.references[0].clone();
    let scores = task.score(&replies(task.as_ref(), right, |id| "0123".contains(&id[3..]))).unwrap();
    let problems: Vec<f64> = (0..10).map(|i| f64::from(u8::from(i < 4))).collect();
    let (low, high) = wilson_interval(4, 10, NORMAL).unwrap();
    for metric in ["mgsm", "mgsm/group_latin", "mgsm/de"] {
        let record = record(&scores, metric);
        crate::assert_close(record.stderr.unwrap(), mean_stderr(&problems).unwrap(), metric);
        let [found_low, found_high] = record.ci95.unwrap();
        crate::assert_close(found_low, low, metric);
        crate::assert_close(found_high, high, metric);
    }
    // The mean of the languages' means is the same value here, and so is the mean of every resample of problems, each of
    // which has all languages: the bootstrap of one language.
    let bootstrap = Bootstrap::default().interval(&Tally::mean_of(&problems)).unwrap().unwrap();
    let record = record(&scores, "mgsm_macro");
    crate::assert_close(record.stderr.unwrap(), bootstrap.stderr, "mgsm_macro");
    crate::assert_close(record.ci95.unwrap()[0], bootstrap.low, "mgsm_macro");
    crate::assert_close(record.ci95.unwrap()[1], bootstrap.high, "mgsm_macro");
}

//! Studies from their files to their results, on a model that is grown in a single step: what is shown is the way.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use ferrotune::{
    Compute, Error, demo,
    eval::{
        Error::{Interpreter, Isolation},
        FailureKind, Outcome, Record,
        perplexity::TextLikelihood,
        read_samples,
    },
    grow,
    study::{Prepared, Silent, Study, StudyResults},
    trainer::{Resume, TrainingConfig},
};
use serde_json::json;

use crate::report::strangers;

/// Held-out records.
const HELD_OUT: usize = 5;

/// A folder with a model and records, made once.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) model: PathBuf,
}

pub(crate) fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let files = demo::write(folder.path(), demo::recipe::WORLD_SEED).unwrap();
        let model = files.models[0].clone();
        let pages = demo::World::new(demo::recipe::WORLD_SEED).pages()[..8].to_vec();
        let training = TrainingConfig { max_steps: Some(1), batch_size: 8, ..TrainingConfig::default() };
        grow(&model, &pages, &training, &compute(), None).unwrap();
        for (name, from, count) in [
            ("train", &files.train, 12),
            ("validation", &files.validation, 2),
            ("test", &files.test, HELD_OUT),
        ] {
            let text = fs::read_to_string(from).unwrap();
            let mut records: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            records.truncate(count);
            fs::write(folder.path().join(format!("{name}.json")), json!(records).to_string()).unwrap();
        }
        Place { folder, model }
    })
}

fn compute() -> Compute {
    Compute { device: "cpu".to_owned(), threads: Some(1), ..Compute::default() }
}

/// A study of the model, fine-tuned for two steps with two seeds; `evaluation` and what follows are the caller's.
pub(crate) fn study_text(evaluation: &str) -> String {
    format!(
        r#"
        title = "A study of the way"
        seeds = [3, 4]
        compute = {{ device = "cpu", threads = 1 }}
        data = {{ train = ["train.json"], validation = ["validation.json"], test = ["test.json"] }}
        adapter = {{ rank = 2 }}
        training = {{ max_steps = 2, batch_size = 4, learning_rate = 0.05 }}
        [[models]]
        name = "Tiny"
        path = "{}"
        [evaluation]
        max_new_tokens = 6
        {evaluation}
        "#,
        place().model.display()
    )
}

/// A study's file beside the records of the place.
pub(crate) fn open(name: &str, text: &str) -> Result<Study, Box<Error>> {
    let path = place().folder.path().join(format!("{name}.toml"));
    fs::write(&path, text).unwrap();
    Study::open(&path).map_err(Box::new)
}

/// One study at a time: libtorch's generators are the process's.
fn run(prepared: &Prepared<'_>) -> (tempfile::TempDir, Result<StudyResults, Error>) {
    static RUNNING: Mutex<()> = Mutex::new(());
    let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let output = tempfile::tempdir().unwrap();
    fs::write(output.path().join("report.html"), "of a former study").unwrap();
    let results = prepared.run(output.path(), Resume::No, &mut Silent);
    // Whether this study succeeds or fails, nobody takes the former report for its own.
    assert!(!output.path().join("report.html").exists());
    (output, results)
}

/// The ids of the held-out records, in their order.
fn ids() -> Vec<String> {
    let (records, _) = ferrotune::data::read_file(
        &place().folder.path().join("test.json"),
        ferrotune::data::Format::Alpaca,
        ferrotune::data::Strictness::Strict,
    )
    .unwrap();
    ferrotune::ids_of(&records.iter().collect::<Vec<_>>())
}

/// A file of replies: for each held-out record the replies to be given about it, one after the other.
pub(crate) fn replies(name: &str, of: impl Fn(usize) -> Vec<String>) -> PathBuf {
    let path = place().folder.path().join(name);
    let mut lines = String::new();
    for (index, id) in ids().into_iter().enumerate() {
        for text in of(index) {
            let usage = json!({"prompt_tokens": 100, "completion_tokens": 10});
            let reply = json!({"sample": id, "purpose": "gpt4_score", "text": text, "usage": usage});
            lines.push_str(&format!("{reply}\n"));
        }
    }
    fs::write(&path, lines).unwrap();
    path
}

pub(crate) fn grade(score: usize) -> String {
    json!({"reason": "as asked", "score": score}).to_string()
}

fn of_metric<'r>(records: &'r [Record], metric: &str) -> &'r Record {
    records.iter().find(|record| record.metric == metric).unwrap()
}

#[test]
fn a_judged_study_asks_what_it_estimated_and_shows_what_it_cost() {
    // Each state gets its own grades, as far as its answers are its own: equal answers are judged once.
    replies("grades.jsonl", |index| vec![grade(2 + index), grade(4 + index), grade(5 + index)]);
    let study = open(
        "judged",
        &study_text(
            r#"
            metrics = "perplexity,exact_match,gpt4_score,ragas_answer_correctness"
            [evaluation.judge]
            replies = "grades.jsonl"
            cache = "judge-cache.jsonl"
            prompt_price = 10.0
            reply_price = 100.0
            "#,
        ),
    )
    .unwrap();
    let prepared = study.prepare(&mut Silent).unwrap();
    let estimate = prepared.estimate();
    assert_eq!((estimate.evaluations, estimate.records), (3, HELD_OUT as u64));
    // Without an encoder RAGAS asks nobody.
    let questions = estimate.judge.unwrap();
    assert_eq!((questions.calls, questions.cached), (3 * HELD_OUT as u64, 0));
    let cost = questions.cost_at_most.unwrap();
    assert!(cost > 0.0);

    let (output, results) = run(&prepared);
    let results = results.unwrap();
    let model = &results.models[0];
    let base = of_metric(&model.base, "gpt4_score");
    // 2, 3, 4, 5 and 6.
    assert_eq!((base.value, base.n_scored, base.n_failed), (Some(4.0), HELD_OUT, 0));
    for run in &model.runs {
        assert_eq!(of_metric(&run.metrics, "gpt4_score").n_scored, HELD_OUT);
    }
    let judge = results.judge.as_ref().unwrap();
    let usage = judge.usage;
    assert_eq!(judge.name, "recorded replies of grades.jsonl");
    assert_eq!(usage.calls + usage.cached, questions.calls, "{usage:?}");
    assert_eq!((usage.unanswered, usage.retries, usage.uncounted), (0, 0, 0));
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (100 * usage.calls, 10 * usage.calls));
    assert!((usage.cost.unwrap() - usage.calls as f64 * 0.002).abs() < 1e-12 && usage.cost.unwrap() <= cost);
    assert!(results.failures.is_empty());
    let judged = results.comparisons.iter().filter(|found| found.comparison.metric == "gpt4_score");
    let compared: Vec<_> = judged.map(|found| (found.comparison.n, found.comparison.n_left_out)).collect();
    assert_eq!(compared, [(HELD_OUT, 0); 2]);
    let absent = of_metric(&model.base, "ragas_answer_correctness").not_measured.as_deref();
    assert_eq!(absent, Some("no sentence encoder was given"));
    assert_eq!(strangers(&results), [] as [String; 0]);

    // What perplexity was computed from gives it again.
    for (state, metrics) in [("base", &model.base), ("seed-3", &model.runs[0].metrics)] {
        let file = output.path().join("tiny").join(state).join("likelihoods.jsonl");
        let texts: Vec<TextLikelihood> = std::fs::read_to_string(file)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(texts.len(), HELD_OUT);
        let (total, tokens) = texts
            .iter()
            .fold((0.0, 0), |(total, tokens), text| (total + text.log_likelihood, tokens + text.tokens));
        let perplexity = of_metric(metrics, "perplexity").value.unwrap();
        assert!(((-total / tokens as f64).exp() / perplexity - 1.0).abs() < 1e-12, "{state}");
    }
    // Every state has its answers and judgments, the base too.
    for state in ["base", "seed-3", "seed-4"] {
        let lines = read_samples(&output.path().join("tiny").join(state).join("samples.jsonl")).unwrap();
        let judged: Vec<_> = lines.iter().filter(|line| line.metric == "gpt4_score").collect();
        assert_eq!(judged.len(), HELD_OUT, "{state}");
        assert!(judged.iter().all(|line| line.raw_judge.is_some()), "{state}");
    }
    drop(prepared);

    // With its cache nothing is asked twice. What the base answers is greedy, so its questions are the same.
    let again = study.prepare(&mut Silent).unwrap();
    let (_output, results) = run(&again);
    let results = results.unwrap();
    let usage = of_metric(&results.models[0].base, "gpt4_score").judge_usage.unwrap();
    assert_eq!((usage.calls, usage.cached), (0, HELD_OUT as u64));
}

#[test]
fn a_reply_that_cannot_be_used_is_counted_or_ends_the_study() {
    let prose = || "Nine out of ten, I would say.".to_owned();
    // The second record gets prose for every question and for every request to reply again.
    replies("prose.jsonl", |index| if index == 1 { vec![prose(); 6] } else { vec![grade(7); 3] });
    let text = |on_failure: &str| {
        study_text(&format!(
            "metrics = \"exact_match,gpt4_score\"\non_failure = \"{on_failure}\"\n[evaluation.judge]\nreplies = \"prose.jsonl\"\n"
        ))
    };
    let skipping = open("skip", &text("skip")).unwrap();
    let prepared = skipping.prepare(&mut Silent).unwrap();
    let (_output, results) = run(&prepared);
    let results = results.unwrap();
    let states =
        [&results.models[0].base, &results.models[0].runs[0].metrics, &results.models[0].runs[1].metrics];
    for records in states {
        let record = of_metric(records, "gpt4_score");
        assert_eq!((record.n_scored, record.n_failed, record.value), (HELD_OUT - 1, 1, Some(7.0)));
    }
    let counts: BTreeMap<_, _> =
        results.failures.iter().map(|f| ((f.seed, f.metric.as_str(), f.kind), f.count)).collect();
    let expected = [None, Some(3), Some(4)].map(|seed| ((seed, "gpt4_score", FailureKind::JudgeReply), 1));
    assert_eq!(counts, BTreeMap::from(expected));
    assert!(results.failures[0].first.starts_with(&ids()[1]), "{}", results.failures[0].first);
    let judged: Vec<_> =
        results.comparisons.iter().filter(|found| found.comparison.metric == "gpt4_score").collect();
    assert_eq!(judged.len(), 2);
    for found in judged {
        assert_eq!((found.comparison.n, found.comparison.n_left_out), (HELD_OUT - 1, 1));
    }
    assert_eq!(strangers(&results), [] as [String; 0]);

    let strict = open("error", &text("error")).unwrap();
    let prepared = strict.prepare(&mut Silent).unwrap();
    let (output, results) = run(&prepared);
    let error = results.unwrap_err().to_string();
    assert!(error.contains("gpt4_score") && error.contains(&ids()[1]), "{error}");
    // What was measured before is there, under a name that no reader takes for a finished one's, and the error says where.
    let folder = output.path().join("tiny/base");
    let unfinished = folder.join("samples-unfinished.jsonl");
    assert!(error.ends_with(&format!("; what was scored is in `{}`", unfinished.display())), "{error}");
    assert!(!folder.join("samples.jsonl").exists());
    let lines = read_samples(&unfinished).unwrap();
    let of = |metric: &str| lines.iter().filter(|line| line.metric == metric).collect::<Vec<_>>();
    assert_eq!((of("exact_match").len(), of("gpt4_score").len()), (HELD_OUT, HELD_OUT));
    let scored =
        of("gpt4_score").iter().map(|line| matches!(line.outcome, Outcome::Score(7.0))).collect::<Vec<_>>();
    assert_eq!(scored, [true, false, false, false, false], "the work ends at the second");
}

/// Synthetic benchmarks in the published schemas.
pub(crate) fn synthetic(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ferrotune-eval/tests/golden/tasks/data").join(name)
}

#[test]
fn benchmarks_are_asked_before_and_after_and_compared_with_everything_else() {
    let task = |name: &str, data: &str, more: &str| {
        let data = synthetic(data);
        format!(
            "[[evaluation.tasks]]\nname = \"{name}\"\ndata = \"{}\"\nany_row_count = true\nshots = 0\n{more}\n",
            data.display()
        )
    };
    let tasks = task("gsm8k", "gsm8k", "limit = 2\nmax_new_tokens = 4")
        + &task("mmlu", "mmlu", "limit = 2")
        + &task("mmlu:lm-eval-continuation", "mmlu", "limit = 2");
    let study = open("benchmarks", &study_text(&format!("metrics = \"exact_match\"\n{tasks}"))).unwrap();
    let prepared = study.prepare(&mut Silent).unwrap();
    // A limit counts in each of the four subjects.
    let documents: Vec<(&str, u64)> = vec![("gsm8k", 2), ("mmlu", 8), ("mmlu:lm-eval-continuation", 8)];
    let estimate = prepared.estimate();
    let estimated: Vec<(&str, u64)> =
        estimate.documents.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!((estimated, estimate.judge), (documents.clone(), None));

    let (output, results) = run(&prepared);
    let results = results.unwrap();
    let named: Vec<_> = results.benchmarks.iter().map(|one| (one.name.as_str(), one.documents)).collect();
    assert_eq!(named, documents);
    let model = &results.models[0];
    for records in std::iter::once(&model.base_benchmarks).chain(model.runs.iter().map(|run| &run.benchmarks))
    {
        for one in &results.benchmarks {
            let own: Vec<_> = records
                .iter()
                .filter(|record| record.metric == one.metric && record.variant == one.variant)
                .collect();
            assert_eq!(own.len(), 1, "{}", one.name);
            assert_eq!((own[0].n_total as u64, own[0].ci95.is_some()), (one.documents, true), "{}", one.name);
            assert_eq!(own[0].params["limit"], 2);
        }
        let index = of_metric(records, ferrotune::QUALITY_INDEX);
        let reason = "missing: gpqa, math, humaneval; in several variants: mmlu";
        assert_eq!((index.value, index.not_measured.as_deref()), (None, Some(reason)));
    }
    // One comparison for each metric, benchmark and seed, all in one family of Holm's.
    let compared: Vec<(&str, Option<u64>)> = results
        .comparisons
        .iter()
        .map(|found| (found.comparison.metric.as_str(), found.candidate.seed))
        .collect();
    let of_seed = |seed| ["exact_match", "gsm8k", "mmlu", "mmlu"].map(|metric| (metric, Some(seed)));
    assert_eq!(compared, [of_seed(3), of_seed(4)].concat());
    let variants: Vec<_> = results.benchmarks.iter().map(|one| &one.variant).collect();
    assert_eq!(results.comparisons[1..4].iter().map(|found| &found.variant).collect::<Vec<_>>(), variants);
    for state in ["base", "seed-3", "seed-4"] {
        for (name, lines) in [("gsm8k", 2), ("mmlu", 8), ("mmlu-lm-eval-continuation", 8)] {
            let file = output.path().join("tiny").join(state).join(format!("samples-{name}.jsonl"));
            let samples = read_samples(&file).unwrap();
            let ids: std::collections::BTreeSet<_> = samples.iter().map(|line| &line.id).collect();
            assert_eq!(ids.len(), lines, "{state}, {name}");
        }
    }
    assert_eq!(strangers(&results), [] as [String; 0]);
}

const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}({{ m.role }}) {{ m.content }}{{ eos_token }}{% endfor %}\
                             {% if add_generation_prompt %}(assistant) {% endif %}";

/// The model as an instruct checkpoint of this name: with a chat template beside it.
fn instruct(name: &str) -> PathBuf {
    let folder = place().folder.path().join(name);
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(&place().model).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    fs::write(folder.join("chat_template.jinja"), CHAT_TEMPLATE).unwrap();
    folder
}

#[test]
fn an_instruct_checkpoint_trains_and_answers_in_its_own_template() {
    let instruct = instruct("instruct");
    let data = synthetic("gsm8k");
    let text = study_text(&format!(
        "metrics = \"perplexity,exact_match\"\n[[evaluation.tasks]]\nname = \"gsm8k\"\ndata = \"{}\"\n\
         any_row_count = true\nshots = 1\nlimit = 2\nmax_new_tokens = 2\nturns = \"per-example\"\n\
         [[models]]\nname = \"Instruct\"\ntemplate = \"chat\"\npath = \"{}\"\n",
        data.display(),
        instruct.display()
    ));
    let study = open("chat", &text).unwrap();
    let prepared = study.prepare(&mut Silent).unwrap();
    let (_output, results) = run(&prepared);
    let results = results.unwrap();
    let [base, chat] = &results.models[..] else { panic!("{} models", results.models.len()) };
    let template = ferrotune::data::ChatTemplate::open(&instruct).unwrap().unwrap();
    let own = ferrotune::core::PromptTemplate::fingerprint(&template).to_owned();
    let own = own.as_str();
    assert_eq!(
        (chat.template.name.as_str(), chat.template.sha256.as_str()),
        ("the checkpoint's own chat template", own)
    );
    assert_eq!(base.template.name, "the study's, instruction-v1");

    // Its records hold what the template writes: the frame is another one, what is learnt is the answer and its end.
    let tokenizer = ferrotune::data::Tokenizer::from_folder(&instruct).unwrap();
    let written = ferrotune::data::Template::Chat(std::sync::Arc::new(template));
    let mut targets = 0;
    for part in ["train", "validation", "test"] {
        let path = place().folder.path().join(format!("{part}.json"));
        let (records, _) = ferrotune::data::read_file(
            &path,
            ferrotune::data::Format::Alpaca,
            ferrotune::data::Strictness::Strict,
        )
        .unwrap();
        for record in &records {
            let limits = ferrotune::data::Limits::default();
            let ferrotune::data::Encoded::Kept(sample) = written.encode(record, &tokenizer, &limits).unwrap()
            else {
                panic!("{record:?} is left out")
            };
            targets += sample.supervised_tokens() as u64;
            let answer: Vec<u32> = (sample.ids.iter().zip(&sample.supervised))
                .filter_map(|(&id, &learnt)| learnt.then_some(id))
                .collect();
            let text = ferrotune::core::Tokenize::decode(&tokenizer, &answer).unwrap();
            assert_eq!((text.trim(), answer.last()), (record.turns[0].response.as_str(), Some(&2)));
        }
    }
    assert_eq!(chat.encoding.supervised_tokens, targets);
    assert_ne!(chat.encoding.tokens, base.encoding.tokens);

    for (model, template, style) in
        [(base, base.template.sha256.as_str(), "plain"), (chat, own, "template, a turn per example")]
    {
        for records in [&model.base, &model.runs[0].metrics] {
            assert_eq!(of_metric(records, "exact_match").run.template_sha.as_deref(), Some(template));
        }
        for records in [&model.base_benchmarks, &model.runs[0].benchmarks] {
            let record = of_metric(records, "gsm8k");
            assert_eq!(record.params["prompt_style"], style);
            let sha = (style != "plain").then_some(template);
            assert_eq!(record.run.template_sha.as_deref(), sha);
        }
    }
    // Perplexities per token of different tokens are not compared across models, nor benchmarks that were asked in other
    // ways; answers are.
    let across = |metric: &str| {
        let crossing = |found: &&ferrotune::study::StudyComparison| {
            found.baseline.model != found.candidate.model && found.comparison.metric == metric
        };
        results.comparisons.iter().filter(crossing).count()
    };
    assert_eq!((across("perplexity"), across("exact_match"), across("gsm8k")), (0, 2, 0));
    assert_eq!(strangers(&results), [] as [String; 0]);

    let bare = text.replace(&instruct.display().to_string(), &place().model.display().to_string());
    let error = open("bare", &bare).unwrap().prepare(&mut Silent).unwrap_err().to_string();
    assert!(error.contains("models.template") && error.contains("Instruct"), "{error}");
}

#[test]
fn humaneval_is_asked_where_code_may_run_in_isolation() {
    let path = place().folder.path().join("one-problem.jsonl");
    let problem = json!({"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f",
        "canonical_solution": "    return 1\n", "test": "def check(candidate):\n    assert candidate() == 1\n"});
    fs::write(&path, format!("{problem}\n")).unwrap();
    let study = open(
        "humaneval",
        &study_text(&format!(
            "metrics = \"exact_match\"\n[[evaluation.tasks]]\nname = \"humaneval\"\ndata = \"{}\"\nany_row_count = true\n\
             max_new_tokens = 4\nallow_code_execution = true\n",
            path.display()
        )),
    )
    .unwrap();
    let prepared = match study.prepare(&mut Silent) {
        Ok(prepared) => prepared,
        Err(Error::Metric(error @ (Isolation { .. } | Interpreter { .. }))) => {
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let (_output, results) = run(&prepared);
    let results = results.unwrap();
    assert_eq!((results.benchmarks[0].metric.as_str(), results.benchmarks[0].documents), ("humaneval", 1));
    for records in [&results.models[0].base_benchmarks, &results.models[0].runs[1].benchmarks] {
        let record = of_metric(records, "humaneval");
        assert_eq!((record.value, record.n_scored), (Some(0.0), 1), "{:?}", record.not_measured);
    }
    assert_eq!(strangers(&results), [] as [String; 0]);
}

#[test]
fn what_cannot_be_measured_is_refused_by_name_before_anything_runs() {
    let gsm8k = synthetic("gsm8k");
    let gsm8k = gsm8k.display();
    let human_eval = place().folder.path().join("human-eval.jsonl");
    let problem = json!({"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f",
        "canonical_solution": "    return 1\n", "test": "def check(candidate):\n    assert candidate() == 1\n"});
    fs::write(&human_eval, format!("{problem}\n")).unwrap();
    let human_eval = human_eval.display();
    replies("unused.jsonl", |_| vec![grade(5)]);
    for (evaluation, expected) in [
        ("metrics = \"blue\"".to_owned(), "blue"),
        ("[[evaluation.tasks]]\nname = \"gsm9k\"\ndata = \"x\"".to_owned(), "gsm9k"),
        (format!("[[evaluation.tasks]]\nname = \"gsm8k:lm\"\ndata = \"{gsm8k}\""), "`lm`"),
        ("[[evaluation.tasks]]\nname = \"gsm8k\"".to_owned(), "`gsm8k` without data"),
        ("[[evaluation.tasks]]\nname = \"gsm8k\"\ndata = \"nowhere\"".to_owned(), "nowhere"),
        (format!("[[evaluation.tasks]]\nname = \"gsm8k\"\ndata = \"{gsm8k}\""), "1319"),
        (
            format!(
                "[[evaluation.tasks]]\nname = \"humaneval\"\nany_row_count = true\ndata = \"{human_eval}\""
            ),
            "humaneval",
        ),
        (format!("[[evaluation.tasks]]\nname = \"gsm8k\"\ndata = \"{gsm8k}\"\nany_rows = true"), "any_rows"),
        (format!("[[evaluation.tasks]]\nname = \"gsm8k\"\ndata = \"{gsm8k}\"\n").repeat(2), "`gsm8k` twice"),
        (
            ["gsm8k", "gsm8k:lm-eval"]
                .map(|name| {
                    format!("[[evaluation.tasks]]\nname = \"{name}\"\ndata = \"{gsm8k}\"\nany_row_count = true\nshots = 0\n")
                })
                .concat(),
            "`gsm8k` and `gsm8k:lm-eval`, which are the same",
        ),
        ("metrics = \"gpt4_score\"\n[evaluation.judge]\nmodel = \"gpt-4\"".to_owned(), "judge.url"),
        ("metrics = \"gpt4_score\"\n[evaluation.judge]\n".to_owned(), "without a judge"),
        (
            "metrics = \"bleu\"\n[evaluation.judge]\nreplies = \"unused.jsonl\"".to_owned(),
            "none of the metrics asks it",
        ),
        (
            "metrics = \"gpt4_score\"\n[evaluation.judge]\nreplies = \"absent.jsonl\"".to_owned(),
            "absent.jsonl",
        ),
        ("metrics = \"bleu\"\non_failure = \"retry\"".to_owned(), "retry"),
        ("limit = 0".to_owned(), "evaluation.limit"),
    ] {
        let error = match open("bad", &study_text(&evaluation)) {
            Ok(study) => Box::new(study.prepare(&mut Silent).map(|_| ()).unwrap_err()),
            Err(error) => error,
        };
        let mut message = error.to_string();
        let mut cause: &dyn std::error::Error = error.as_ref();
        while let Some(source) = cause.source() {
            message = format!("{message}: {source}");
            cause = source;
        }
        assert!(message.contains(expected), "{evaluation}: {message}");
    }
}

#[test]
fn a_local_judge_that_cannot_judge_leaves_its_metric_unmeasured_and_counted() {
    let judge = instruct("judge");
    // Questions to judges are longer than the model's 256 positions; rotary embeddings reach as far as they are let.
    let config = fs::read_to_string(judge.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = json!(16_384);
    fs::write(judge.join("config.json"), config.to_string()).unwrap();
    let study = open(
        "local",
        &study_text(&format!(
            "metrics = \"exact_match,gpt4_score\"\n[evaluation.judge]\nlocal = \"{}\"\nmax_tokens = 4\n",
            judge.display()
        )),
    )
    .unwrap();
    let prepared = study.prepare(&mut Silent).unwrap();
    let questions = prepared.estimate().judge.unwrap();
    let (_output, results) = run(&prepared);
    let results = results.unwrap();
    let usage = results.judge.as_ref().unwrap().usage;
    // A model that took a single step writes no grade, nor when it is asked again.
    assert_eq!(usage.calls + usage.cached, questions.calls_at_most, "{usage:?}");
    assert_eq!(usage.unusable, questions.calls_at_most, "{usage:?}");
    let record = of_metric(&results.models[0].base, "gpt4_score");
    assert_eq!((record.value, record.n_scored, record.n_failed), (None, 0, HELD_OUT));
    let reason = record.not_measured.as_deref().unwrap();
    assert!(reason.starts_with("all 5 samples failed"), "{reason}");
    assert_eq!(results.failures.iter().map(|failure| failure.count).sum::<u64>(), 3 * HELD_OUT as u64);
    assert!(results.comparisons.iter().all(|found| found.comparison.metric != "gpt4_score"));
    assert_eq!(strangers(&results), [] as [String; 0]);
}

#[test]
fn the_documented_study_is_one() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/study.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let study = open("documented", text).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!((study.models.len(), study.evaluation.tasks.len()), (2, 3));
    assert_eq!(study.evaluation.tasks[0].data, place().folder.path().join("grade-school-math/data"));
    for task in &study.evaluation.tasks {
        // Of the names and settings nothing is wrong, only the files are not there.
        use ferrotune::eval::Error::{Setting, UnknownTask, UnknownVariant};
        let error = task.open().unwrap_err();
        let named =
            matches!(error, Error::Metric(Setting { .. } | UnknownTask { .. } | UnknownVariant { .. }));
        assert!(!named, "{error}");
    }
}

#[test]
fn a_study_without_a_judge_says_that_there_is_none() {
    let study = open("unjudged", &study_text("metrics = \"exact_match,gpt4_score\"")).unwrap();
    let prepared = study.prepare(&mut Silent).unwrap();
    assert_eq!(prepared.estimate().judge, None);
    let (_output, results) = run(&prepared);
    let results = results.unwrap();
    assert_eq!(results.judge, None);
    let reason = of_metric(&results.models[0].base, "gpt4_score").not_measured.as_deref();
    assert_eq!(reason, Some("no judge was configured"));
}

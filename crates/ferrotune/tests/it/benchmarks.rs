//! Benchmarks end to end on a trained model, against lm-evaluation-harness with transformers: the numbers are committed, the
//! checkpoint is not.

use std::path::{Path, PathBuf};

use ferrotune::{
    Chat, PromptText, ScoredModel,
    core::{Continuation, GenerationLimits, LanguageModel as _, StopReason, Tokenize as _, digest},
    data::Tokenizer,
    eval::task::{PromptStyle, RowCount, RunOptions, TaskOutcome, TaskSettings, Turns, open_task, run_task},
    nn::CausalLm,
};
use serde_json::Value;
use tch::Kind;

use crate::{
    golden,
    tinystories::{LOG_LIKELIHOOD, checkpoint, load},
};

/// Documents of GSM8K and of each of MGSM's languages that are asked about.
const PROBLEMS: usize = 3;

/// Problems of GSM8K that examples are drawn from: the last ones, since its training data is not at hand.
const EXAMPLES: usize = 8;

struct Trained {
    folder: PathBuf,
    model: Box<dyn CausalLm>,
    tokenizer: Tokenizer,
    golden: Value,
}

fn trained(claim: &str) -> Option<Trained> {
    let folder = checkpoint(claim)?;
    let (model, tokenizer) = (load(&folder, Kind::Float), Tokenizer::from_folder(&folder).unwrap());
    Some(Trained { folder, model, tokenizer, golden: golden::json("expected/benchmarks.json") })
}

fn synthetic(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ferrotune-eval/tests/golden/tasks/data").join(name)
}

impl Trained {
    /// Runs a task of the golden file, whose key is its name and the number of examples.
    fn run(&self, key: &str, data: &Path, limit: Option<usize>) -> TaskOutcome {
        let (name, shots) = key.rsplit_once(' ').unwrap();
        let max_new_tokens = self.golden["max_new_tokens"].as_u64().map(|tokens| tokens as usize);
        let settings = TaskSettings {
            shots: Some(shots.parse().unwrap()),
            rows: RowCount::Any,
            max_new_tokens: max_new_tokens.filter(|_| !name.starts_with("mmlu") && !name.starts_with("gpqa")),
            ..TaskSettings::default()
        };
        let task = open_task(name, data, &settings).unwrap();
        let mut outcomes = [1, 64].map(|batch| {
            let mut scored =
                ScoredModel::new(self.model.as_ref(), &self.tokenizer).with_batch_tokens(1024 * batch);
            let options = RunOptions { limit, batch, whole_prompts: true, ..RunOptions::default() };
            run_task(task.as_ref(), &mut scored, &options, &mut |_| ()).unwrap()
        });
        let [alone, together] = &outcomes;
        for (one, other) in alone.samples.iter().zip(&together.samples) {
            assert_eq!(
                (&one.id, &one.prediction),
                (&other.id, &other.prediction),
                "{key} depends on the batch"
            );
            close(&one.log_likelihoods, &other.log_likelihoods, key);
        }
        outcomes[0].samples.retain(|line| line.metric == name.split(':').next().unwrap());
        let [alone, _] = outcomes;
        alone
    }

    /// Holds choices against the harness: every log-likelihood, and which document counts as right.
    fn check_choices(&self, key: &str, data: &Path) -> TaskOutcome {
        let outcome = self.run(key, data, None);
        let expected = self.golden[key].as_array().unwrap();
        assert_eq!(outcome.samples.len(), expected.len(), "{key}");
        for (line, expected) in outcome.samples.iter().zip(expected) {
            let what = format!("{key}, {}", line.id);
            let likelihoods: Vec<f64> = serde_json::from_value(expected["log_likelihoods"].clone()).unwrap();
            close(&line.log_likelihoods, &likelihoods, &what);
            let line = serde_json::to_value(line).unwrap();
            assert_eq!(line["score"], expected["acc"], "{what}");
        }
        outcome
    }

    /// Holds generated answers against the harness, and the log-likelihood of the right ones after the same prompts.
    fn check_answers(
        &self,
        key: &str,
        data: &Path,
        limit: Option<usize>,
        gold: impl Fn(&str) -> String,
    ) -> TaskOutcome {
        let outcome = self.run(key, data, limit);
        self.check_lines(key, &outcome, self.golden[key].as_array().unwrap(), gold);
        outcome
    }

    fn check_lines(
        &self,
        key: &str,
        outcome: &TaskOutcome,
        expected: &[Value],
        gold: impl Fn(&str) -> String,
    ) {
        assert_eq!(outcome.samples.len(), expected.len(), "{key}");
        for (line, expected) in outcome.samples.iter().zip(expected) {
            let what = format!("{key}, {}: {:?}", line.id, line.prediction);
            assert_eq!(digest::of_bytes(line.prediction.as_bytes()), expected["answer_sha256"], "{what}");
            let request = Continuation {
                context: line.input.clone().unwrap(),
                text: format!(" {}", gold(&line.reference[0])),
            };
            let mut scored = ScoredModel::new(self.model.as_ref(), &self.tokenizer);
            let found = scored.log_likelihoods(&[request]).unwrap()[0];
            close(&[found.log_likelihood], &[expected["gold_log_likelihood"].as_f64().unwrap()], &what);
            assert_eq!(found.is_greedy, expected["gold_is_greedy"], "{what}");
        }
    }
}

#[track_caller]
fn close(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        // The reference adds up in 32 bits, so sums of hundreds are good to a millionth.
        let error = (found - expected).abs() / (expected.abs() / 100.0).max(1.0);
        assert!(error < LOG_LIKELIHOOD, "{what}: {found} against {expected}, {error:e}");
    }
}

#[test]
fn mmlu_and_gpqa_choose_as_the_harness_does_with_transformers() {
    let Some(trained) = trained("MMLU and GPQA") else { return };
    trained.check_choices("mmlu:lm-eval 0", &synthetic("mmlu"));
    trained.check_choices("mmlu:lm-eval 0", &synthetic("mmlu-hub"));
    trained.check_choices("mmlu:lm-eval-continuation 0", &synthetic("mmlu"));
    trained.check_choices("gpqa:lm-eval-zeroshot 0", &synthetic("gpqa_synthetic.csv"));
}

#[test]
fn prompts_that_are_too_long_lose_their_beginning_as_in_the_harness() {
    let Some(trained) = trained("truncation") else { return };
    trained.check_choices("mmlu:lm-eval 5", &synthetic("mmlu"));
    let all = std::fs::read_to_string(trained.folder.parent().unwrap().join("gsm8k-test.jsonl")).unwrap();
    let lines: Vec<&str> = all.lines().collect();
    let folder = tempfile::tempdir().unwrap();
    let write =
        |name: &str, lines: &[&str]| std::fs::write(folder.path().join(name), lines.join("\n")).unwrap();
    write("test.jsonl", &lines[..PROBLEMS]);
    write("train.jsonl", &lines[lines.len() - EXAMPLES..]);
    let outcome = trained.check_answers("gsm8k:lm-eval 5", folder.path(), None, str::to_owned);
    let truncated = outcome.records[0].params["n_truncated"].as_u64().unwrap();
    println!("{truncated} of {} prompts were too long", outcome.records[0].n_total);
    assert!(truncated > 0, "no prompt was too long, so nothing was tested");
}

#[test]
fn math_is_answered_as_by_the_harness_with_transformers() {
    let Some(trained) = trained("MATH") else { return };
    trained.check_answers("math:lm-eval-hendrycks 0", &synthetic("math"), None, str::to_owned);
    trained.check_answers("math:lm-eval-hendrycks 2", &synthetic("math"), None, str::to_owned);
}

#[test]
fn gsm8k_and_mgsm_run_end_to_end() {
    let Some(trained) = trained("GSM8K and MGSM") else { return };
    let data = trained.folder.parent().unwrap();
    trained.check_answers("gsm8k:lm-eval 0", &data.join("gsm8k-test.jsonl"), Some(PROBLEMS), str::to_owned);

    let key = "mgsm:lm-eval-native-cot 0";
    let expected = trained.golden[key].as_array().unwrap();
    for (code, expected) in ["de", "en"].into_iter().zip(expected.chunks(PROBLEMS)) {
        let outcome = trained.run(key, &data.join(format!("mgsm_{code}.tsv")), Some(PROBLEMS));
        trained.check_lines(key, &outcome, expected, |answer| answer.replace(',', ""));
        println!("mgsm {code}: {:?} of {} right", outcome.records[0].value, outcome.records[0].n_scored);
    }
}

#[test]
fn the_published_files_are_whole() {
    let Some(folder) = checkpoint("row counts") else { return };
    let data = folder.parent().unwrap();
    let settings = TaskSettings { shots: Some(0), ..TaskSettings::default() };
    let len = |name: &str, file: &str| open_task(name, &data.join(file), &settings).unwrap().len();
    assert_eq!(len("gsm8k", "gsm8k-test.jsonl"), 1319);
    assert_eq!(len("mgsm", "mgsm_en.tsv"), 250);
    assert_eq!(len("mgsm:simple-evals", "mgsm_de.tsv"), 250);
    let error = open_task("mgsm", data, &settings).unwrap_err().to_string();
    assert!(error.contains("bn, es, fr, ja, ru, sw, te, th, zh are missing"), "{error}");
}

#[test]
fn a_prompt_that_spells_bos_begins_with_it_once() {
    let Some(trained) = trained("markup") else { return };
    let Trained { model, tokenizer, .. } = &trained;
    let (context, text) = ("<|start_story|>Once upon a time", " there was a girl.");
    let bos = tokenizer.special().bos.unwrap();
    let mut ids = tokenizer.encode_markup(context).unwrap().ids;
    assert!(ids[0] == bos && !tokenizer.encode(context).unwrap().ids.contains(&bos));
    let start = ids.len();
    ids.extend(&tokenizer.encode_markup(&format!("{context}{text}")).unwrap().ids[start..]);
    let scored = (0..ids.len()).map(|place| place >= start).collect();
    let mut port = ScoredModel::new(model.as_ref(), tokenizer).with_prompts(PromptText::Markup);
    let expected = port.score_ids(&[(ids, scored)]).unwrap()[0];
    let request = Continuation { context: context.to_owned(), text: text.to_owned() };
    let found = port.log_likelihoods(&[request]).unwrap()[0];
    assert_eq!(found.tokens, expected.tokens);
    close(&[found.log_likelihood], &[expected.log_likelihood], "markup");
}

#[test]
fn an_answer_ends_where_its_stop_is_complete() {
    let Some(trained) = trained("stops") else { return };
    let mut port = ScoredModel::new(trained.model.as_ref(), &trained.tokenizer);
    let prompts = ["Once upon a time, there was a little girl".to_owned()];
    let limits =
        GenerationLimits { max_new_tokens: 48, stop: Vec::new(), temperature: 0.0, top_p: 1.0, seed: 0 };
    let whole = port.generate(&prompts, &limits).unwrap()[0].clone();
    assert_eq!(whole.tokens, 48);
    let (before, _) = whole.text.split_once("explore").unwrap();
    let stop = vec!["nowhere".to_owned(), "explore".to_owned()];
    let cut = port.generate(&prompts, &GenerationLimits { stop, ..limits }).unwrap()[0].clone();
    assert_eq!((cut.text.as_str(), cut.stop), (before, StopReason::StopText));
    assert!(cut.tokens < whole.tokens, "{} tokens were generated", cut.tokens);
}

#[test]
fn a_style_is_chosen_by_what_the_folder_has() {
    let folder = tempfile::tempdir().unwrap();
    let style = |chat: Chat| chat.style(folder.path(), Turns::One).map_err(|error| error.to_string());
    assert!(matches!(style(Chat::Auto).unwrap(), (PromptStyle::Plain, PromptText::Plain)));
    let error = style("template".parse().unwrap()).unwrap_err();
    assert!(error.contains("has none"), "{error}");
    assert!(matches!(style(Chat::Study).unwrap(), (PromptStyle::Template { .. }, PromptText::Plain)));
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    assert!(matches!(style(Chat::Auto).unwrap(), (PromptStyle::Template { .. }, PromptText::Markup)));
    assert!(matches!(style(Chat::None).unwrap(), (PromptStyle::Plain, PromptText::Plain)));
    assert!("chatty".parse::<Chat>().unwrap_err().to_string().contains("auto, none, template or study"));
}

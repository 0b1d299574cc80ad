//! The study's report: its numbers, its words, its files.

#![allow(clippy::unwrap_used, reason = "a test that cannot make its sample has failed")]

use std::collections::{BTreeMap, BTreeSet};

use ferrotune::{
    data::SplitCounts,
    eval::{OnFailure, Record},
    report::{self, ReportError},
    study::{
        Answer, BenchmarkResults, CurvePoint, DataFile, DataResults, EncodingCounts, Environment,
        FailureCount, JudgeResults, ModelResults, Overfitting, RunResults, StudyComparison, StudyResults,
        TemplateResults,
    },
};
use serde_json::{Value, json};

// ---- sample results ---------------------------------------------------------------------------------------------

fn record(metric: &str, variant: &str, value: f64, spread: f64) -> Record {
    serde_json::from_value(json!({
        "run_id": "sample", "dataset": {"path_name": "held-out", "sha256": "ab", "n_rows": 213}, "seed": 7,
        "metric": metric, "variant": variant, "implementation_version": "ferrotune-eval 0.1.0", "params": {},
        "n_total": 213, "n_scored": 211, "n_failed": 2, "value": value, "stderr": spread / 2.0,
        "ci95": [value - spread, value + spread], "ci_method": "percentile bootstrap, 1000 resamples",
        "wall_s": 0.25,
    }))
    .unwrap()
}

fn unmeasured(metric: &str, reason: &str) -> Record {
    let mut record = record(metric, "as asked", 0.0, 0.0);
    (record.value, record.stderr, record.ci95) = (None, None, None);
    record.not_measured = Some(reason.to_owned());
    record.ci_method = "none".to_owned();
    record
}

fn metrics(lift: f64) -> Vec<Record> {
    let mut similarity =
        record("semantic_similarity", "cosine of sentence vectors", 0.2137 + 0.7 * lift, 0.02);
    similarity.params.insert("encoder".to_owned(), ENCODER.into());
    vec![
        record("exact_match", "raw equality, best reference, 0 to 1", 0.0142 + 0.83 * lift, 0.013),
        record("bleu", "sacrebleu 13a, 0 to 100", 3.4567 + 61.2 * lift, 1.4),
        record("rouge1", "f-measure", 0.1534 + 0.7 * lift, 0.02),
        record("rouge2", "f-measure", 0.0421 + 0.6 * lift, 0.02),
        record("rougeL", "f-measure", 0.1491 + 0.7 * lift, 0.02),
        record("rougeLsum", "f-measure", 0.1491 + 0.7 * lift, 0.02),
        record("perplexity", "exp of the loss per token", 48.345 - 44.9 * lift, 2.3),
        similarity,
        record("token_f1", "best reference", 0.1634 + 0.7 * lift, 0.02),
        unmeasured("squad_em", "no reference text was given"),
    ]
}

const GSM8K: &str =
    "lm-evaluation-harness 0.4.13 `gsm8k`: 5 examples drawn from train, share of documents, 0 to 1";

/// A benchmark's own record, another view of it, and an index that lacks its parts.
fn benchmarks(lift: f64) -> Vec<Record> {
    vec![
        record("gsm8k", GSM8K, 0.0612 + 0.21 * lift, 0.021),
        record("gsm8k/first", GSM8K, 0.0721 + 0.2 * lift, 0.033),
        unmeasured("quality_index", "missing: mmlu, gpqa, math, humaneval"),
    ]
}

const ENDPOINT: &str = "https://judge.example/v1/chat/completions";

const ENCODER: &str = "all-minilm-l6-v2 (53aa51172d14)";

/// A judged record with who judged and what it did cost.
fn judged(lift: f64) -> Record {
    let mut judged = record("gpt4_score", "integer 1 to 10 with reference", 2.4137 + 5.1 * lift, 0.31);
    (judged.n_scored, judged.n_failed) = (209, 4);
    judged.judge = serde_json::from_value(json!({
        "name": "judge-7b", "prompt_sha": "cdcd00112233".repeat(6)[..64], "params": {
            "endpoint": ENDPOINT, "temperature": 0.35, "max_tokens": 768, "seed": 41, "reasks": 2,
            "answered_as": ["judge-7b-2026-09-01"], "answered_from": "Sat, 21 Nov 2026 23:58:01 GMT",
            "answered_to": "Sun, 22 Nov 2026 01:14:55 GMT",
        },
    }))
    .ok();
    judged.judge_usage = serde_json::from_value(json!({
        "calls": 217, "cached": 11, "retries": 3, "unanswered": 1, "prompt_tokens": 61_234,
        "completion_tokens": 4_321, "uncounted": 2, "cost": 0.4567,
    }))
    .ok();
    judged
}

fn unscored(model: &str, seed: Option<u64>) -> FailureCount {
    serde_json::from_value(json!({
        "model": model, "seed": seed, "metric": "gpt4_score", "kind": "judge_reply", "count": 4,
        "first": "alpaca.json line 17: the score is no integer from 1 to 10: \"11 of 10\"",
    }))
    .unwrap()
}

/// The base of a model against one of its runs, in a metric.
fn comparison(model: &str, seed: u64, metric: &str, difference: f64, p_holm: f64) -> StudyComparison {
    serde_json::from_value(json!({
        "baseline": {"model": model, "seed": null}, "candidate": {"model": model, "seed": seed},
        "variant": if metric == "gsm8k" { GSM8K } else { "" }, "metric": metric, "first": 0.0142, "second": 0.0142 + difference, "difference": difference,
        "ci95": [difference - 0.041, difference + 0.043], "p_value": p_holm / 12.0, "p_holm": p_holm,
        "n": 209, "n_left_out": 4, "method": "paired percentile bootstrap, 10000 resamples",
    }))
    .unwrap()
}

/// In the first model every run differs in Exact Match; in the second one run in three does, and none in BLEU.
fn comparisons() -> Vec<StudyComparison> {
    let (llama, mixtral) = ("Tiny LLaMA", "Tiny Mixtral, four experts");
    vec![
        comparison(llama, 1, "exact_match", 0.761, 0.0004),
        comparison(llama, 2, "exact_match", 0.774, 0.0031),
        comparison(llama, 3, "exact_match", 0.788, 0.0004),
        comparison(mixtral, 1, "exact_match", 0.761, 0.0172),
        comparison(mixtral, 2, "exact_match", 0.774, 0.0612),
        comparison(mixtral, 3, "exact_match", 0.788, 0.3437),
        comparison(mixtral, 1, "bleu", 1.3, 0.7312),
        comparison(mixtral, 2, "bleu", 1.9, 0.9),
        comparison(mixtral, 3, "bleu", -2.1, 1.0),
        comparison(llama, 1, "gsm8k", 0.0877, 0.0213),
        comparison(llama, 2, "gsm8k", 0.0911, 0.0313),
        comparison(llama, 3, "gsm8k", 0.0947, 0.0413),
    ]
}

fn run(seed: u64, steps: u64, overfits: bool, shift: f64) -> RunResults {
    let wobble = |step: u64| 0.06 * ((step * (seed + 3)) as f64).sin();
    let at = |step: u64, loss: f64| CurvePoint { step, epoch: step as f64 * 2.0 / steps as f64, loss };
    let fall = |step: u64| 0.35 + shift + 2.4 * (-(step as f64) / (0.18 * steps as f64)).exp();
    let training_curve = (1..=steps / 5).map(|i| at(5 * i, fall(5 * i) + wobble(i))).collect();
    let turn = steps / 2;
    let validation_curve: Vec<CurvePoint> = (0..=10)
        .map(|i| {
            let step = i * steps / 10;
            let rise = if overfits && step > turn { 0.9 * (step - turn) as f64 / steps as f64 } else { 0.0 };
            at(step, fall(step) + 0.08 + 0.01 * seed as f64 + rise)
        })
        .collect();
    let last = validation_curve.last().unwrap().loss;
    let lowest = *validation_curve.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap();
    RunResults {
        seed,
        steps,
        epochs: 2.0,
        train_seconds: 83.417 + 5.1 * seed as f64 + 97.0 * shift,
        train_loss: 0.712_345 + shift,
        validation_loss: Some(last),
        tokens_per_second: 10_412.7 - seed as f64,
        supervised_tokens_per_second: 2_310.4 - seed as f64,
        peak_rss_bytes: 1_503_238_553 + seed,
        peak_device_bytes: None,
        training_curve,
        validation_curve,
        overfitting: overfits.then_some(Overfitting {
            step: lowest.step,
            epoch: lowest.epoch,
            lowest_loss: lowest.loss,
            final_loss: last,
        }),
        metrics: metrics(0.9 + 0.017 * seed as f64)
            .into_iter()
            .chain([judged(0.9 + 0.017 * seed as f64)])
            .collect(),
        benchmarks: benchmarks(0.4 + 0.017 * seed as f64),
    }
}

fn model(name: &str, family: &str, overfits: bool, shift: f64) -> ModelResults {
    ModelResults {
        name: name.to_owned(),
        family: family.to_owned(),
        origin: "grown from plain statements for 600 steps with all weights trainable".to_owned(),
        template: TemplateResults {
            name: "the study's, instruction-v1".to_owned(),
            sha256: "5150aa33bb44".repeat(6)[..64].to_owned(),
        },
        base_sha256: "3f9c12ab77de".repeat(6)[..64].to_owned(),
        tokenizer_sha256: "0123456789ab".repeat(6)[..64].to_owned(),
        parameters: if shift == 0.0 { 656_384 } else { 2_734_592 },
        active_parameters: if shift == 0.0 { 656_384 } else { 1_104_256 },
        trainable_parameters: 16_384,
        encoding: EncodingCounts {
            kept: 998,
            request_too_long: 1,
            nothing_supervised: 3,
            truncated: 17,
            tokens: 141_203,
            supervised_tokens: 61_377,
        },
        base: metrics(0.0).into_iter().chain([judged(0.0)]).collect(),
        base_benchmarks: benchmarks(0.0),
        runs: (1..=3).map(|seed| run(seed, 200, overfits && seed != 2, shift)).collect(),
        answers: vec![
            Answer {
                request: "What is the capital of the land of Orrin?".to_owned(),
                reference: "Velmora".to_owned(),
                base: "The land of Orrin has hills. The land of Orrin has hills. The".to_owned(),
                fine_tuned: "Velmora".to_owned(),
            },
            Answer {
                request: "Reverse the word: lantern".to_owned(),
                reference: "nretnal".to_owned(),
                base: String::new(),
                fine_tuned: "nretnal".to_owned(),
            },
        ],
    }
}

fn sample() -> StudyResults {
    StudyResults {
        title: "LLaMA and Mixtral, fine-tuned on the same instructions".to_owned(),
        description:
            "Two small base models of different families, fine-tuned with LoRA on the same records and the \
                      same settings, and measured before and after on questions that no record answers."
                .to_owned(),
        finished: "2026-11-22 02:41 UTC".to_owned(),
        seconds: 534.21,
        environment: Environment {
            ferrotune: "0.1.0".to_owned(),
            libtorch: "2.11.0".to_owned(),
            system: "linux x86_64".to_owned(),
            processor: "Intel Xeon Platinum 8488C".to_owned(),
            threads: 2,
            device: "cpu".to_owned(),
            dtype: "f32".to_owned(),
            memory_bytes: 25_769_803_776,
        },
        settings: [
            ("adapter", "LoRA"),
            ("rank", "64"),
            ("alpha", "16"),
            ("dropout", "0.1"),
            ("target modules", "q_proj, v_proj"),
            ("epochs", "2"),
            ("batch size", "4"),
            ("learning rate", "2.5e-5"),
            ("schedule", "linear, warm-up 0.03"),
            ("weight decay", "0"),
            ("max sequence length", "1024"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        data: DataResults {
            files: vec![
                DataFile {
                    name: "alpaca.json".to_owned(),
                    sha256: "9e1077bca5".repeat(7)[..64].to_owned(),
                    read: 999,
                    kept: 996,
                    dropped: BTreeMap::from([("no response".to_owned(), 2), ("not an object".to_owned(), 1)]),
                },
                DataFile {
                    name: "instruct-v3.parquet".to_owned(),
                    sha256: "ffee00112233".repeat(6)[..64].to_owned(),
                    read: 6,
                    kept: 6,
                    dropped: BTreeMap::new(),
                },
            ],
            split: SplitCounts { train: 689, validation: 100, test: 213, repeated: 7, unused: 0 },
            split_seed: 41,
        },
        benchmarks: vec![BenchmarkResults {
            name: "gsm8k".to_owned(),
            metric: "gsm8k".to_owned(),
            variant: GSM8K.to_owned(),
            data: "gsm8k".to_owned(),
            sha256: "77aa88bb99cc".repeat(6)[..64].to_owned(),
            documents: 213,
            available: 1319,
        }],
        judge: Some(JudgeResults {
            name: "judge-7b".to_owned(),
            usage: serde_json::from_value(json!({
                "calls": 1736, "cached": 88, "retries": 24, "unanswered": 8, "prompt_tokens": 489_872,
                "completion_tokens": 34_568, "uncounted": 16, "cost": 3.6536,
            }))
            .unwrap(),
            embeddings_usage: None,
        }),
        on_failure: Some(OnFailure::Skip),
        failures: vec![unscored("Tiny LLaMA", None), unscored("Tiny Mixtral, four experts", Some(2))],
        models: vec![
            model("Tiny LLaMA", "llama", true, 0.0),
            model("Tiny Mixtral, four experts", "mixtral", false, 0.21),
        ],
        comparisons: comparisons(),
    }
}

/// Results at the edges: hostile and endless names, huge losses, no validation, no runs, infinite metrics.
fn edges() -> StudyResults {
    let mut results = sample();
    results.models[0].name =
        "a-model-whose-name-is-the-path-of-a-checkpoint/with-many-parts_and-no-spaces-v0.2".to_owned();
    for run in &mut results.models[0].runs {
        for point in run.training_curve.iter_mut().chain(&mut run.validation_curve) {
            point.loss *= 3.5e29_f64.powf(point.epoch / 2.0);
        }
        run.overfitting = None;
        run.train_loss = 4.2e28;
        run.validation_loss = run.validation_curve.last().map(|point| point.loss);
        run.peak_device_bytes = Some(73_014_444_032);
    }
    results.models[1].name = HOSTILE.to_owned();
    for run in &mut results.models[1].runs {
        run.validation_curve.clear();
        run.validation_loss = None;
        run.metrics[6].value = Some(f64::INFINITY);
        run.metrics[6].ci95 = None;
    }
    results.models[1].parameters = 46_702_792_704;
    results.models[1].runs[0].metrics.truncate(1);
    results.models[1].runs[2].benchmarks[0].value = None;
    results.models[1].runs[2].benchmarks[0].not_measured = Some(HOSTILE.to_owned());
    results.failures[0].first = HOSTILE.repeat(9);
    results.judge.as_mut().unwrap().name = HOSTILE.to_owned();
    results.judge.as_mut().unwrap().usage.cost = None;
    results.models[1].runs[2].seed = u64::MAX - 1;
    let mut third = model("never trained", "mistral", false, 0.0);
    third.runs.clear();
    third.answers.clear();
    results.models.push(third);
    results
}

const HOSTILE: &str = r#"</title><script>alert("1")</script> & 'x' | `y` {{ title }} *z* <!-- "#;

// ---- the rule of numbers ----------------------------------------------------------------------------------------

/// A number as it stands in a text: sign, digits, digits after the point, exponent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Token(String);

impl Token {
    /// Whether this is how the number is written with as many digits.
    fn is(&self, number: f64) -> bool {
        let (mantissa, exponent) = match self.0.split_once('e') {
            Some((mantissa, _)) => (mantissa, true),
            None => (self.0.as_str(), false),
        };
        let digits = mantissa.split_once('.').map_or(0, |(_, digits)| digits.len());
        let written = if exponent { format!("{number:.digits$e}") } else { format!("{number:.digits$}") };
        // Nobody prints the sign of a zero.
        let zero = written.bytes().all(|b| matches!(b, b'-' | b'0' | b'.'));
        written == self.0 || (zero && written.trim_start_matches('-') == self.0)
    }
}

/// The numbers of a text. A run of letters and digits is a number if it has no letter but an exponent's; a minus
/// belongs to it only after a space or an opening bracket.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let word = |i: usize| chars.get(i).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    let digit = |i: usize| chars.get(i).is_some_and(char::is_ascii_digit);
    let mut found = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        if !word(i) {
            i += 1;
            continue;
        }
        let start = i;
        let mut end = i;
        while digit(end) {
            end += 1;
        }
        if end > start && chars.get(end) == Some(&'.') && digit(end + 1) {
            end += 1;
            while digit(end) {
                end += 1;
            }
        }
        if end > start && chars.get(end) == Some(&'e') {
            let sign = usize::from(matches!(chars.get(end + 1), Some('-' | '+')));
            if digit(end + 1 + sign) {
                end += 1 + sign;
                while digit(end) {
                    end += 1;
                }
            }
        }
        if end > start && !word(end) {
            let minus = start > 0
                && chars[start - 1] == '-'
                && (start == 1 || chars[start - 2].is_whitespace() || chars[start - 2] == '(');
            found.push(Token(chars[start - usize::from(minus)..end].iter().collect()));
            i = end;
        } else {
            i = end.max(start + 1);
            while word(i) {
                i += 1;
            }
        }
    }
    found
}

/// Everything a page shows: text between tags (also of the figure), and what appears on hovering.
fn visible(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        text.push_str(&rest[..start]);
        let end = start + rest[start..].find('>').expect("an unclosed tag");
        let tag = &rest[start..end];
        // A swatch, a cell and a tag's end part words.
        text.push(' ');
        for attribute in ["title=\"", "aria-label=\"", "alt=\""] {
            if let Some((_, value)) = tag.split_once(attribute) {
                text.push_str(value.split('"').next().unwrap());
                text.push(' ');
            }
        }
        rest = &rest[end + 1..];
        if tag.starts_with("<style") {
            rest = &rest[rest.find("</style>").expect("an unclosed style sheet")..];
        }
    }
    text.push_str(rest);
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#x27;", "'"),
        ("&#39;", "'"),
        ("&#x2f;", "/"),
        ("&nbsp;", "\u{a0}"),
        ("&amp;", "&"),
    ];
    entities.iter().fold(text, |text, (entity, c)| text.replace(entity, c))
}

/// The numbers and the texts of `results.json`.
#[derive(Default)]
struct Known {
    numbers: Vec<f64>,
    words: BTreeSet<Token>,
    hashes: Vec<String>,
}

impl Known {
    fn of(json: &str) -> Self {
        let mut known = Self::default();
        known.collect(&serde_json::from_str(json).unwrap());
        known
    }

    fn collect(&mut self, value: &Value) {
        match value {
            Value::Number(number) => {
                self.numbers.push(number.as_f64().unwrap());
                // A large seed has more digits than a floating-point number holds.
                self.words.insert(Token(number.to_string()));
            }
            Value::String(text) => self.text(text),
            Value::Array(values) => values.iter().for_each(|value| self.collect(value)),
            Value::Object(fields) => fields.iter().for_each(|(key, value)| {
                self.text(key);
                self.collect(value);
            }),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn text(&mut self, text: &str) {
        self.words.extend(tokens(text));
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            self.hashes.push(text.to_owned());
        }
    }

    /// The numbers of a text that stand nowhere in the results.
    fn strangers(&self, text: &str) -> Vec<Token> {
        tokens(text)
            .into_iter()
            .filter(|token| {
                let short_hash =
                    token.0.len() == 12 && self.hashes.iter().any(|hash| hash.starts_with(&token.0));
                // A plus is a sign as well, and none of the token's characters.
                !short_hash
                    && !self.words.contains(token)
                    && !self.numbers.iter().any(|&number| token.is(number))
            })
            .collect()
    }
}

/// The numbers of both reports that stand nowhere in the results.
pub(crate) fn strangers(results: &StudyResults) -> Vec<String> {
    let known = Known::of(&report::json(results).unwrap());
    let markdown = report::markdown(results).unwrap().replace('\\', "");
    let texts = [visible(&report::html(results).unwrap()), markdown];
    texts.iter().flat_map(|text| known.strangers(text)).map(|token| token.0).collect()
}

#[test]
fn the_checker_sees_numbers_and_their_digits() {
    let text = "a1 ROUGE-2 -0.25 (1.5e30) 3f9c 2026-11-22 x_3 10412.7, 4. 0.5e";
    let found: Vec<String> = tokens(text).into_iter().map(|token| token.0).collect();
    assert_eq!(found, ["2", "-0.25", "1.5e30", "2026", "11", "22", "10412.7", "4"]);
    assert!(Token("0.71".to_owned()).is(0.7123));
    assert!(!Token("0.72".to_owned()).is(0.7123));
    assert!(Token("1.5e30".to_owned()).is(1.4999e30));
    assert!(!Token("1.5e31".to_owned()).is(1.4999e30));
    assert!(!Token("0.25".to_owned()).is(-0.25));
    assert_eq!(
        visible("<p title=\"7\">a<b>1</b>2</p><style>p { x: 9 }</style>")
            .split_whitespace()
            .collect::<String>(),
        "7a12"
    );
}

#[test]
fn every_number_in_the_reports_stands_in_the_results() {
    for results in [sample(), edges()] {
        let known = Known::of(&report::json(&results).unwrap());
        let html = visible(&report::html(&results).unwrap());
        assert!(tokens(&html).len() > 400, "only {} numbers were found on the page", tokens(&html).len());
        assert_eq!(known.strangers(&html), [], "on the page");
        let markdown = report::markdown(&results).unwrap().replace('\\', "");
        assert_eq!(known.strangers(&markdown), [], "in the markdown");
    }
}

#[test]
fn a_changed_number_in_the_report_is_caught() {
    let results = sample();
    let known = Known::of(&report::json(&results).unwrap());
    let html = report::html(&results).unwrap();
    // Numbers of a table, of a sentence, of an axis and of a total, each with its last digit changed.
    let summary = report::summarize(&results);
    let loss = format!("{:.4}", results.models[0].runs[0].train_loss);
    let metric = format!("{:.3}", summary.models[1].metrics[3].fine_tuned.unwrap().mean);
    let seconds = format!("{:.1}", summary.models[0].train_seconds.unwrap().mean);
    for number in [loss, metric, seconds, "141203".to_owned()] {
        assert!(html.contains(&number), "{number} is not on the page");
        let last = number.chars().last().unwrap().to_digit(10).unwrap();
        let changed = format!("{}{}", &number[..number.len() - 1], (last + 3) % 10);
        let strangers = known.strangers(&visible(&html.replace(&number, &changed)));
        assert!(strangers.contains(&Token(changed.clone())), "{number} became {changed} and nobody saw it");
    }
}

#[test]
fn a_result_that_changes_after_the_page_was_made_is_caught() {
    let mut results = sample();
    let html = visible(&report::html(&results).unwrap());
    results.models[0].runs[1].train_seconds += 17.3;
    let known = Known::of(&report::json(&results).unwrap());
    assert!(!known.strangers(&html).is_empty());
}

#[test]
fn cells_show_the_value_of_their_own_model_and_state() {
    let results = sample();
    let html = report::html(&results).unwrap();
    let row = html.lines().find(|line| line.contains("\"row\">Exact Match&nbsp;<")).unwrap();
    let cells = tokens(&visible(row));
    // Base 0.0142; means over lifts 0.917, 0.934 and 0.951 of 0.0142 + 0.83 lift, with their ends.
    // Beside them the base's interval, and 211 of 213 samples scored, and 633 of 639. The change is the mean of the paired
    // differences 0.761, 0.774 and 0.788, each over 209 of 213 samples.
    // The runs' intervals reach from 0.041 below the smallest of them to 0.043 above the largest.
    let model = [
        "0.014", "0.001", "0.027", "211", "213", "0.789", "0.775", "0.804", "633", "639", "0.774", "0.720",
        "0.831",
    ];
    // Of the row: its scale, and the samples of each evaluation.
    let row_has = ["0", "1", "213"];
    // Runs that differ, of those compared.
    let (first, second) = (["3", "3", "627", "639"], ["1", "3", "627", "639"]);
    let expected = row_has.iter().chain(&model).chain(&first).chain(&model).chain(&second);
    let expected: Vec<Token> = expected.map(|text| Token((*text).to_owned())).collect();
    assert_eq!(cells, expected, "{row}");
}

// ---- words ------------------------------------------------------------------------------------------------------

#[test]
fn the_summary_says_what_rose_and_what_fell_with_n_and_interval() {
    let text = visible(&report::html(&sample()).unwrap());
    let expected = "Exact Match went from 0.014 (n\u{a0}=\u{a0}211, 95\u{a0}% interval 0.001 to 0.027) to 0.789 (mean of 3 seeds, 0.775 \
                    to 0.804): +0.774 on the samples that both have a score on.";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("Perplexity fell from 48.345"));
    for claim in ["significant", "proves"] {
        assert!(!text.contains(claim), "the page claims `{claim}`");
    }
}

#[test]
fn a_difference_is_marked_only_where_every_run_has_it() {
    let results = sample();
    let html = report::html(&results).unwrap();
    let row = |label: &str| {
        let row = html.lines().find(|line| line.contains(&format!("\"row\">{label}&nbsp;<"))).unwrap();
        visible(row)
    };
    // Corrected p-values 0.0004, 0.0031 and 0.0004: two marks stand in each run. 0.0172, 0.0612 and 0.3437: in one only.
    let exact_match = row("Exact Match");
    assert!(exact_match.contains("+0.774** ") && exact_match.contains("3 of 3 runs differ"), "{exact_match}");
    assert!(exact_match.contains("+0.774 ") && exact_match.contains("1 of 3 runs differ"), "{exact_match}");
    assert!(row("BLEU").contains("0 of 3 runs differ"), "{}", row("BLEU"));
    let text = visible(&html);
    for sentence in [
        "* p < 0.05, ** p < 0.01, *** p < 0.001",
        "for all 12 comparisons of this study",
        "; 1 of 3 runs differ from the base by more than chance.",
        "which the tests do not tell from chance.",
        "4 left out",
    ] {
        assert!(text.contains(sentence), "`{sentence}` is missing");
    }
}

#[test]
fn benchmarks_stand_beside_their_base_with_interval_number_and_mark() {
    let results = sample();
    let html = report::html(&results).unwrap();
    let row = visible(html.lines().find(|line| line.contains("\"row\">GSM8K&nbsp;<")).unwrap());
    let text = visible(&html);
    // Base 0.0612 of 211; means over lifts 0.417, 0.434 and 0.451 of 0.0612 + 0.21 lift. Every run's corrected p is below 0.05.
    for part in ["0.061", "0.040 to 0.082", "0.152", "+0.091*", "211 of 213 scored"] {
        assert!(row.contains(part), "`{part}` is missing in {row}");
    }
    assert!(text.contains("the first 213 of 1319 documents"));
    assert!(text.contains("Quality Index (missing: mmlu, gpqa, math, humaneval)"), "{text}");
    let mut none = results;
    none.benchmarks.clear();
    let text = visible(&report::html(&none).unwrap());
    assert!(text.contains("Not measured: this study names no benchmark."));
}

#[test]
fn a_benchmark_in_two_variants_has_two_names() {
    let mut results = sample();
    results.benchmarks[0].name = "gsm8k:lm-eval".to_owned();
    let other = BenchmarkResults {
        name: "gsm8k:lm-eval-cot".to_owned(),
        variant: "reasoned".to_owned(),
        ..results.benchmarks[0].clone()
    };
    results.benchmarks.push(other);
    for model in &mut results.models {
        let record =
            Record { variant: "reasoned".to_owned(), value: Some(0.371), ..model.base_benchmarks[0].clone() };
        model.base_benchmarks.insert(1, record);
    }
    results.comparisons.push(StudyComparison {
        variant: "reasoned".to_owned(),
        ..comparison("Tiny LLaMA", 1, "gsm8k", 0.1, 0.5)
    });
    let html = report::html(&results).unwrap();
    let row =
        |label: &str| html.lines().find(|line| line.contains(&format!("\"row\">{label}&nbsp;<"))).unwrap();
    assert!(row("GSM8K, lm-eval").contains("0.061") && row("GSM8K, lm-eval-cot").contains("0.371"));
    assert_eq!(strangers(&results), [""; 0]);
    let comparisons = html.split("id=\"comparisons\"").nth(1).unwrap();
    for label in ["GSM8K, lm-eval<", "GSM8K, lm-eval-cot<"] {
        assert!(comparisons.contains(label), "`{label}` is missing");
    }
}

#[test]
fn judging_shows_its_questions_its_price_and_what_failed() {
    let results = sample();
    let html = report::html(&results).unwrap();
    for text in [visible(&html), report::markdown(&results).unwrap().replace('\\', "")] {
        for part in
            ["judge-7b", "209 of 213", "0.4567", "3.6536", "489872", "did not count the tokens of 16 replies"]
        {
            assert!(text.contains(part), "`{part}` is missing");
        }
        assert!(text.contains("What could not be scored") && text.contains("11 of 10"));
    }
    let row = html.lines().find(|line| line.contains("\"row\">GPT-4 score&nbsp;<")).unwrap();
    assert!(row.contains("209 of 213 scored") && row.contains("627 of 639 scored"), "{row}");
    let unjudged = StudyResults { judge: None, ..results };
    assert!(!visible(&report::html(&unjudged).unwrap()).contains("Judging"));
}

#[test]
fn judging_says_who_was_asked_where_and_how() {
    let mut results = sample();
    let texts = |results: &StudyResults| {
        [visible(&report::html(results).unwrap()), report::markdown(results).unwrap().replace('\\', "")]
    };
    for text in texts(&results) {
        for part in
            [ENDPOINT, "judge-7b-2026-09-01", "21 Nov 2026; 22 Nov 2026", "0.35", "768", "cdcd00112233"]
        {
            assert!(text.contains(part), "`{part}` is missing in {text}");
        }
    }
    let judges = |results: &mut StudyResults, param: &str, value: Value| {
        for model in &mut results.models {
            let of_runs = model.runs.iter_mut().flat_map(|run| &mut run.metrics);
            for judge in model.base.iter_mut().chain(of_runs).filter_map(|record| record.judge.as_mut()) {
                judge.params.insert(param.to_owned(), value.clone());
            }
        }
    };
    judges(&mut results, "temperature", Value::Null);
    assert!(texts(&results)[0].contains("the judge's own: none was sent"));
    // Replies that were written down were drawn elsewhere, at a temperature that nobody knows here.
    judges(&mut results, "replies_sha256", "ab".repeat(32).into());
    judges(&mut results, "endpoint", Value::Null);
    let text = &texts(&results)[0];
    assert!(
        text.contains("replies that were written down, abababababab") && !text.contains("Temperature"),
        "{text}"
    );
}

#[test]
fn the_encoder_stands_beside_the_metrics_that_it_served() {
    let results = sample();
    let expected = format!("{ENCODER}, for Semantic similarity");
    assert!(visible(&report::html(&results).unwrap()).contains(&expected));
    assert!(report::markdown(&results).unwrap().replace('\\', "").contains(&expected));
}

#[test]
fn every_metric_has_its_scale_and_direction_beside_its_name() {
    let results = sample();
    let html = report::html(&results).unwrap();
    let markdown = report::markdown(&results).unwrap().replace('\\', "");
    for (label, scale, arrow, direction) in [
        ("GPT-4 score", "1 to 10", '↑', "higher"),
        ("RAGAS Answer Correctness", "-0.25 to 1", '↑', "higher"),
        ("Exact Match", "0 to 1", '↑', "higher"),
        ("Perplexity", "1 or more", '↓', "lower"),
        ("Semantic similarity", "-1 to 1", '↑', "higher"),
        ("BLEU", "0 to 100", '↑', "higher"),
        ("GSM8K", "0 to 1", '↑', "higher"),
        ("Quality Index", "0 to 100", '↑', "higher"),
    ] {
        let row = html.lines().find(|line| line.contains(&format!("\"row\">{label}&nbsp;<"))).unwrap();
        assert!(row.contains(&format!("{arrow}</span><small>{scale}</small>")), "{row}");
        let expected = format!("| {label}, {scale}, {direction} is better |");
        assert!(markdown.contains(&expected), "`{expected}` is missing in {markdown}");
    }
}

#[test]
fn a_change_has_the_interval_of_its_comparison() {
    let mut results = sample();
    results.models.iter_mut().for_each(|model| model.runs.truncate(1));
    results.comparisons.retain(|found| found.candidate.seed == Some(1));
    let row = |results: &StudyResults, label: &str| {
        let html = report::html(results).unwrap();
        html.lines().find(|line| line.contains(&format!("\"row\">{label}&nbsp;<"))).unwrap().to_owned()
    };
    // Differences 0.761 and 1.3, with 0.041 below and 0.043 above; BLEU was compared in the second model only.
    let exact_match = row(&results, "Exact Match");
    assert_eq!(exact_match.matches("<small>+0.720 to +0.804</small>").count(), 2, "{exact_match}");
    let bleu = row(&results, "BLEU");
    assert_eq!(
        (bleu.matches("<small>+1.259 to +1.343</small>").count(), bleu.matches("<small>+").count()),
        (1, 1)
    );
    // A comparison without an interval has none, and neither has one of several seeds of which one has none.
    results = sample();
    results.comparisons[1].comparison.ci95 = None;
    let summary = report::summarize(&results);
    let change = |model: usize| {
        let metric =
            summary.models[model].metrics.iter().find(|metric| metric.metric == "exact_match").unwrap();
        (metric.change.is_some(), metric.change_ci95.is_some())
    };
    assert_eq!((change(0), change(1)), ((true, false), (true, true)));
    assert!(row(&results, "Exact Match").contains("+0.774**<small>no interval</small>"));
}

#[test]
fn what_failed_is_counted_against_its_samples_and_what_did_not_has_its_n() {
    let complete = |results: &mut StudyResults| {
        for model in &mut results.models {
            let of_runs =
                model.runs.iter_mut().flat_map(|run| run.metrics.iter_mut().chain(&mut run.benchmarks));
            for record in model.base.iter_mut().chain(&mut model.base_benchmarks).chain(of_runs) {
                (record.n_scored, record.n_failed) = (record.n_total, 0);
            }
        }
        results.failures.clear();
    };
    let mut results = sample();
    for text in [visible(&report::html(&results).unwrap()), report::markdown(&results).unwrap()] {
        assert!(
            text.contains("is left out of the value and counted (skip)") && text.contains("4 of 213"),
            "{text}"
        );
        // Two samples of every other metric are missing, and nobody counted them.
        assert!(!text.contains("over all of its samples"));
    }
    complete(&mut results);
    let all = "(held-out records: n\u{a0}=\u{a0}213; GSM8K: n\u{a0}=\u{a0}213)";
    for text in [visible(&report::html(&results).unwrap()), report::markdown(&results).unwrap()] {
        assert!(
            text.contains(&format!("Nothing failed: every value is over all of its samples {all}.")),
            "{text}"
        );
    }
    let judged = results.models[0].base.last_mut().unwrap();
    (judged.n_scored, judged.n_failed) = (209, 4);
    results.failures.push(unscored("Tiny LLaMA", None));
    results.on_failure = None;
    let text = visible(&report::html(&results).unwrap());
    assert!(text.contains(&format!("Every other value is over all of its samples {all}.")), "{text}");
    assert!(!text.contains("left out of the value and counted"), "an earlier study's policy is not known");
}

#[test]
fn the_change_that_is_shown_is_the_one_that_is_tested() {
    let mut results = sample();
    results.models.truncate(1);
    // The hard records failed in the base: its mean is high, and on the common records the runs are better.
    results.models[0].base[0].value = Some(0.9);
    results.models[0].runs.truncate(1);
    results.models[0].runs[0].metrics[0].value = Some(0.8);
    results.comparisons = vec![comparison("Tiny LLaMA", 1, "exact_match", 0.25, 0.0004)];
    let summary = report::summarize(&results);
    let metric = summary.models[0].metrics.iter().find(|metric| metric.metric == "exact_match").unwrap();
    let common = metric.change_scored.unwrap();
    assert_eq!((metric.change, common.scored, common.total), (Some(0.25), 209, 213));
    assert_eq!(metric.compared.unwrap().marks, 3);
    let html = report::html(&results).unwrap();
    let row = visible(html.lines().find(|line| line.contains("\"row\">Exact Match&nbsp;<")).unwrap());
    assert!(row.contains("+0.250***") && row.contains("209 of 213 in both"), "{row}");
    let text = visible(&html);
    assert!(
        !text.contains("Exact Match fell") && text.contains(": +0.250 on the samples that both"),
        "{text}"
    );
}

#[test]
fn without_comparisons_the_page_speaks_of_no_test() {
    let mut results = sample();
    results.comparisons.clear();
    let text = visible(&report::html(&results).unwrap());
    for claim in ["p <", "chance", "runs differ", "Every comparison"] {
        assert!(!text.contains(claim), "the page claims `{claim}`");
    }
}

#[test]
fn a_curve_of_one_point_is_seen() {
    // A path of one point draws nothing.
    let markers = |points: usize| {
        let mut results = sample();
        for run in results.models.iter_mut().flat_map(|model| &mut model.runs) {
            run.training_curve.truncate(points);
        }
        report::html(&results).unwrap().matches("class=\"marker ").count()
    };
    // Each model's stands in the panel of all and in its own.
    assert_eq!(markers(1), markers(2) + 2 * sample().models.len());
}

#[test]
fn overfitting_is_named_and_dated_and_its_absence_is_said() {
    let results = sample();
    for text in [visible(&report::html(&results).unwrap()), report::markdown(&results).unwrap()] {
        for sentence in [
            "Seed 1 overfits after step 100 (epoch 1.00)",
            "Seed 2 does not overfit.",
            "2 of 3 runs overfit, the earliest after step 100 (epoch 1.00).",
            "None of 3 runs overfits.",
        ] {
            assert!(text.contains(sentence), "`{sentence}` is missing");
        }
    }
    assert!(visible(&report::html(&results).unwrap()).contains("overfits after step 100 "));
    let text = visible(&report::html(&edges()).unwrap());
    assert!(text.contains("Whether it overfits is unknown: validation loss was not measured."));
    assert!(text.contains("It was not fine-tuned: there is no run."));
}

#[test]
fn metrics_that_were_not_measured_say_so_and_why() {
    let results = sample();
    let html = report::html(&results).unwrap();
    for (label, reason) in [
        ("RAGAS Answer Correctness", "this study did not ask for it"),
        ("RAGAS Answer Semantic Similarity", "this study did not ask for it"),
        ("METEOR", "this study did not ask for it"),
        ("Exact Match, SQuAD&#x27;s", "no reference text was given"),
    ] {
        let row = html.lines().find(|line| line.contains(&format!("\"row\">{label}&nbsp;<")));
        let row = row.unwrap_or_else(|| panic!("no row of {label}"));
        assert!(row.contains(&format!("not measured: {reason}")), "{row}");
    }
    let mut results = results;
    let unjudged = StudyResults { judge: None, ..results.clone() };
    let html = report::html(&unjudged).unwrap();
    let row = html.lines().find(|line| line.contains("\"row\">RAGAS Answer Correctness&nbsp;<")).unwrap();
    assert!(row.contains("not measured: no judge was configured"), "{row}");
    results.models[0].base[0] = unmeasured("exact_match", "the file of answers is broken");
    let html = report::html(&results).unwrap();
    let row = html.lines().find(|line| line.contains("\"row\">Exact Match&nbsp;<")).unwrap();
    assert!(row.contains("not measured<small>the file of answers is broken</small>"), "{row}");
    assert!(row.contains("0.789"), "the other cells keep their numbers: {row}");
}

#[test]
fn a_mean_over_some_of_the_runs_says_so() {
    let mut results = sample();
    results.models[0].runs[2].metrics[0] = unmeasured("exact_match", "the disk was full");
    let html = report::html(&results).unwrap();
    let row = html.lines().find(|line| line.contains("\"row\">Exact Match&nbsp;<")).unwrap();
    // Lifts 0.917 and 0.934 of 0.0142 + 0.83 lift.
    assert!(
        row.contains(
            "0.782<small>0.775 to 0.789</small><small>2 of 3 runs</small><small>422 of 426 scored</small>"
        ),
        "{row}"
    );
    assert!(visible(&html).contains("not measured: the disk was full"), "the list says why");
}

#[test]
fn no_cell_is_empty() {
    for results in [sample(), edges()] {
        let html = report::html(&results).unwrap();
        for cell in ["td", "th", "dd"] {
            for part in html.split(&format!("<{cell}")).skip(1) {
                if !part.starts_with(['>', ' ']) {
                    continue;
                }
                let content = part.split_once('>').unwrap().1.split(&format!("</{cell}>")).next().unwrap();
                assert!(
                    !visible(content).trim().is_empty(),
                    "an empty <{cell}: {}",
                    &part[..part.len().min(200)]
                );
            }
        }
        let markdown = report::markdown(&results).unwrap();
        for line in markdown.lines().filter(|line| line.starts_with('|')) {
            assert!(!line.replace(' ', "").contains("||"), "an empty cell in: {line}");
        }
    }
}

#[test]
fn hostile_texts_are_shown_and_do_nothing() {
    let mut results = edges();
    results.title = HOSTILE.to_owned();
    results.settings.push((HOSTILE.to_owned(), HOSTILE.to_owned()));
    results.models[0].answers[0].base = format!("{HOSTILE}\u{0}\u{1b}[31m");
    results.models[0].base[9].not_measured = Some(HOSTILE.to_owned());
    let html = report::html(&results).unwrap();
    assert!(
        !html.contains("<script")
            && !html.contains("<!--")
            && !html.contains('\u{0}')
            && !html.contains('\u{1b}')
    );
    assert!(visible(&html).contains(HOSTILE.trim()));
    assert_eq!(
        html.matches("</title>").count(),
        1 + html.matches("<svg").count() - html.matches("swatch\"").count()
    );
    let markdown = report::markdown(&results).unwrap();
    assert!(!markdown.contains("<script") && !markdown.contains("<!--"));
    for line in markdown.lines().filter(|line| line.starts_with('|')) {
        assert!(line.ends_with('|'), "a broken row: {line}");
    }
}

#[test]
fn rows_of_a_markdown_table_have_as_many_cells_as_its_head() {
    for results in [sample(), edges()] {
        let markdown = report::markdown(&results).unwrap();
        let mut cells = None;
        for line in markdown.lines() {
            if !line.starts_with('|') {
                cells = None;
                continue;
            }
            let count = line.replace("\\|", "").matches('|').count();
            assert_eq!(*cells.get_or_insert(count), count, "{line}");
        }
    }
}

#[test]
fn the_page_needs_nothing_outside_itself() {
    let html = report::html(&sample()).unwrap();
    let shown = ENDPOINT.replace('/', "&#x2f;");
    assert!(html.contains(&shown));
    for outside in ["http:", "https:", "<script", "<link", "@import", "url(", "src="] {
        // A name space and the judge's address are words here, and nothing that is fetched.
        let found = html.replace("http://www.w3.org/2000/svg", "").replace(&shown, "").contains(outside);
        assert!(!found, "the page holds `{outside}`");
    }
}

#[test]
fn headings_do_not_skip_a_level() {
    let html = report::html(&edges()).unwrap();
    let mut level = 0;
    for part in html.split("<h").skip(1) {
        let Some(next) = part.chars().next().and_then(|c| c.to_digit(10)) else { continue };
        assert!(next <= level + 1, "h{next} follows h{level}");
        level = next;
    }
}

#[test]
fn the_same_results_give_the_same_bytes() {
    let (a, b) = (edges(), edges());
    assert_eq!(report::html(&a).unwrap(), report::html(&b).unwrap());
    assert_eq!(report::markdown(&a).unwrap(), report::markdown(&b).unwrap());
    assert_eq!(report::json(&a).unwrap(), report::json(&b).unwrap());
}

#[test]
fn a_study_without_models_or_runs_still_has_a_report() {
    let mut results = sample();
    results.models.iter_mut().for_each(|model| model.runs.clear());
    assert!(report::html(&results).unwrap().contains("no run recorded a loss"));
    results.models.clear();
    results.data = DataResults::default();
    let html = report::html(&results).unwrap();
    assert!(html.contains("The study holds no model."));
    report::markdown(&results).unwrap();
}

// ---- files ------------------------------------------------------------------------------------------------------

#[test]
fn results_read_back_as_they_were_written() {
    for results in [sample(), edges()] {
        let read: StudyResults = serde_json::from_str(&report::json(&results).unwrap()).unwrap();
        assert_eq!(read, results);
    }
}

#[test]
fn the_folder_holds_the_three_files_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/report");
    let written = report::write(&out, &sample()).unwrap();
    let again = report::write(&out, &sample()).unwrap();
    assert_eq!(written, again);
    assert_eq!(names(&out), ["report.html", "report.md", "results.json"]);
    assert_eq!(std::fs::read_to_string(written.html).unwrap(), report::html(&sample()).unwrap());
}

#[test]
fn a_report_that_cannot_be_written_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("report.html")).unwrap();
    std::fs::write(folder.path().join("results.json"), "earlier").unwrap();
    let error = report::write(folder.path(), &sample()).unwrap_err();
    assert!(matches!(error, ReportError::InTheWay { .. }), "{error}");
    assert!(error.to_string().contains("report.html"), "{error}");
    assert_eq!(names(folder.path()), ["report.html", "results.json"]);
    assert_eq!(std::fs::read_to_string(folder.path().join("results.json")).unwrap(), "earlier");

    let file = folder.path().join("results.json");
    let error = report::write(&file, &sample()).unwrap_err();
    assert!(matches!(error, ReportError::Io { .. }), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_is_refused_by_name_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut results = sample();
    results.models[1].runs[2].validation_curve[4].loss = f64::NAN;
    let error = report::write(folder.path(), &results).unwrap_err().to_string();
    assert!(
        error.starts_with("models[1].runs[2].validation_curve[4].loss is NaN, expected a finite number"),
        "{error}"
    );
    assert!(names(folder.path()).is_empty());
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

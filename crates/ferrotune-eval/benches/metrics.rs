//! BLEU and ROUGE against sacrebleu and rouge-score: the same pairs, the same run, in turn.
//!
//! ```sh
//! FERROTUNE_PYTHON=venv/bin/python cargo bench --bench metrics
//! ```
//!
//! The pairs are 9,990 Alpaca outputs with every seventh word dropped (999, ten times), made from
//! `data/alpaca-999.json` in the folder that `FERROTUNE_SHARED` names (else `../shared` beside the workspace), or the
//! JSONL file that `FERROTUNE_PAIRS` names. Both sides must find the same values, or the benchmark fails. The packages
//! run on one thread, as they do for their users; ours on all cores or as many as `RAYON_NUM_THREADS` says, and the ratio of
//! processor time says what that is without them. Without an interpreter that has the packages only our times are printed.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::print_stderr, reason = "a benchmark prints")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use ferrotune_eval::{
    Metric, OnFailure, Pair,
    bleu::{Bleu, BleuConfig},
    read_pairs,
    rouge::{Rouge, RougeKind, Stemming},
};
use serde::Deserialize;
use serde_json::Value;

type AnyError = Box<dyn std::error::Error>;

/// Rounds in which both sides take turns.
const ROUNDS: usize = 5;

/// Our turn is short, so it is taken several times a round; the median over all is printed.
const TURNS: usize = 5;

/// rouge-score needs half a minute for all pairs.
const ROUGE_PAIRS: usize = 999;

/// Both sides add up double precision, in another order at most.
const TOLERANCE: f64 = 1e-9;

/// One turn of one side.
#[derive(Debug, Deserialize)]
struct Turn {
    values: BTreeMap<String, f64>,
    seconds: f64,
    processor: Option<f64>,
}

fn main() -> Result<(), AnyError> {
    let Some(pairs) = pairs()? else { return Ok(()) };
    let mut packages =
        env::var_os("FERROTUNE_PYTHON").map(|python| Packages::start(&python, &pairs)).transpose()?;
    if packages.is_none() {
        println!(
            "FERROTUNE_PYTHON names no interpreter with sacrebleu and rouge-score, so there are no ratios."
        );
    }
    let threads = rayon::current_num_threads();
    println!("threads: ours {threads}, the packages one; medians over {ROUNDS} rounds\n");
    println!(
        "{:<32} {:>7} {:>11} {:>11} {:>8} {:>16}",
        "", "pairs", "ours", "package", "faster", "processor time"
    );
    let bleu = Bleu::new(BleuConfig::default())?;
    let rouge = Rouge::new(vec![RougeKind::N(1), RougeKind::N(2), RougeKind::L], Stemming::Porter)?;
    compare("BLEU (sacrebleu)", "bleu", &bleu, &pairs, packages.as_mut())?;
    let count = ROUGE_PAIRS.min(pairs.len());
    compare("ROUGE-1/2/L, stems (rouge-score)", "rouge", &rouge, &pairs[..count], packages.as_mut())
}

fn compare(
    label: &str,
    name: &str,
    metric: &dyn Metric,
    pairs: &[Pair],
    mut packages: Option<&mut Packages>,
) -> Result<(), AnyError> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for _ in 0..TURNS {
            ours.push(turn(metric, pairs)?);
        }
        if let Some(packages) = packages.as_deref_mut() {
            theirs.push(packages.turn(name, pairs.len())?);
        }
    }
    for theirs in &theirs {
        for (kind, &expected) in &theirs.values {
            let found = ours[0].values[kind];
            if (found - expected).abs() > TOLERANCE * expected.abs().max(1.0) {
                return Err(format!("{kind} is {found} here and {expected} in the package").into());
            }
        }
    }
    let seconds = |turns: &[Turn]| median(turns.iter().map(|turn| Some(turn.seconds)));
    let processor = |turns: &[Turn]| median(turns.iter().map(|turn| turn.processor));
    let ratio = |of: &dyn Fn(&[Turn]) -> Option<f64>| Some(of(&theirs)? / of(&ours)?);
    let shown = |value: Option<f64>, digits: usize, unit: &str| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}{unit}"))
    };
    println!(
        "{label:<32} {:>7} {:>11} {:>11} {:>8} {:>16}",
        pairs.len(),
        shown(seconds(&ours).map(|seconds| 1e3 * seconds), 2, " ms"),
        shown(seconds(&theirs).map(|seconds| 1e3 * seconds), 0, " ms"),
        shown(ratio(&seconds), 0, "x"),
        shown(ratio(&processor), 0, "x"),
    );
    Ok(())
}

/// Everything that a user of the metric gets: the values, and a score for each pair.
fn turn(metric: &dyn Metric, pairs: &[Pair]) -> Result<Turn, AnyError> {
    let (clock, processor) = (Instant::now(), processor_seconds());
    let found = metric.measure(pairs)?;
    let values = found.iter().filter_map(|found| Some((found.metric.clone(), found.value()?))).collect();
    let seconds = clock.elapsed().as_secs_f64();
    let processor = processor_seconds().zip(processor).map(|(after, before)| after - before);
    Ok(Turn { values, seconds, processor })
}

/// What the threads of this process have had of the processors, where the system says so in nanoseconds (Linux).
fn processor_seconds() -> Option<f64> {
    let of_thread = |thread: fs::DirEntry| -> Option<f64> {
        fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    let threads = fs::read_dir("/proc/self/task").ok()?;
    threads
        .map(|thread| thread.ok().and_then(of_thread))
        .sum::<Option<f64>>()
        .map(|nanoseconds| nanoseconds / 1e9)
}

fn median(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect::<Option<_>>()?;
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// The pairs, or `None` with a message where there is nothing to make them from.
fn pairs() -> Result<Option<Vec<Pair>>, AnyError> {
    if let Some(path) = env::var_os("FERROTUNE_PAIRS") {
        return Ok(Some(read_pairs(path.as_ref(), OnFailure::Error)?.pairs));
    }
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let path =
        env::var_os("FERROTUNE_SHARED").map_or_else(beside, PathBuf::from).join("data/alpaca-999.json");
    if !path.is_file() {
        println!(
            "skipped: no {}; FERROTUNE_SHARED names its folder, FERROTUNE_PAIRS a file of pairs",
            path.display()
        );
        return Ok(None);
    }
    let records: Vec<Value> = serde_json::from_slice(&fs::read(&path)?)?;
    let texts: Vec<&str> = records.iter().filter_map(|record| record["output"].as_str()).collect();
    let dropped = |text: &str| {
        let words = text.split_whitespace().enumerate().filter(|(place, _)| place % 7 != 3);
        words.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
    };
    let repeated = (0..10).flat_map(|_| &texts).enumerate();
    Ok(Some(repeated.map(|(id, text)| Pair::new(id.to_string(), dropped(text), *text)).collect()))
}

/// An interpreter that holds the pairs and scores them when asked.
struct Packages {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Where the pairs lie for the interpreter.
    file: PathBuf,
}

impl Packages {
    fn start(python: &std::ffi::OsStr, pairs: &[Pair]) -> Result<Self, AnyError> {
        let file = env::temp_dir().join(format!("ferrotune-bench-{}.jsonl", std::process::id()));
        let line = |pair: &Pair| serde_json::json!({ "id": pair.id, "prediction": pair.prediction, "reference": pair.references[0] });
        let lines: Vec<String> = pairs.iter().map(|pair| line(pair).to_string()).collect();
        fs::write(&file, lines.join("\n"))?;
        let mut process = Command::new(python)
            .args(["-c", include_str!("metrics.py")])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(ask), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("the interpreter has no standard input or output".into());
        };
        Ok(Self { process, ask, answers: BufReader::new(answers), file })
    }

    fn turn(&mut self, metric: &str, pairs: usize) -> Result<Turn, AnyError> {
        writeln!(self.ask, "{metric} {pairs}")?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err("the interpreter ended; it needs sacrebleu and rouge-score".into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

impl Drop for Packages {
    fn drop(&mut self) {
        // What is left to do is to tidy up; that a part of it is gone already is no failure.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.file);
    }
}

//! Fine-tunes two model families on the same instructions, compares them before and after, and writes a report.
//!
//! Without flags it runs the built-in study: both base models are grown on the spot, so nothing is downloaded.
//!
//! ```sh
//! cargo run --example compare
//! cargo run --release --example compare -- --config study.toml --output runs/study
//! ```

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Parser;
use ferrotune::{
    Compute, Progress as Measuring, builtin,
    core::extended::Extended,
    eval::Record,
    report,
    study::{Interaction, Study, StudyResults},
    trainer::{Existing, Listener, listeners::Progress, prepare_output},
};
use serde_json::{Value, json};

mod cli;

/// Fine-tune several models on the same instructions and compare them before and after.
#[derive(Debug, Parser)]
#[command(
    after_help = "Prints one JSON object as the last line of standard output: `tables` and `report`, or with --dry-run `estimate`."
)]
struct Args {
    /// The study as a TOML file; without it the built-in study runs
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for the report, adapters, checkpoints and logs
    #[arg(long, value_name = "DIR", default_value = "runs/compare")]
    output: PathBuf,
    /// Go on with the same study that was interrupted in the output folder
    #[arg(long, conflicts_with = "force")]
    resume: bool,
    /// Replace what a former study left in the output folder
    #[arg(long)]
    force: bool,
    /// Open everything, train and ask nothing, and print what the study would ask of its judge, its price, and of its models
    #[arg(long, requires = "config")]
    dry_run: bool,
    /// Sentence encoder for semantic similarity [default: .models/all-minilm-l6-v2, where it is there]
    #[arg(long, value_name = "DIR")]
    embedder: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda or cuda:N [default: auto, or what the study says]
    #[arg(long)]
    device: Option<String>,
    /// The type to compute in: auto, f32, bf16 or f16 [default: auto, or what the study says]
    #[arg(long)]
    dtype: Option<String>,
    /// Threads for arithmetic on the CPU [default: what the study says, or libtorch's choice; 1 for the built-in study]
    #[arg(long)]
    threads: Option<u32>,
}

/// Between two lines about the same stage of a measurement.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints stages and shows progress bars on standard error.
struct Console {
    progress: Progress,
    last_line: Instant,
}

impl Interaction for Console {
    fn say(&mut self, line: &str) {
        self.last_line = Instant::now();
        cli::say(line);
    }

    fn progress(&mut self, subject: &str, progress: &Measuring<'_>) {
        if !progress.is_step() || self.last_line.elapsed() >= PATIENCE {
            self.say(&format!("{subject}: {progress}"));
        }
    }

    fn listener(&mut self) -> Option<&mut dyn Listener> {
        self.progress = Progress::new();
        Some(&mut self.progress)
    }
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    cli::finish(|| {
        let mut console = Console { progress: Progress::new(), last_line: Instant::now() };
        let embedder = args.embedder.clone().or_else(cli::usual_embedder);
        let study = args
            .config
            .as_deref()
            .map(Study::open)
            .transpose()?
            .map(|study| args.applied_to(study, &embedder));
        let output = args.output.as_path();
        let existing = match (args.resume, args.force) {
            (true, _) => Existing::Resume,
            (false, true) => Existing::Force,
            (false, false) => Existing::Refuse,
        };
        cli::refuse_a_broken_link(output)?;
        if existing == Existing::Refuse && !args.dry_run {
            // Before models are opened.
            if output.join("study.json").is_file() {
                return Err(format!(
                    "`{}` holds a study; go on with it with --resume, replace it with --force, or choose another folder",
                    output.display()
                )
                .into());
            }
            cli::refuse_to_fill(output)?;
        }
        let claim = || prepare_output(output, existing);
        let results = match study {
            Some(study) => {
                // Everything is opened before the output folder is touched.
                let prepared = study.prepare(&mut console)?;
                if args.dry_run {
                    let estimate = prepared.estimate();
                    console.say(&estimate.to_string());
                    return Ok(json!({ "estimate": estimate }));
                }
                let resume = claim()?;
                prepared.run(output, resume, &mut console)?
            }
            None => {
                args.compute().resolve()?;
                let (resume, folder) = (claim()?, output.join("builtin"));
                let study = builtin(&folder, &args.compute(), embedder.as_deref(), resume, &mut console)?;
                study.prepare(&mut console)?.run(output, resume, &mut console)?
            }
        };
        report::write(output, &results)?;
        console.say(&format!("the report is {}", output.join("report.html").display()));
        Ok(json!({ "tables": tables(&results), "report": output.join("report.html") }))
    })
}

impl Args {
    fn compute(&self) -> Compute {
        let mut compute = Compute::default();
        self.choose(&mut compute);
        compute
    }

    fn choose(&self, compute: &mut Compute) {
        compute.device = self.device.clone().unwrap_or_else(|| compute.device.clone());
        compute.dtype = self.dtype.clone().unwrap_or_else(|| compute.dtype.clone());
        compute.threads = self.threads.or(compute.threads);
    }

    /// The study with what the flags say; flags win over the file.
    fn applied_to(&self, mut study: Study, embedder: &Option<PathBuf>) -> Study {
        self.choose(&mut study.compute);
        if self.embedder.is_some() || study.evaluation.embedder.is_none() {
            study.evaluation.embedder.clone_from(embedder);
        }
        study
    }
}

/// The study's tables 3 and 4: seconds of training, and each metric and benchmark before and after, for each seed.
fn tables(results: &StudyResults) -> Value {
    let metrics = |records: &[Record]| -> Value {
        let pairs = records.iter().map(|record| {
            let value = match &record.not_measured {
                Some(reason) => json!({ "not_measured": reason }),
                None => json!(record.value.map(Extended)),
            };
            (name(record, records), value)
        });
        Value::Object(pairs.collect())
    };
    let models = results.models.iter().map(|model| {
        let runs = model.runs.iter().map(|run| {
            json!({
                "seed": run.seed,
                "train_seconds": run.train_seconds,
                "train_loss": run.train_loss,
                "validation_loss": run.validation_loss,
                "overfits_after_step": run.overfitting.map(|point| point.step),
                "metrics": metrics(&run.metrics),
                "benchmarks": metrics(&run.benchmarks),
            })
        });
        let fine_tuned: Vec<Value> = runs.collect();
        let (base, benchmarks) = (metrics(&model.base), metrics(&model.base_benchmarks));
        (model.name.clone(), json!({ "base": base, "base_benchmarks": benchmarks, "fine_tuned": fine_tuned }))
    });
    Value::Object(models.collect())
}

/// What a record is called among others: its metric, with the variant behind it where a benchmark is asked in several.
fn name(record: &Record, among: &[Record]) -> String {
    let Record { metric, variant, .. } = record;
    match among.iter().filter(|other| other.metric == *metric).count() {
        1 => metric.clone(),
        _ => format!("{metric}: {variant}"),
    }
}

//! Metrics, benchmarks and statistics for language models, number for number as the references compute them.
//!
//! Needs no libtorch: models come in through the ports of `ferrotune-core`, or not at all, since every metric over
//! texts scores files as well.
//!
//! - [`Pair`], [`read_pairs`]: predictions with their references.
//! - [`Metric`], [`Registry`]: what scores them, by name; [`evaluate`] runs a list of them.
//! - [`Measurement`], [`Tally`]: what a metric found: a score or a counted [`Failure`] for every sample, and the
//!   statistics whose sum is the value, which is what bootstraps and paired tests resample.
//! - [`Record`], [`SampleLine`]: what is written down; [`rescorable_pairs`] scores a written file again.
//! - [`bleu`], [`chrf`], [`rouge`], [`meteor`], [`exact_match`], [`similarity`], [`bert_score`], [`perplexity`],
//!   [`loss`]: the metrics.
//! - [`judged`]: metrics whose numbers a [`judge`] gives.
//! - [`task`]: benchmarks asked of a model; [`benchmark`]: answers found in responses, pass@k; [`arena`]: Elo and
//!   Bradley-Terry; [`quality_index`].
//! - [`sandbox`]: runs programs that a model wrote, in isolation that was tried first.
//! - [`statistics`]: intervals, standard errors, comparisons of two models; [`sacrebleu`]: that package's own tests.
//!
//! A metric that cannot be measured says so and why. A sample that cannot be scored is a failure that is counted and
//! never averaged away.
//!
//! ```
//! use ferrotune_eval::{OnFailure, Pair, Registry, Run, evaluate, statistics::Bootstrap};
//! let pairs = [Pair::new("1", "the cat sat on mat", "the cat is on the mat"), Pair::new("2", "yes", "yes")];
//! let metrics = Registry::with_text_metrics()?.resolve("rouge1,exact_match,semantic_similarity")?;
//! let found = evaluate(&metrics, &pairs, &Run::default(), &Bootstrap::default(), OnFailure::Error)?;
//! assert_eq!(found.records[1].value, Some(0.5));
//! assert_eq!(found.records[2].not_measured.as_deref(), Some("no sentence encoder was given"));
//! # Ok::<(), ferrotune_eval::Error>(())
//! ```

mod error;
mod evaluate;
mod lines;
mod metric;
mod ngram;
mod pairs;
mod porter;
mod problem;
mod python_text;
mod record;
mod registry;
mod samples;
mod tally;

pub mod arena;
pub mod benchmark;
pub mod bert_score;
pub mod bleu;
pub mod chrf;
pub mod exact_match;
pub mod judge;
pub mod judged;
pub mod loss;
pub mod meteor;
pub mod perplexity;
pub mod quality_index;
pub mod rouge;
pub mod sacrebleu;
pub mod sandbox;
pub mod similarity;
pub mod statistics;
pub mod task;

pub use error::{Error, Result};
pub use evaluate::{Evaluation, evaluate, evaluate_until_failure};
pub use metric::{
    Evidence, Failure, FailureKind, Judged, Measurement, Metric, Refusal, SampleScore, Transcript,
    Unavailable,
};
pub use pairs::{OnFailure, Pair, PairFile, Rejection, read_pairs};
pub use porter::porter_stem;
pub use problem::{LineProblem, TaskDataProblem};
pub use record::{Dataset, IMPLEMENTATION_VERSION, JudgeInfo, Model, Record, Run};
pub use registry::Registry;
pub use samples::{
    Asked, Existing, Outcome, SampleLine, mean_of_lines, read_samples, rescorable_pairs, sample_lines,
    write_samples,
};
pub use tally::Tally;

//! Training steps, optimizers, schedules, evaluation, checkpoints and exact resume.
//!
//! A [`Trainer`] takes any [`CausalLm`](ferrotune_nn::CausalLm) with its
//! [`Parameters`](ferrotune_nn::Parameters), samples, and a plan of their batches. It knows no model, no adapter and no
//! file format of data; what a checkpoint should hold of an adapter is written by a function that the caller gives.
//!
//! ```no_run
//! # use ferrotune_core::{BoxError, Sample};
//! # use ferrotune_nn::{CausalLm, Parameters};
//! use std::path::Path;
//!
//! use ferrotune_trainer::{Dataset, Existing, Trainer, TrainingConfig, prepare_output};
//! use ferrotune_trainer::listeners::{JsonLog, Progress, TensorBoard};
//!
//! # fn train(model: &dyn CausalLm, parameters: &Parameters, samples: &[Sample], validation: &[Sample])
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let output = Path::new("runs/first");
//! let resume = prepare_output(output, Existing::Resume)?;
//! let plan = |_epoch: u64| Ok::<_, BoxError>((0..samples.len()).map(|position| vec![position]).collect());
//! let held_out = |_: u64| Ok::<_, BoxError>((0..validation.len()).map(|position| vec![position]).collect());
//! let (mut progress, mut log) = (Progress::new(), JsonLog::new(&output.join("log.jsonl")));
//! let mut board = TensorBoard::new(&output.join("runs"));
//! let finished = Trainer::new(TrainingConfig::default(), model, parameters, Dataset::new(samples, &plan))?
//!     .with_validation(Dataset::new(validation, &held_out))?
//!     .with_output(output)
//!     .with_listener(&mut progress)
//!     .with_listener(&mut log)
//!     .with_listener(&mut board)
//!     .run(resume)?;
//! println!("{:?}", finished.summary.eval_loss);
//! # Ok(())
//! # }
//! ```
//!
//! # What is exact
//!
//! A run that is killed at any moment and resumed gives, on a CPU with the same number of threads, the same weights bit
//! for bit as one that was left alone: a checkpoint holds the trainable tensors, the moments, each tensor's count of
//! steps, the generators' states, the place in the data and the sums that no row of the history covers yet.
//!
//! The generators are libtorch's own, one per device for the whole process. Two runs at once in one process, or anything
//! else in it that draws from them, disturb each other's dropout; give each run a process.

mod checkpoint;
mod config;
mod dataset;
mod error;
mod evaluate;
mod event;
mod gradients;
mod optimizer;
mod output;
mod python_json;
mod schedule;
mod session;
mod state;
mod step;
mod summary;
mod trainer;

pub mod listeners;

pub use config::TrainingConfig;
pub use dataset::{BatchPlan, Dataset};
pub use error::{Error, Result};
pub use evaluate::{Evaluation, evaluate};
pub use event::{Estimate, Event, Listener, ParameterGroup, RunPlan, StepReport};
pub use output::{Existing, Resume, checkpoints, prepare_output};
pub use schedule::{Schedule, Scheduler};
pub use state::{EndRow, EvaluationRow, LogRow, TrainerState, TrainingRow};
pub use summary::{TrainingSummary, overfitting_step};
pub use trainer::{Export, Finished, Trainer};

//! What a study found, as data: the one source of every number in its reports.

use std::{collections::BTreeMap, fmt};

use ferrotune_core::{PromptTemplate as _, digest};
use ferrotune_data::{SplitCounts, Template, template::TEMPLATE};
use ferrotune_eval::{FailureKind, OnFailure, Record, judge::JudgeUsage, statistics::Comparison};
use serde::{Deserialize, Serialize};

/// Everything a report shows. Written as `results.json`; the HTML and Markdown reports are functions of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyResults {
    /// The study's title.
    pub title: String,
    /// What was done, in a sentence or two for the reader of the report.
    pub description: String,
    /// When it ended, as `YYYY-MM-DD HH:MM UTC`.
    pub finished: String,
    /// Wall-clock seconds of the whole study; of one that was resumed those of the last process, and those that earlier ones
    /// spent on what is in the results.
    pub seconds: f64,
    /// Where it ran.
    pub environment: Environment,
    /// Settings shared by all models, in the order in which they are shown: name and value.
    pub settings: Vec<(String, String)>,
    /// The instruction data.
    pub data: DataResults,
    /// The benchmarks, in the order of the study.
    #[serde(default)]
    pub benchmarks: Vec<BenchmarkResults>,
    /// Who judged; nothing without a judge.
    #[serde(default)]
    pub judge: Option<JudgeResults>,
    /// What became of a sample that a metric, a judge or a benchmark could not score; absent in results of former versions.
    #[serde(default)]
    pub on_failure: Option<OnFailure>,
    /// Samples that a metric or a benchmark could not score, by evaluation, metric and kind.
    #[serde(default)]
    pub failures: Vec<FailureCount>,
    /// The models, in the order of the study.
    pub models: Vec<ModelResults>,
    /// Every comparison of two of them on the same held-out records.
    #[serde(default)]
    pub comparisons: Vec<StudyComparison>,
}

/// A benchmark that every model was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchmarkResults {
    /// As the study names it, `name` or `name:variant`.
    pub name: String,
    /// The metric of its own record; other records of it are other views of the same documents.
    pub metric: String,
    /// The variant of that record.
    pub variant: String,
    /// What its data are called.
    pub data: String,
    /// Hash of them.
    pub sha256: String,
    /// Documents asked about.
    pub documents: u64,
    /// Documents there are.
    pub available: u64,
}

/// Who judged a study, and what all of it did cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeResults {
    /// The judge's name; its settings stand in the records.
    pub name: String,
    /// Questions, tokens and money of all evaluations together.
    pub usage: JudgeUsage,
    /// The same of a server of vectors, if there is one.
    #[serde(default)]
    pub embeddings_usage: Option<JudgeUsage>,
}

/// Samples of one evaluation that one metric could not score for one kind of reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCount {
    /// The model.
    pub model: String,
    /// The seed of its fine-tuning; nothing for the base.
    pub seed: Option<u64>,
    /// The metric.
    pub metric: String,
    /// The kind.
    pub kind: FailureKind,
    /// How many samples.
    pub count: u64,
    /// The first of them, and what happened.
    pub first: String,
}

/// Two evaluations of a study compared in one metric, on the records that both could be scored on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyComparison {
    /// What is compared with: the base of a model, or the fine-tuned model of another family.
    pub baseline: Contestant,
    /// What is compared: a fine-tuned model.
    pub candidate: Contestant,
    /// The variant of the metric; empty in results of former versions.
    #[serde(default)]
    pub variant: String,
    /// The difference (candidate minus baseline), its interval and its p-value.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// The p-value corrected by Holm's rule for the number of all comparisons of the study.
    pub p_holm: f64,
}

/// A model of a study in one of its states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contestant {
    /// The model's name.
    pub model: String,
    /// The seed of its fine-tuning; nothing for the base.
    pub seed: Option<u64>,
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seed {
            Some(seed) => write!(f, "{}, seed {seed}", self.model),
            None => write!(f, "{}, base", self.model),
        }
    }
}

/// The machine and the versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of this crate.
    pub ferrotune: String,
    /// Version of libtorch.
    pub libtorch: String,
    /// Operating system and architecture.
    pub system: String,
    /// Processor.
    pub processor: String,
    /// Threads used for arithmetic.
    pub threads: u64,
    /// The device that trained.
    pub device: String,
    /// The compute type.
    pub dtype: String,
    /// Bytes of host memory.
    pub memory_bytes: u64,
}

/// What became of the instruction data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataResults {
    /// The files.
    pub files: Vec<DataFile>,
    /// Records in each part of the split, those that repeat what trains, and those in no part.
    pub split: SplitCounts,
    /// The seed of the split.
    pub split_seed: u64,
}

/// A data file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Its name, without folders.
    pub name: String,
    /// Hash of its bytes.
    pub sha256: String,
    /// Records in it.
    pub read: u64,
    /// Records that could be used.
    pub kept: u64,
    /// Records that could not, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// One model family, before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelResults {
    /// What the report calls it.
    pub name: String,
    /// `llama`, `mistral` or `mixtral`.
    pub family: String,
    /// How the base came to be, in a sentence: a folder's name, or how it was grown.
    pub origin: String,
    /// What its records are written in.
    #[serde(default)]
    pub template: TemplateResults,
    /// Hash of the base weights.
    pub base_sha256: String,
    /// Hash of the tokenizer.
    pub tokenizer_sha256: String,
    /// All weights of the base.
    pub parameters: u64,
    /// Weights that one token crosses.
    pub active_parameters: u64,
    /// Weights that trained.
    pub trainable_parameters: u64,
    /// Records by what encoding did with them under this model's tokenizer.
    pub encoding: EncodingCounts,
    /// The metrics of the base model.
    pub base: Vec<Record>,
    /// The base model's benchmarks: for each its own record, then other views of it; the Quality Index at the end.
    #[serde(default)]
    pub base_benchmarks: Vec<Record>,
    /// One fine-tuning per seed.
    pub runs: Vec<RunResults>,
    /// Answers to the same held-out questions, before and after (first seed), for a reader to judge.
    pub answers: Vec<Answer>,
}

/// What a model's records are written in, when it trains and when it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateResults {
    /// Whose it is.
    pub name: String,
    /// Hash of it: of the study's, of its name.
    pub sha256: String,
}

impl TemplateResults {
    /// The name and the hash of a template.
    #[must_use]
    pub fn of(template: &Template) -> Self {
        match template {
            Template::Study => Self {
                name: format!("the study's, {TEMPLATE}"),
                sha256: digest::of_bytes(TEMPLATE.as_bytes()),
            },
            Template::Chat(template) => Self {
                name: "the checkpoint's own chat template".to_owned(),
                sha256: template.fingerprint().to_owned(),
            },
        }
    }
}

/// What encoding did with the records of all parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodingCounts {
    /// Records in use.
    pub kept: u64,
    /// Records whose request was too long.
    pub request_too_long: u64,
    /// Records without a token to learn from.
    pub nothing_supervised: u64,
    /// Records in use that lost their end.
    pub truncated: u64,
    /// Ids of records in use.
    pub tokens: u64,
    /// Of those, targets.
    pub supervised_tokens: u64,
}

/// One fine-tuning and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResults {
    /// Seeds adapter, order and dropout.
    pub seed: u64,
    /// Steps taken.
    pub steps: u64,
    /// Epochs seen.
    pub epochs: f64,
    /// Seconds of training, without evaluation of metrics.
    pub train_seconds: f64,
    /// Mean training loss over the run's supervised tokens.
    pub train_loss: f64,
    /// Validation loss at the end.
    pub validation_loss: Option<f64>,
    /// Input tokens per second that are not padding.
    pub tokens_per_second: f64,
    /// Targets per second.
    pub supervised_tokens_per_second: f64,
    /// Largest resident memory of the process so far, in bytes.
    pub peak_rss_bytes: u64,
    /// Largest device memory, where there is a device of its own.
    pub peak_device_bytes: Option<u64>,
    /// Training loss over time.
    pub training_curve: Vec<CurvePoint>,
    /// Validation loss over time; the first point is before any step where that was measured.
    pub validation_curve: Vec<CurvePoint>,
    /// Where the run began to overfit, if it did.
    pub overfitting: Option<Overfitting>,
    /// The metrics of the fine-tuned model.
    pub metrics: Vec<Record>,
    /// Its benchmarks, as those of the base.
    #[serde(default)]
    pub benchmarks: Vec<Record>,
}

/// A loss at a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Optimizer steps taken.
    pub step: u64,
    /// Epochs seen.
    pub epoch: f64,
    /// Mean loss per supervised token.
    pub loss: f64,
}

/// The step after which validation loss rises while training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overfitting {
    /// Step of the lowest validation loss.
    pub step: u64,
    /// Epochs seen there.
    pub epoch: f64,
    /// That lowest loss.
    pub lowest_loss: f64,
    /// The validation loss at the end.
    pub final_loss: f64,
}

/// A held-out question with its answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The request.
    pub request: String,
    /// What the data say.
    pub reference: String,
    /// The base model's.
    pub base: String,
    /// The fine-tuned model's.
    pub fine_tuned: String,
}

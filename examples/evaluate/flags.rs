//! The flags of `evaluate`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser};
use ferrotune::{
    Chat,
    eval::{
        OnFailure,
        judge::{ApiKey, EndpointOptions, JudgingOptions, Limits, Price},
        statistics::Bootstrap,
        task::Turns,
    },
};

use crate::cli;

/// Metrics over text that are asked for unless `--metrics` says otherwise.
const TEXT_METRICS: &str = "bleu,chrf,rouge,meteor,exact_match,token_f1";

/// Scores answers: of a file of pairs, of a per-sample file, or of a model that is asked a benchmark.
///
/// Every metric gives a record: value, 95 % interval and how it was made, the samples scored and failed, the exact variant
/// and all settings. A metric that cannot be measured is an error before anything is computed, and a sample that cannot be
/// scored is an error or a counted failure, as `--on-failure` says, never a number.
#[derive(Debug, Parser)]
#[command(
    group = ArgGroup::new("what").args(["pairs", "rescore", "task"]).required(true).multiple(true),
    after_help = "Prints one JSON object as the last line of standard output: `metrics`, a record for each measurement."
)]
pub(crate) struct Flags {
    /// JSON Lines with `id`, `prediction`, `reference` or a list `references`, and `instruction` where judges need it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rescore", "task"])]
    pub(crate) pairs: Option<PathBuf>,
    /// A file that `--samples` wrote, to be scored again without a model; with `--task`, by that task's rules
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "BaseFlags"])]
    pub(crate) rescore: Option<PathBuf>,
    /// Pairs of another system with the same ids, with `--task` what `--samples` wrote of another model, to compare with: paired
    /// tests, corrected for their number by Holm
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// What to measure, separated by commas; an unknown name is answered with the list of them
    #[arg(long, value_name = "A,B,C", default_value = TEXT_METRICS, conflicts_with = "task")]
    pub(crate) metrics: String,
    /// Only the first pairs, or the first documents of a task; the records say so
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// What a record or a sample that cannot be used does: end the run, or be left out and counted
    #[arg(long, default_value = "error", value_parser = cli::words(ON_FAILURE))]
    pub(crate) on_failure: OnFailure,
    /// Also write a line for each sample and metric, from which `--rescore` works
    #[arg(long, value_name = "FILE")]
    pub(crate) samples: Option<PathBuf>,
    /// Replace the file of `--samples` if it is there
    #[arg(long, requires = "samples")]
    pub(crate) force: bool,
    /// Draws for each 95 % interval and each test
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) resamples: u32,
    /// TOML file with flags, without their dashes in front; flags on the command line win
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    #[command(flatten)]
    pub(crate) helpers: HelperFlags,
    #[command(flatten)]
    pub(crate) judge: JudgeFlags,
    #[command(flatten)]
    pub(crate) compute: cli::ComputeFlags,
}

const ON_FAILURE: &[(&str, OnFailure)] = &[("error", OnFailure::Error), ("skip", OnFailure::Skip)];

/// What encoders and dictionaries the metrics may use.
#[derive(Args, Debug)]
#[command(next_help_heading = "For the metrics")]
pub(crate) struct HelperFlags {
    /// Sentence encoder for semantic similarity, Answer Semantic Similarity and BERTScore [default: .models/all-minilm-l6-v2,
    /// where it is there]
    #[arg(long, value_name = "DIR")]
    pub(crate) embedder: Option<PathBuf>,
    /// The encoder's layer that BERTScore compares, counted from 1; the last one where absent
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) bert_score_layer: Option<i64>,
    /// Base address of an OpenAI-compatible server whose embeddings take the sentence encoder's place
    #[arg(long, value_name = "URL", requires = "embeddings_model", conflicts_with = "embedder")]
    pub(crate) embeddings_url: Option<String>,
    /// That server's name of the embeddings' model
    #[arg(long, value_name = "NAME", requires = "embeddings_url")]
    pub(crate) embeddings_model: Option<String>,
    /// WordNet's folder, for METEOR's synonyms; Debian's `wordnet-base` has it in /usr/share/wordnet
    #[arg(long, value_name = "DIR")]
    pub(crate) wordnet: Option<PathBuf>,
    /// Phrases that mean the same, for `meteor_corrected`: two to a line with a tab between them
    #[arg(long, value_name = "FILE")]
    pub(crate) paraphrases: Option<PathBuf>,
}

/// Who judges, how, and at what price.
#[derive(Args, Debug)]
#[command(next_help_heading = "Judge")]
pub(crate) struct JudgeFlags {
    /// Base address of an OpenAI-compatible server, such as https://api.openai.com/v1
    #[arg(long, value_name = "URL", requires = "judge_model", conflicts_with = "judge_replies")]
    pub(crate) judge_url: Option<String>,
    /// The judge's name there, with its date
    #[arg(long, value_name = "NAME", requires = "judge_url")]
    pub(crate) judge_model: Option<String>,
    /// Environment variable with the key, of the judge and of the embeddings; without it none is sent
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) judge_key_env: Option<String>,
    /// Replies that were written down, instead of a server: JSON Lines with `sample`, `purpose` and `text`
    #[arg(long, value_name = "FILE")]
    pub(crate) judge_replies: Option<PathBuf>,
    /// Keeps every reply and vector, so that a run that was interrupted resumes without asking twice
    #[arg(long, value_name = "FILE")]
    pub(crate) judge_cache: Option<PathBuf>,
    /// How often each sample is judged; its score is the mean
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) judge_repeats: u32,
    /// The longest reply, in tokens
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub(crate) judge_max_tokens: u32,
    /// The longest wait for a reply, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) judge_timeout: u64,
    /// Requests under way at the same time
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) judge_concurrency: usize,
    /// Requests that may begin within a minute
    #[arg(long, value_name = "N")]
    pub(crate) judge_requests_per_minute: Option<usize>,
    /// Tokens that requests begun within a minute may cost
    #[arg(long, value_name = "N")]
    pub(crate) judge_tokens_per_minute: Option<u64>,
    /// Price of a million tokens of questions, in your currency
    #[arg(long, value_name = "PRICE", requires = "judge_reply_price", allow_negative_numbers = true)]
    pub(crate) judge_prompt_price: Option<f64>,
    /// Price of a million tokens of replies
    #[arg(long, value_name = "PRICE", requires = "judge_prompt_price", allow_negative_numbers = true)]
    pub(crate) judge_reply_price: Option<f64>,
    /// Ask nothing, and print what the judged metrics would cost
    #[arg(long, conflicts_with_all = ["task", "samples", "baseline"])]
    pub(crate) dry_run: bool,
}

impl JudgeFlags {
    /// A server's address with how it may be asked.
    pub(crate) fn endpoint(&self, url: &str, model: &str) -> EndpointOptions {
        EndpointOptions {
            request_timeout: Duration::from_secs(self.judge_timeout),
            limits: Limits {
                concurrency: self.judge_concurrency,
                requests_per_minute: self.judge_requests_per_minute,
                tokens_per_minute: self.judge_tokens_per_minute,
            },
            ..EndpointOptions::new(url, model)
        }
    }

    pub(crate) fn key(&self) -> cli::Result<Option<ApiKey>> {
        Ok(self.judge_key_env.as_deref().map(ApiKey::from_environment).transpose()?)
    }

    pub(crate) fn options(&self, seed: u64, on_failure: OnFailure) -> JudgingOptions {
        let prices = self.judge_prompt_price.zip(self.judge_reply_price);
        JudgingOptions {
            max_tokens: self.judge_max_tokens,
            seed: Some(seed),
            repeats: self.judge_repeats,
            on_failure,
            price: prices.map(|(prompt_per_million, completion_per_million)| Price {
                prompt_per_million,
                completion_per_million,
            }),
            ..JudgingOptions::default()
        }
    }
}

/// A model, and what it is asked.
#[derive(Args, Debug)]
#[command(next_help_heading = "Benchmarks")]
pub(crate) struct ModelFlags {
    /// Hugging Face folder of a LLaMA, Mistral or Mixtral model
    #[arg(long, value_name = "DIR", requires = "task")]
    pub(crate) model: Option<PathBuf>,
    /// PEFT folder of an adapter to put on the model
    #[arg(long, value_name = "DIR", requires = "model")]
    pub(crate) adapter: Option<PathBuf>,
    /// A benchmark, or `name:variant`; an unknown name is answered with the list of them
    #[arg(long, value_name = "NAME", requires = "data", conflicts_with_all = ["HelperFlags", "JudgeFlags"])]
    pub(crate) task: Option<String>,
    /// The benchmark's file or folder
    #[arg(long, value_name = "PATH", requires = "task")]
    pub(crate) data: Option<PathBuf>,
    /// Examples before each question; what the variant has where absent
    #[arg(long, value_name = "K", requires = "task")]
    pub(crate) shots: Option<usize>,
    /// Where the examples are, if not beside the data
    #[arg(long, value_name = "PATH", requires = "task")]
    pub(crate) examples: Option<PathBuf>,
    /// Subjects or languages to ask about, separated by commas; all where absent
    #[arg(long, value_name = "A,B", value_delimiter = ',', requires = "task")]
    pub(crate) parts: Vec<String>,
    /// Take data with another number of rows than the published files have
    #[arg(long, requires = "task")]
    pub(crate) any_row_count: bool,
    /// The most tokens of an answer; what the variant has where absent
    #[arg(long, value_name = "N", requires = "task", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_new_tokens: Option<u64>,
    /// How questions reach the model: through its own chat template if it has one (`auto`, `template`), through the template of
    /// fine-tuning (`study`), or as plain text (`none`)
    #[arg(long, requires = "model", default_value = "auto", value_parser = cli::words(CHATS))]
    pub(crate) chat: Chat,
    /// Where examples go in a conversation
    #[arg(long, requires = "model", value_parser = cli::words(TURNS))]
    pub(crate) turns: Option<Turns>,
    /// Answers drawn for each question, where a task draws several; what the variant has where absent
    #[arg(long, value_name = "N", requires = "task", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) answers: Option<u64>,
    /// At which temperature they are drawn; what the variant has where absent
    #[arg(long, requires = "task", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// Let programs that the model writes run, isolated, for tasks that measure them; refused where they cannot be isolated
    #[arg(long, requires = "task")]
    pub(crate) allow_code_execution: bool,
    /// Ids in a batch, padding included
    #[arg(long, value_name = "N", requires = "model", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) batch_tokens: u64,
    #[command(flatten)]
    pub(crate) base: cli::BaseFlags,
}

const CHATS: &[(&str, Chat)] =
    &[("auto", Chat::Auto), ("none", Chat::None), ("template", Chat::Template), ("study", Chat::Study)];

const TURNS: &[(&str, Turns)] = &[("one", Turns::One), ("per-example", Turns::PerExample)];

impl Flags {
    /// How many pairs are read at most.
    pub(crate) fn limit(&self) -> usize {
        self.limit.map_or(usize::MAX, |limit| limit as usize)
    }

    pub(crate) fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.resamples as usize, seed: self.compute.seed, ..Bootstrap::default() }
    }
}

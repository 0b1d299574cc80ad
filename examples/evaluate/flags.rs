//! The flags of `evaluate`.

use std::path::PathBuf;

use clap::{Arg, ArgGroup, Args, Parser};
use ferrotune::{
    Chat, JudgeConfig, JudgeTemperature,
    eval::{
        OnFailure,
        judge::{JsonMode, TokenLimitField},
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
    after_help = "Prints one JSON object as the last line of standard output: `metrics`, a record for each measurement.",
    mut_args = without_effect
)]
pub(crate) struct Flags {
    /// JSON Lines with `id`, `prediction`, `reference` or a list `references`, and `instruction` where judges need it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rescore", "task"])]
    pub(crate) pairs: Option<PathBuf>,
    /// A file that `--samples` wrote, to be scored again without a model; with `--task`, by that task's rules
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub(crate) rescore: Option<PathBuf>,
    /// Pairs of another system with the same ids, with `--task` what `--samples` wrote of another model, to compare with: paired
    /// tests, corrected for their number by Holm
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// What to measure, separated by commas; an unknown name is answered with the list of them
    #[arg(long, value_name = "A,B,C", default_value = TEXT_METRICS, conflicts_with = "task")]
    pub(crate) metrics: String,
    /// Only the first pairs, with a baseline of those that both files have, or the first documents of a task, of each
    /// language (MGSM) or subject (MMLU, MATH); the records say so
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
    #[arg(long, value_name = "N", default_value_t = 1000)]
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

const METRICS_HEADING: &str = "For the metrics";
const JUDGE_HEADING: &str = "Judge";

/// Refuses flags that would change nothing, so that nobody takes a number for what it is not.
fn without_effect(flag: Arg) -> Arg {
    let of_a_model =
        ["adapter", "allow_other_base", "chat", "turns", "batch_tokens"].contains(&flag.get_id().as_str());
    match flag.get_help_heading() {
        Some(METRICS_HEADING | JUDGE_HEADING) => flag.conflicts_with("task"),
        Some(cli::BASE_HEADING) => flag.conflicts_with_all(["pairs", "rescore"]),
        _ if of_a_model => flag.conflicts_with_all(["pairs", "rescore"]),
        _ => flag,
    }
}

const ON_FAILURE: &[(&str, OnFailure)] = &[("error", OnFailure::Error), ("skip", OnFailure::Skip)];

/// What encoders and dictionaries the metrics may use.
#[derive(Args, Debug)]
#[command(next_help_heading = METRICS_HEADING)]
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
    /// Price of a million tokens that the server makes vectors of, in your currency
    #[arg(long, value_name = "PRICE", requires = "embeddings_url", allow_negative_numbers = true)]
    pub(crate) embeddings_price: Option<f64>,
    /// WordNet's folder, for METEOR's synonyms; Debian's `wordnet-base` has it in /usr/share/wordnet
    #[arg(long, value_name = "DIR")]
    pub(crate) wordnet: Option<PathBuf>,
    /// Phrases that mean the same, for `meteor_corrected`: two to a line with a tab between them
    #[arg(long, value_name = "FILE")]
    pub(crate) paraphrases: Option<PathBuf>,
}

/// Who judges, how, and at what price.
#[derive(Args, Debug)]
#[command(next_help_heading = JUDGE_HEADING)]
pub(crate) struct JudgeFlags {
    /// Base address of an OpenAI-compatible server, such as https://api.openai.com/v1
    #[arg(long, value_name = "URL", requires = "judge_model", conflicts_with_all = ["judge_local", "judge_replies"])]
    pub(crate) judge_url: Option<String>,
    /// The judge's name there, with its date
    #[arg(long, value_name = "NAME", requires = "judge_url")]
    pub(crate) judge_model: Option<String>,
    /// Hugging Face folder of an instruct model that judges on this machine, instead of a server
    #[arg(long, value_name = "DIR", conflicts_with = "judge_replies")]
    pub(crate) judge_local: Option<PathBuf>,
    /// Replies that were written down, instead of a server: JSON Lines with `sample`, `purpose` and `text`
    #[arg(long, value_name = "FILE")]
    pub(crate) judge_replies: Option<PathBuf>,
    /// Environment variable with the key, of the judge and of the embeddings; without it none is sent
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) judge_key_env: Option<String>,
    /// Keeps every reply and vector, so that a run that was interrupted resumes without asking twice
    #[arg(long, value_name = "FILE")]
    pub(crate) judge_cache: Option<PathBuf>,
    /// Ask once more where the cache holds no reply that can be used; without it a run that is repeated fails as before
    #[arg(long, requires = "judge_cache")]
    pub(crate) judge_retry_unusable: bool,
    /// How often each sample is judged, 1 where absent; its score is the mean
    #[arg(long, value_name = "N")]
    pub(crate) judge_repeats: Option<u32>,
    /// The longest reply in tokens, 2048 where absent
    #[arg(long, value_name = "N")]
    pub(crate) judge_max_tokens: Option<u32>,
    /// At which temperature replies are drawn, 0 where absent; `none` sends none, for models that accept none
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) judge_temperature: Option<JudgeTemperature>,
    /// The field that bounds a reply's length; reasoning models want `max_completion_tokens`
    #[arg(long, value_name = "FIELD", value_parser = cli::words(TOKEN_LIMIT_FIELDS))]
    pub(crate) judge_token_limit_field: Option<TokenLimitField>,
    /// Whether the server is told to reply in JSON (`ask`, where absent), or only the prompt says so (`leave`)
    #[arg(long, value_name = "MODE", value_parser = cli::words(JSON_MODES))]
    pub(crate) judge_json_mode: Option<JsonMode>,
    /// The longest wait for a reply in seconds, 120 where absent
    #[arg(long, value_name = "SECONDS")]
    pub(crate) judge_timeout: Option<u64>,
    /// Requests under way at the same time, 4 where absent
    #[arg(long, value_name = "N")]
    pub(crate) judge_concurrency: Option<usize>,
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

const TOKEN_LIMIT_FIELDS: &[(&str, TokenLimitField)] = &[
    ("max_tokens", TokenLimitField::MaxTokens),
    ("max_completion_tokens", TokenLimitField::MaxCompletionTokens),
];

const JSON_MODES: &[(&str, JsonMode)] = &[("ask", JsonMode::Ask), ("leave", JsonMode::Leave)];

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
    #[command(flatten)]
    pub(crate) other: cli::OtherBase,
    /// A benchmark, or `name:variant`; an unknown name is answered with the list of them
    #[arg(long, value_name = "NAME", requires = "data")]
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
    /// The judge, and the server of vectors.
    pub(crate) fn judges(&self) -> JudgeConfig {
        let (judge, helpers) = (&self.judge, &self.helpers);
        JudgeConfig {
            url: judge.judge_url.clone(),
            model: judge.judge_model.clone(),
            local: judge.judge_local.clone(),
            replies: judge.judge_replies.clone(),
            cache: judge.judge_cache.clone(),
            retry_unusable: judge.judge_retry_unusable,
            repeats: judge.judge_repeats,
            max_tokens: judge.judge_max_tokens,
            temperature: judge.judge_temperature,
            token_limit_field: judge.judge_token_limit_field,
            json_mode: judge.judge_json_mode,
            key_env: judge.judge_key_env.clone(),
            timeout: judge.judge_timeout,
            concurrency: judge.judge_concurrency,
            requests_per_minute: judge.judge_requests_per_minute,
            tokens_per_minute: judge.judge_tokens_per_minute,
            prompt_price: judge.judge_prompt_price,
            reply_price: judge.judge_reply_price,
            embeddings_url: helpers.embeddings_url.clone(),
            embeddings_model: helpers.embeddings_model.clone(),
            embeddings_price: helpers.embeddings_price,
        }
    }

    /// How many documents of a task, or of each of its parts, are asked about at most.
    pub(crate) fn limit(&self) -> Option<usize> {
        self.limit.map(|limit| limit as usize)
    }

    pub(crate) fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.resamples as usize, seed: self.compute.seed, ..Bootstrap::default() }
    }
}

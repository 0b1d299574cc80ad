use std::path::PathBuf;

use ferrotune_eval::OnFailure;
use serde::{Deserialize, Serialize};

use crate::{BenchmarkConfig, Error, JudgeConfig, MetricTools, Result};

/// What is measured and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeasureConfig {
    /// Names of metrics, separated by commas; `perplexity` is of the references given the requests, the others are of
    /// generated answers against them. Judged ones need a [`judge`](Self::judge).
    pub metrics: String,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// At most this many records; all where absent. The first ones of the test part, which a seed has shuffled.
    pub limit: Option<usize>,
    /// Ids in a batch, padding included.
    pub batch_tokens: usize,
    /// What a sample that a metric or a judge cannot score does: `skip` leaves it out and counts it, `error` ends the
    /// work.
    pub on_failure: OnFailure,
    /// Folder of the sentence encoder for semantic similarity, RAGAS and `BERTScore`.
    pub embedder: Option<PathBuf>,
    /// The encoder's layer that `BERTScore` compares, counted from 1; the last one where absent.
    pub bert_score_layer: Option<i64>,
    /// Folder of `WordNet` for METEOR's synonyms.
    pub wordnet: Option<PathBuf>,
    /// Table of paraphrases for `meteor_corrected`, one pair of phrases with a tab between them a line.
    pub paraphrases: Option<PathBuf>,
    /// Who judges; without it judged metrics are reported as not measured.
    pub judge: Option<JudgeConfig>,
    /// Benchmarks, each asked of every model before and after.
    pub tasks: Vec<BenchmarkConfig>,
}

impl Default for MeasureConfig {
    fn default() -> Self {
        let metrics = "perplexity,exact_match,token_f1,bleu,rouge,meteor,semantic_similarity,\
                       ragas_answer_semantic_similarity";
        Self {
            metrics: metrics.to_owned(),
            max_new_tokens: 256,
            limit: None,
            batch_tokens: 4096,
            on_failure: OnFailure::Skip,
            embedder: None,
            bert_score_layer: None,
            wordnet: None,
            paraphrases: None,
            judge: None,
            tasks: Vec::new(),
        }
    }
}

impl MeasureConfig {
    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// [`Error::Setting`] for a batch of nothing, a judge that is not named, a benchmark without name or data
    /// or named twice, and what [`JudgeConfig::validate`] refuses.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, found: String, expected: &str| {
            Err(Error::Setting { setting: setting.into(), found, expected: expected.to_owned() })
        };
        for (setting, zero) in [
            ("evaluation.batch_tokens", self.batch_tokens == 0),
            ("evaluation.max_new_tokens", self.max_new_tokens == 0),
            ("evaluation.limit", self.limit == Some(0)),
        ] {
            if zero {
                return wrong(setting, "0".to_owned(), "at least 1");
            }
        }
        if let Some(judge) = &self.judge {
            judge.validate().map_err(in_a_study)?;
            let JudgeConfig { url, local, replies, embeddings_url, .. } = judge;
            if url.is_none() && local.is_none() && replies.is_none() && embeddings_url.is_none() {
                let expected = "one of url (with model), local or replies, or no such table";
                return wrong("evaluation.judge", "without a judge".to_owned(), expected);
            }
            if embeddings_url.is_some() && self.embedder.is_some() {
                let expected = "one of them: vectors of two encoders cannot be mixed";
                return wrong(
                    "evaluation.embedder",
                    "given beside evaluation.judge.embeddings_url".to_owned(),
                    expected,
                );
            }
        }
        for (index, task) in self.tasks.iter().enumerate() {
            if task.name.is_empty() {
                return wrong(
                    "evaluation.tasks.name",
                    "missing".to_owned(),
                    "a benchmark's name, such as gsm8k",
                );
            }
            if task.data.as_os_str().is_empty() {
                let expected = "`data`, the benchmark's file or folder";
                return wrong("evaluation.tasks", format!("`{}` without data", task.name), expected);
            }
            if task.limit == Some(0) {
                return wrong("evaluation.tasks.limit", format!("0 for `{}`", task.name), "at least 1");
            }
            if self.tasks[..index].iter().any(|other| other.name == task.name) {
                let expected = "each benchmark once; name variants as name:variant";
                return wrong("evaluation.tasks.name", format!("`{}` twice", task.name), expected);
            }
        }
        Ok(())
    }

    /// Every path, so that those of a file can be made relative to it.
    pub(crate) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { embedder, wordnet, paraphrases, judge, tasks, .. } = self;
        let of_judge = judge.iter_mut().flat_map(|judge| {
            let JudgeConfig { local, replies, cache, .. } = judge;
            [local, replies, cache].into_iter().flatten()
        });
        let of_tasks =
            tasks.iter_mut().flat_map(|task| std::iter::once(&mut task.data).chain(&mut task.examples));
        // What is missing stays missing.
        let all = [embedder, wordnet, paraphrases].into_iter().flatten().chain(of_judge).chain(of_tasks);
        all.filter(|path| !path.as_os_str().is_empty())
    }

    pub(super) fn tools(&self) -> MetricTools {
        MetricTools {
            embedder: self.embedder.clone(),
            bert_score_layer: self.bert_score_layer,
            wordnet: self.wordnet.clone(),
            paraphrases: self.paraphrases.clone(),
        }
    }
}

/// What is wrong with a judge, with its settings spelt as in a study's file.
pub(super) fn in_a_study(error: Error) -> Error {
    match error {
        Error::Setting { setting, found, expected } if setting.split('.').next() == Some("judge") => {
            let expected = expected.replace("judge.", "evaluation.judge.");
            Error::Setting { setting: format!("evaluation.{setting}").into(), found, expected }
        }
        other => other,
    }
}

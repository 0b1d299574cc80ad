//! The metrics and benchmarks of a study: their names for readers, and which of them a comparison is incomplete without.

use ferrotune_eval::Record;

use crate::{QUALITY_INDEX, study::StudyResults};

/// Why a judged metric has no record at all.
pub(super) const NO_JUDGE: &str = "no judge was configured";
/// Why another metric of the study has no record at all.
pub(super) const NOT_ASKED: &str = "this study did not ask for it";

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    Higher,
    Lower,
}

/// A metric that readers know by another name than records do.
#[derive(Debug)]
pub(super) struct Known {
    /// Names that records use.
    keys: &'static [&'static str],
    /// The name in the report.
    label: &'static str,
    scale: Scale,
    better: Better,
    /// What the report says where a study has no record of it; `None` if it is then left out.
    absent: Option<&'static str>,
}

/// Between which numbers a value lies, in words.
type Scale = &'static str;

use Better::{Higher, Lower};

const UNIT: Scale = "0 to 1";
const HUNDRED: Scale = "0 to 100";
const COSINE: Scale = "-1 to 1";
/// Three quarters a share, one quarter a cosine.
const CORRECTNESS: Scale = "-0.25 to 1";
const PERPLEXITY: Scale = "1 or more";
const LOSS: Scale = "0 or more";

const fn known(
    keys: &'static [&'static str],
    label: &'static str,
    scale: Scale,
    better: Better,
    absent: Option<&'static str>,
) -> Known {
    Known { keys, label, scale, better, absent }
}

/// In the order of the report: the metrics of table 4, then the others of the study, then the rest.
const KNOWN: &[Known] = &[
    known(
        &["gpt4_score", "gpt_4_score", "gpt4", "judge_score", "llm_judge"],
        "GPT-4 score",
        "1 to 10",
        Higher,
        Some(NO_JUDGE),
    ),
    known(
        &["ragas_answer_correctness", "answer_correctness"],
        "RAGAS Answer Correctness",
        CORRECTNESS,
        Higher,
        Some(NO_JUDGE),
    ),
    known(
        &[
            "ragas_answer_semantic_similarity",
            "answer_semantic_similarity",
            "ragas_answer_similarity",
            "answer_similarity",
        ],
        "RAGAS Answer Semantic Similarity",
        COSINE,
        Higher,
        Some(NOT_ASKED),
    ),
    known(&["exact_match"], "Exact Match", UNIT, Higher, Some(NOT_ASKED)),
    known(&["perplexity"], "Perplexity", PERPLEXITY, Lower, Some(NOT_ASKED)),
    known(&["semantic_similarity"], "Semantic similarity", COSINE, Higher, Some(NOT_ASKED)),
    known(&["bleu"], "BLEU", HUNDRED, Higher, Some(NOT_ASKED)),
    known(&["rouge1"], "ROUGE-1", UNIT, Higher, Some(NOT_ASKED)),
    known(&["rouge2"], "ROUGE-2", UNIT, Higher, None),
    known(&["rougel"], "ROUGE-L", UNIT, Higher, Some(NOT_ASKED)),
    known(&["rougelsum"], "ROUGE-Lsum", UNIT, Higher, None),
    known(&["meteor"], "METEOR", UNIT, Higher, Some(NOT_ASKED)),
    known(&["meteor_corrected"], "METEOR, corrected", UNIT, Higher, None),
    // FastChat takes whatever number a judge gives.
    known(
        &["gpt4_score_fastchat"],
        "GPT-4 score, FastChat's rules",
        "0 or more, asked for 1 to 10",
        Higher,
        None,
    ),
    known(
        &["ragas_answer_correctness_0_1_7"],
        "RAGAS Answer Correctness, rules of 0.1.7",
        CORRECTNESS,
        Higher,
        None,
    ),
    known(
        &["ragas_answer_correctness_0_1_9"],
        "RAGAS Answer Correctness, rules of 0.1.9",
        CORRECTNESS,
        Higher,
        None,
    ),
    known(
        &["ragas_answer_correctness_0_4_legacy"],
        "RAGAS Answer Correctness, rules of 0.4, legacy class",
        CORRECTNESS,
        Higher,
        None,
    ),
    known(
        &["ragas_answer_correctness_0_4_collections"],
        "RAGAS Answer Correctness, rules of 0.4, collections",
        CORRECTNESS,
        Higher,
        None,
    ),
    known(&["chrf"], "chrF", HUNDRED, Higher, None),
    known(&["bert_score"], "BERTScore F1", COSINE, Higher, None),
    known(&["bert_score_idf"], "BERTScore F1, weighted by rarity", COSINE, Higher, None),
    known(&["squad_em"], "Exact Match, SQuAD's", UNIT, Higher, None),
    known(&["token_f1"], "Token F1, SQuAD's", UNIT, Higher, None),
    known(&["loss"], "Loss per token", LOSS, Lower, None),
    known(&["perplexity_mean_of_texts"], "Perplexity, mean of texts", PERPLEXITY, Lower, None),
    known(&["perplexity_per_text"], "Perplexity per text", PERPLEXITY, Lower, None),
    known(&["word_perplexity"], "Perplexity per word", PERPLEXITY, Lower, None),
    known(&["byte_perplexity"], "Perplexity per byte", PERPLEXITY, Lower, None),
    known(&["bits_per_byte"], "Bits per byte", LOSS, Lower, None),
];

/// The names of benchmarks for readers.
const BENCHMARKS: &[(&str, &str)] = &[
    ("mmlu", "MMLU"),
    ("gpqa", "GPQA"),
    ("math", "MATH"),
    ("gsm8k", "GSM8K"),
    ("mgsm", "MGSM"),
    ("humaneval", "HumanEval, pass@1"),
    (QUALITY_INDEX, "Quality Index"),
];

/// One row of a table of metrics or benchmarks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The name in the records, or the usual one where there is no record.
    pub metric: String,
    /// The variant of the records, where rows are told apart by it.
    pub variant: Option<String>,
    /// The name in the report.
    pub label: String,
    /// Between which numbers the value lies; empty where that is not known.
    pub scale: &'static str,
    pub better: Option<Better>,
    /// What to say of a model without a record.
    pub absent: &'static str,
}

impl Row {
    /// This row's record among those of one evaluation.
    pub(super) fn find<'a>(&self, records: &'a [Record]) -> Option<&'a Record> {
        records.iter().find(|record| self.is_of(&record.metric, &record.variant))
    }

    /// Whether this row is about a metric in a variant.
    pub(super) fn is_of(&self, metric: &str, variant: &str) -> bool {
        self.metric == metric && self.variant.as_deref().is_none_or(|own| own == variant)
    }
}

/// The metric's name for readers.
pub(super) fn label(metric: &str) -> String {
    let benchmark = BENCHMARKS.iter().find(|(name, _)| *name == metric).map(|(_, label)| *label);
    let label = position(metric).map(|i| KNOWN[i].label).or(benchmark);
    label.unwrap_or(metric).to_owned()
}

/// The same for a metric in a variant: benchmarks that are asked in several are told apart as the study names them.
pub(super) fn label_in(results: &StudyResults, metric: &str, variant: &str) -> String {
    let of_metric = || results.benchmarks.iter().filter(|one| one.metric == metric);
    let named = of_metric().find(|one| one.variant == variant).and_then(|one| one.name.split_once(':'));
    match named {
        Some((_, own)) if of_metric().count() > 1 => format!("{}, {own}", label(metric)),
        _ => label(metric),
    }
}

/// The rows for the benchmarks, in the order of the study, and the Quality Index.
pub(super) fn benchmark_rows(results: &StudyResults) -> Vec<Row> {
    let row = |metric: &str, variant: Option<&str>| Row {
        metric: metric.to_owned(),
        variant: variant.map(str::to_owned),
        label: label_in(results, metric, variant.unwrap_or_default()),
        scale: if metric == QUALITY_INDEX { HUNDRED } else { UNIT },
        better: Some(Higher),
        absent: NOT_ASKED,
    };
    let mut rows: Vec<Row> =
        results.benchmarks.iter().map(|one| row(&one.metric, Some(&one.variant))).collect();
    if !rows.is_empty() {
        rows.push(row(QUALITY_INDEX, None));
    }
    rows
}

/// The rows for the metrics: every one that a record is of, once, and those that no comparison is complete without.
pub(super) fn rows(results: &StudyResults) -> Vec<Row> {
    let records =
        results.models.iter().flat_map(|m| m.base.iter().chain(m.runs.iter().flat_map(|r| &r.metrics)));
    let mut found: Vec<&str> = Vec::new();
    for record in records {
        if !found.contains(&record.metric.as_str()) {
            found.push(&record.metric);
        }
    }
    let mut rows = Vec::new();
    for (i, known) in KNOWN.iter().enumerate() {
        // With a judge, a metric without a record was not asked for.
        let absent = known.absent.filter(|_| results.judge.is_none()).unwrap_or(NOT_ASKED);
        let row = |metric: &str| Row {
            metric: metric.to_owned(),
            variant: None,
            label: known.label.to_owned(),
            scale: known.scale,
            better: Some(known.better),
            absent,
        };
        let before = rows.len();
        rows.extend(found.iter().filter(|metric| position(metric) == Some(i)).map(|metric| row(metric)));
        if rows.len() == before && known.absent.is_some() {
            rows.push(row(known.keys[0]));
        }
    }
    let unknown = found.iter().filter(|metric| position(metric).is_none());
    rows.extend(unknown.map(|metric| {
        // ROUGE-3 to -9 and the skip-bigrams keep the names of the records.
        let is_rouge = metric.starts_with("rouge");
        Row {
            metric: (*metric).to_owned(),
            variant: None,
            label: (*metric).to_owned(),
            scale: if is_rouge { UNIT } else { "" },
            better: is_rouge.then_some(Higher),
            absent: NOT_ASKED,
        }
    }));
    rows
}

fn position(metric: &str) -> Option<usize> {
    let name = metric.to_lowercase().replace(['-', ' '], "_");
    KNOWN.iter().position(|known| known.keys.contains(&name.as_str()))
}

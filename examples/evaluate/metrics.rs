//! The metrics that were asked for, with the encoders, dictionaries and judge that they need.

use ferrotune::{Error, MetricTools, Metrics};

use crate::{cli, flags::Flags};

/// Opens what the metrics need, and nothing else; whatever is lacking is an error.
pub(crate) fn open(flags: &Flags) -> cli::Result<Metrics> {
    refuse_what_changes_nothing(flags)?;
    let helpers = &flags.helpers;
    let tools = MetricTools {
        embedder: helpers.embedder.clone().or_else(cli::usual_embedder),
        bert_score_layer: helpers.bert_score_layer,
        wordnet: helpers.wordnet.clone(),
        paraphrases: helpers.paraphrases.clone(),
    };
    let compute = flags.compute.resolve()?;
    let (judge, seed) = (flags.judges(), flags.compute.seed);
    let asked =
        Metrics::open(&flags.metrics, &tools, &judge, seed, flags.on_failure, compute).map_err(in_flags)?;
    for metric in &asked.metrics {
        if let Some(reason) = metric.lacking() {
            return Err(cannot_measure(&metric.outputs().join(", "), reason).into());
        }
    }
    Ok(asked)
}

/// What is wrong with a judge, with its settings spelt as flags.
fn in_flags(error: Error) -> Error {
    let spelt = |text: &str| text.replace("judge.embeddings_", "--embeddings-").replace("judge.", "--judge-");
    match error {
        Error::Setting { setting, found, expected } if setting.starts_with("judge.") => {
            let setting = spelt(&setting).replace('_', "-").into();
            Error::Setting { setting, found, expected: spelt(&expected) }
        }
        other => other,
    }
}

/// Whether one of the metrics asked for has this in its name.
fn needs(flags: &Flags, part: &str) -> bool {
    flags.metrics.split(',').any(|name| name.trim().contains(part))
}

/// Refuses flags that none of the metrics asked for would notice.
fn refuse_what_changes_nothing(flags: &Flags) -> cli::Result<()> {
    let (helpers, judge) = (&flags.helpers, &flags.judge);
    let is_judged = needs(flags, "gpt4_score") || needs(flags, "ragas_answer_correctness");
    let has_vectors = needs(flags, "similarity") || needs(flags, "ragas");
    let bert_score = needs(flags, "bert_score");
    let given = [
        ("--judge-url", judge.judge_url.is_some(), is_judged),
        ("--judge-local", judge.judge_local.is_some(), is_judged),
        ("--judge-replies", judge.judge_replies.is_some(), is_judged),
        ("--dry-run", judge.dry_run, is_judged || helpers.embeddings_url.is_some()),
        ("--embeddings-url", helpers.embeddings_url.is_some(), has_vectors),
        ("--embedder", helpers.embedder.is_some(), has_vectors || bert_score),
        ("--bert-score-layer", helpers.bert_score_layer.is_some(), bert_score),
        ("--wordnet", helpers.wordnet.is_some(), needs(flags, "meteor")),
        ("--paraphrases", helpers.paraphrases.is_some(), needs(flags, "meteor_corrected")),
    ];
    match given.into_iter().find(|(_, given, is_used)| *given && !is_used) {
        Some((flag, ..)) => Err(format!(
            "`{flag}` changes nothing: none of the metrics asked for ({}) uses it; leave it out, or ask for one that does",
            flags.metrics
        )
        .into()),
        None => Ok(()),
    }
}

fn cannot_measure(metric: &str, reason: &str) -> String {
    let remedy = match reason {
        reason if reason.contains("encoder") => "; name its folder with --embedder",
        reason if reason.contains("judge") => {
            "; name one with --judge-url and --judge-model, or with --judge-local"
        }
        _ => "",
    };
    format!("`{metric}` cannot be measured: {reason}{remedy}")
}

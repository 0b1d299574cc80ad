//! Scoring pairs of texts, and comparing two systems.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
};

use ferrotune::{
    Metrics,
    core::digest,
    eval::{
        Dataset, Evaluation, Existing, Measurement, Pair, PairFile, Run, evaluate_until_failure, read_pairs,
        rescorable_pairs, sample_lines,
        statistics::{Bootstrap, Comparison, compare, holm},
        write_samples,
    },
};
use serde::Serialize;

use crate::{Evaluated, cli, flags::Flags, metrics};

/// Two systems on one metric.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    /// `first` is the baseline.
    #[serde(flatten)]
    comparison: Comparison,
    /// The p-value, corrected for the number of comparisons.
    p_holm: f64,
}

/// A line of a pairs file that was left out.
#[derive(Debug, Serialize)]
pub(crate) struct Rejected {
    line: usize,
    problem: String,
}

/// A file of pairs.
struct Texts<'f> {
    path: &'f Path,
    file: PairFile,
}

/// Measures the pairs of `--pairs` or `--rescore`, and of `--baseline`.
pub(crate) fn score(flags: &Flags) -> cli::Result<Evaluated> {
    let mut candidate = candidate(flags)?;
    let mut baseline = flags.baseline.as_deref().map(|path| read(path, flags)).transpose()?;
    if let Some(baseline) = &baseline {
        refuse_other_questions(&candidate.file.pairs, &baseline.file.pairs)?;
    }
    if let Some(limit) = flags.limit {
        truncate(&mut candidate, baseline.as_mut(), limit as usize);
    }
    let asked = metrics::open(flags)?;
    let rejected = candidate.rejected();
    if flags.judge.dry_run {
        return Ok(Evaluated {
            rejected,
            estimate: asked
                .judges
                .judging
                .as_ref()
                .map(|_| asked.judges.estimate(&asked.metrics, &candidate.file.pairs)),
            embeddings_estimate: asked.judges.embeddings_estimate(&candidate.file.pairs),
            ..Evaluated::default()
        });
    }
    let bootstrap = flags.bootstrap();
    let samples_file = flags.samples.as_deref();
    let say_spent = |_: &cli::BoxError| {
        if let Some(usage) = asked.judges.usage() {
            cli::say(&format!("judge: {usage}"));
        }
    };
    let found = measure(flags, &asked, &candidate, &bootstrap, samples_file).inspect_err(say_spent)?;
    let samples = sample_lines(&candidate.file.pairs, &found.measurements)?;
    let mut evaluated = Evaluated { rejected, samples, ..Evaluated::default() };
    if let Some(baseline) = &baseline {
        evaluated.baseline_rejected = baseline.rejected();
        let other = match measure(flags, &asked, baseline, &bootstrap, None).inspect_err(say_spent) {
            Ok(other) => other,
            Err(error) => {
                return Err(keep(&error, &candidate.file.pairs, &found, samples_file, flags)?.into());
            }
        };
        evaluated.comparisons = comparisons(&other, &found, &bootstrap)?;
        evaluated.baseline = other.records;
    }
    evaluated.metrics = found.records;
    evaluated.judge = asked.judges.usage();
    evaluated.embeddings = asked.judges.embeddings_usage();
    evaluated.unused_replies = asked.judges.unused_replies();
    Ok(evaluated)
}

fn candidate(flags: &Flags) -> cli::Result<Texts<'_>> {
    match (&flags.pairs, &flags.rescore) {
        (Some(path), _) => read(path, flags),
        (None, Some(path)) => {
            let unreadable = |source| ferrotune::Error::Io { path: path.to_owned(), source };
            let sha256 = digest::of_file(path).map_err(unreadable)?;
            Ok(Texts {
                path,
                file: PairFile { pairs: rescorable_pairs(path)?, rejected: Vec::new(), sha256 },
            })
        }
        (None, None) => Err("there is nothing to score; name a file with --pairs".into()),
    }
}

/// The usable pairs of a file, and the lines left out.
fn read<'f>(path: &'f Path, flags: &Flags) -> cli::Result<Texts<'f>> {
    let file = read_pairs(path, flags.on_failure)?;
    if let ([], [first, ..]) = (file.pairs.as_slice(), file.rejected.as_slice()) {
        let (path, count, line) = (path.display(), file.rejected.len(), first.line);
        return Err(format!(
            "no usable pair in `{path}`: {count} of {count} lines were left out, the first, line {line}: {}",
            first.problem
        )
        .into());
    }
    Ok(Texts { path, file })
}

impl Texts<'_> {
    /// The lines that were left out, which are also said.
    fn rejected(&self) -> Vec<Rejected> {
        let rejected = &self.file.rejected;
        if let Some(first) = rejected.first() {
            let (count, path) = (rejected.len(), self.path.display());
            cli::say(&format!(
                "{count} lines of `{path}` were left out, the first, line {}: {}",
                first.line, first.problem
            ));
        }
        rejected.iter().map(|line| Rejected { line: line.line, problem: line.problem.to_string() }).collect()
    }
}

/// Refuses a baseline that shares no question, or answers another one under the same id.
fn refuse_other_questions(pairs: &[Pair], baseline: &[Pair]) -> cli::Result<()> {
    let known: HashMap<&str, &Pair> = baseline.iter().map(|pair| (pair.id.as_str(), pair)).collect();
    let mut shared = 0;
    for pair in pairs {
        let Some(other) = known.get(pair.id.as_str()) else { continue };
        let difference = match (&pair.instruction, &other.instruction) {
            _ if pair.references != other.references => "other references",
            (Some(one), Some(another)) if one != another => "another instruction",
            (Some(_), None) => "no instruction",
            (None, Some(_)) => "an instruction that the pairs lack",
            _ => {
                shared += 1;
                continue;
            }
        };
        return Err(format!(
            "sample `{}` has {difference} in the baseline; both files must answer the same questions",
            pair.id
        )
        .into());
    }
    if shared == 0 {
        return Err(
            "the baseline has none of the ids of the pairs; both files must answer the same questions".into(),
        );
    }
    Ok(())
}

/// Keeps the first pairs; with a baseline the first of those that both have, so that they can be compared.
fn truncate(candidate: &mut Texts<'_>, baseline: Option<&mut Texts<'_>>, limit: usize) {
    let Some(baseline) = baseline else { return candidate.file.pairs.truncate(limit) };
    let mut known: HashMap<String, Pair> =
        baseline.file.pairs.drain(..).map(|pair| (pair.id.clone(), pair)).collect();
    candidate.file.pairs.retain(|pair| known.contains_key(&pair.id));
    candidate.file.pairs.truncate(limit);
    baseline.file.pairs = candidate.file.pairs.iter().filter_map(|pair| known.remove(&pair.id)).collect();
}

fn measure(
    flags: &Flags,
    asked: &Metrics,
    texts: &Texts<'_>,
    bootstrap: &Bootstrap,
    samples: Option<&Path>,
) -> cli::Result<Evaluation> {
    let Texts { path, file: PairFile { pairs, rejected, sha256 } } = texts;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let run = Run {
        run_id: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        dataset: Dataset { path_name: name, sha256: sha256.clone(), n_rows: pairs.len() },
        seed: flags.compute.seed,
        ..Run::default()
    };
    cli::say(&format!("measuring {} pairs of `{}`", pairs.len(), path.display()));
    let (mut found, failure) =
        evaluate_until_failure(&asked.metrics, pairs, &run, bootstrap, flags.on_failure);
    if let Some(failure) = failure {
        return Err(keep(&failure, pairs, &found, samples, flags)?.into());
    }
    for record in &mut found.records {
        record.params.extend(flags.limit.map(|limit| ("limit".to_owned(), limit.into())));
        if !rejected.is_empty() {
            record.params.insert("lines_left_out".to_owned(), rejected.len().into());
        }
    }
    Ok(found)
}

/// What ends the run, a sample that cannot be scored under `--on-failure error` or a judge that refuses to go on, does so after
/// what a judge was paid for is in a file; a cache has it already.
fn keep(
    failure: &dyn fmt::Display,
    pairs: &[Pair],
    found: &Evaluation,
    samples: Option<&Path>,
    flags: &Flags,
) -> cli::Result<String> {
    let was_judged = |measured: &Measurement| measured.judged.is_some() && measured.scored() > 0;
    let is_lost = flags.judge.judge_cache.is_none() && found.measurements.iter().any(was_judged);
    let path = match samples {
        Some(path) => path.to_owned(),
        None if is_lost => free_name(),
        None => return Ok(failure.to_string()),
    };
    write_samples(&path, &sample_lines(pairs, &found.measurements)?, Existing::Replace)?;
    Ok(format!("{failure}; what was scored before is in `{}`", path.display()))
}

/// A name for replies that no file has yet.
pub(crate) fn free_name() -> PathBuf {
    let names = (1..).map(|number| PathBuf::from(format!("replies-{number}.jsonl")));
    names.into_iter().find(|path| !path.exists()).unwrap_or_default()
}

/// Every metric of both systems, the p-values corrected together.
pub(crate) fn comparisons(
    first: &Evaluation,
    second: &Evaluation,
    bootstrap: &Bootstrap,
) -> cli::Result<Vec<Compared>> {
    let measured = first.measurements.iter().zip(&second.measurements);
    let found = measured
        .filter(|(first, second)| first.value().is_some() && second.value().is_some())
        .map(|(first, second)| compare(first, second, bootstrap))
        .collect::<Result<Vec<_>, _>>()?;
    let corrected = holm(&found.iter().map(|comparison| comparison.p_value).collect::<Vec<_>>())?;
    Ok(found.into_iter().zip(corrected).map(|(comparison, p_holm)| Compared { comparison, p_holm }).collect())
}

impl Compared {
    /// A line of prose.
    pub(crate) fn line(&self) -> String {
        let Comparison { metric, first, second, difference, ci95, n, .. } = &self.comparison;
        let interval = ci95.map_or_else(String::new, |[low, high]| format!(" [{low:+.4}, {high:+.4}]"));
        format!(
            "{metric:<34} {first:>10.4} -> {second:>10.4}  {difference:+.4}{interval}  p {:.4} after Holm, n {n}",
            self.p_holm
        )
    }
}

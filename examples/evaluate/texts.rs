//! Scoring pairs of texts, and comparing two systems.

use std::{collections::HashMap, path::Path};

use ferrotune::{
    core::digest,
    eval::{
        Dataset, Evaluation, Pair, PairFile, Record, Run, evaluate, read_pairs, rescorable_pairs,
        sample_lines,
        statistics::{Bootstrap, Comparison, compare, holm},
    },
};
use serde::Serialize;

use crate::{
    Evaluated, cli,
    flags::Flags,
    metrics::{self, Asked},
};

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

/// Measures the pairs of `--pairs` or `--rescore`, and of `--baseline`.
pub(crate) fn score(flags: &Flags) -> cli::Result<Evaluated> {
    let (path, file) = pairs_of(flags)?;
    let baseline = flags.baseline.as_deref().map(|path| Ok::<_, cli::BoxError>((path, read(path, flags)?.0)));
    let baseline = baseline.transpose()?;
    if let Some((_, baseline)) = &baseline {
        refuse_other_questions(&file.pairs, baseline)?;
    }
    let asked = metrics::open(flags)?;
    let rejected = file.rejected.iter();
    let rejected = rejected
        .map(|line| Rejected { line: line.line, problem: line.problem.to_string() })
        .collect::<Vec<_>>();
    if !rejected.is_empty() {
        cli::say(&format!("{} lines of `{}` were left out", rejected.len(), path.display()));
    }
    if flags.judge.dry_run {
        let mut estimate = ferrotune::eval::judge::Estimate::default();
        asked.metrics.iter().for_each(|metric| estimate += metric.estimate(&file.pairs));
        return Ok(Evaluated { rejected, estimate: Some(estimate), ..Evaluated::default() });
    }
    let bootstrap = flags.bootstrap();
    let found = measure(flags, &asked, path, &file.pairs, &bootstrap)?;
    let samples = sample_lines(&file.pairs, &found.measurements)?;
    let mut evaluated = Evaluated { rejected, samples, ..Evaluated::default() };
    if let Some((path, pairs)) = &baseline {
        let other = measure(flags, &asked, path, pairs, &bootstrap)?;
        evaluated.comparisons = comparisons(&other, &found, &bootstrap)?;
        evaluated.baseline = other.records;
    }
    evaluated.metrics = found.records;
    evaluated.judge = asked.judging.map(|judging| judging.usage());
    Ok(evaluated)
}

fn pairs_of(flags: &Flags) -> cli::Result<(&Path, PairFile)> {
    match (&flags.pairs, &flags.rescore) {
        (Some(path), _) => {
            let (pairs, rejected) = read(path, flags)?;
            Ok((path, PairFile { pairs, rejected }))
        }
        (None, Some(path)) => {
            let mut pairs = rescorable_pairs(path)?;
            pairs.truncate(flags.limit());
            Ok((path, PairFile { pairs, rejected: Vec::new() }))
        }
        (None, None) => Err("there is nothing to score; name a file with --pairs".into()),
    }
}

/// The usable pairs of a file, as many as are asked for, and the lines left out.
fn read(path: &Path, flags: &Flags) -> cli::Result<(Vec<Pair>, Vec<ferrotune::eval::Rejection>)> {
    let PairFile { mut pairs, rejected } = read_pairs(path, flags.on_failure)?;
    if let ([], [first, ..]) = (pairs.as_slice(), rejected.as_slice()) {
        let (path, count, line) = (path.display(), rejected.len(), first.line);
        return Err(format!(
            "no usable pair in `{path}`: {count} of {count} lines were left out, the first, line {line}: {}",
            first.problem
        )
        .into());
    }
    pairs.truncate(flags.limit());
    Ok((pairs, rejected))
}

/// Refuses a baseline that shares no question, or answers another one under the same id.
fn refuse_other_questions(pairs: &[Pair], baseline: &[Pair]) -> cli::Result<()> {
    let known: HashMap<&str, &Pair> = baseline.iter().map(|pair| (pair.id.as_str(), pair)).collect();
    let mut shared = 0;
    for pair in pairs {
        let Some(other) = known.get(pair.id.as_str()) else { continue };
        if pair.references != other.references {
            return Err(format!(
                "sample `{}` has other references in the baseline; both files must answer the same questions",
                pair.id
            )
            .into());
        }
        shared += 1;
    }
    if shared == 0 {
        return Err(
            "the baseline has none of the ids of the pairs; both files must answer the same questions".into(),
        );
    }
    Ok(())
}

fn measure(
    flags: &Flags,
    asked: &Asked,
    path: &Path,
    pairs: &[Pair],
    bootstrap: &Bootstrap,
) -> cli::Result<Evaluation> {
    let unreadable = |source| ferrotune::Error::Io { path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let run = Run {
        run_id: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        dataset: Dataset {
            path_name: name,
            sha256: digest::of_file(path).map_err(unreadable)?,
            n_rows: pairs.len(),
        },
        seed: flags.compute.seed,
        ..Run::default()
    };
    cli::say(&format!("measuring {} pairs of `{}`", pairs.len(), path.display()));
    let mut found = evaluate(&asked.metrics, pairs, &run, bootstrap, flags.on_failure)?;
    if let Some(limit) = flags.limit {
        found.records.iter_mut().for_each(|record: &mut Record| {
            record.params.insert("limit".to_owned(), limit.into());
        });
    }
    Ok(found)
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

//! Every base against its fine-tuned models, and fine-tuned models against each other, on the same held-out records.

use ferrotune_eval::{
    Measurement,
    judge::JudgeUsage,
    statistics::{Bootstrap, compare, holm},
};

use super::{Contestant, StudyComparison};
use crate::Result;

/// Draws of the interval and exchanges of the permutation test. The smallest p-value is about one in as many, and Holm
/// multiplies it by the number of comparisons: a hundred of them can still fall below 0.05.
const RESAMPLES: usize = 10_000;

/// A model in one state, and what was measured of it.
#[derive(Debug)]
pub(super) struct Evaluated {
    pub(super) contestant: Contestant,
    /// Identifies tokenizer and template: losses per token are comparable only where the tokens are the same.
    pub(super) tokens: String,
    /// The metrics on held-out records.
    pub(super) measurements: Vec<Measurement>,
    /// The benchmarks, one measurement each.
    pub(super) benchmarks: Vec<Measurement>,
    /// What a server of vectors was paid.
    pub(super) embeddings_usage: Option<JudgeUsage>,
}

impl Evaluated {
    fn all(&self) -> impl Iterator<Item = &Measurement> {
        self.measurements.iter().chain(&self.benchmarks)
    }
}

/// Compares all that can be, in the order of the evaluations: the base of each model with each of its fine-tuned models,
/// then fine-tuned models of different families with equal seeds. A metric that either lacks is left out.
///
/// # Errors
/// Those of [`holm`].
pub(super) fn all(evaluated: &[Evaluated], seed: u64) -> Result<Vec<StudyComparison>> {
    let bootstrap = Bootstrap { resamples: RESAMPLES, seed, ..Bootstrap::default() };
    let tuned = || evaluated.iter().filter(|evaluation| evaluation.contestant.seed.is_some());
    let bases = evaluated.iter().filter(|evaluation| evaluation.contestant.seed.is_none());
    let with_base = bases.flat_map(|base| {
        let of_base = move |other: &&Evaluated| other.contestant.model == base.contestant.model;
        tuned().filter(of_base).map(move |tuned| (base, tuned))
    });
    let across = tuned().enumerate().flat_map(|(index, first)| {
        let rival = move |other: &&Evaluated| {
            other.contestant.model != first.contestant.model && other.contestant.seed == first.contestant.seed
        };
        tuned().skip(index + 1).filter(rival).map(move |second| (first, second))
    });
    let mut comparisons = Vec::new();
    for (first, second) in with_base.chain(across) {
        for measurement in first.all() {
            let same = |other: &&Measurement| {
                (&other.metric, &other.variant) == (&measurement.metric, &measurement.variant)
            };
            let Some(other) = second.all().find(same) else { continue };
            if first.tokens != second.tokens && is_per_token(measurement) {
                continue;
            }
            // A benchmark asked in plain text and through a template is not one and the same.
            let style = |measurement: &Measurement| measurement.params.get("prompt_style").cloned();
            if style(measurement) != style(other) {
                continue;
            }
            match compare(measurement, other, &bootstrap) {
                Ok(comparison) => comparisons.push(StudyComparison {
                    baseline: first.contestant.clone(),
                    candidate: second.contestant.clone(),
                    variant: measurement.variant.clone(),
                    p_holm: comparison.p_value,
                    comparison,
                }),
                Err(reason) => {
                    let (first, second) = (&first.contestant, &second.contestant);
                    tracing::warn!(%first, %second, metric = measurement.metric, %reason, "not compared");
                }
            }
        }
    }
    let p_values: Vec<f64> = comparisons.iter().map(|comparison| comparison.p_holm).collect();
    if !p_values.is_empty() {
        for (comparison, corrected) in comparisons.iter_mut().zip(holm(&p_values)?) {
            comparison.p_holm = corrected;
        }
    }
    Ok(comparisons)
}

/// Whether a value is a mean over tokens, whose number and difficulty depend on the tokenizer.
fn is_per_token(measurement: &Measurement) -> bool {
    ["loss", "perplexity", "perplexity_mean_of_texts", "perplexity_per_text"]
        .contains(&measurement.metric.as_str())
}

#[cfg(test)]
mod tests {
    use ferrotune_eval::{Metric as _, Pair, exact_match::RawExactMatch};

    use super::{Evaluated, all};
    use crate::study::Contestant;

    /// A model that answers the first `right` of 40 questions.
    fn evaluated(model: &str, seed: Option<u64>, right: usize) -> Evaluated {
        let answer = |i: usize| if i < right { "yes" } else { "no" };
        let pairs: Vec<Pair> = (0..40).map(|i| Pair::new(i.to_string(), answer(i), "yes")).collect();
        Evaluated {
            contestant: Contestant { model: model.to_owned(), seed },
            tokens: "shared".to_owned(),
            measurements: RawExactMatch::default().measure(&pairs).unwrap(),
            benchmarks: Vec::new(),
            embeddings_usage: None,
        }
    }

    #[test]
    fn bases_meet_their_own_runs_and_runs_meet_rivals_of_their_seed() {
        let field = [
            evaluated("A", None, 10),
            evaluated("A", Some(1), 14),
            evaluated("A", Some(2), 10),
            evaluated("B", None, 0),
            evaluated("B", Some(1), 40),
            evaluated("B", Some(2), 0),
        ];
        let found = all(&field, 7).unwrap();
        let name = |c: &Contestant| format!("{}{}", c.model, c.seed.unwrap_or(0));
        let met: Vec<String> = found.iter().map(|c| name(&c.baseline) + &name(&c.candidate)).collect();
        assert_eq!(met, ["A0A1", "A0A2", "B0B1", "B0B2", "A1B1", "A2B2"]);
        let differences: Vec<f64> = found.iter().map(|c| c.comparison.difference).collect();
        assert_eq!(differences, [14.0 / 40.0 - 10.0 / 40.0, 0.0, 1.0, 0.0, 0.65, -0.25]);
        // Four answers differ, all one way: 2 of 16 exchanges are as extreme. Ten differ: 2 of 1024. Equal models: all.
        let p: Vec<f64> = found.iter().map(|c| c.comparison.p_value).collect();
        assert_eq!((p[0], p[1], p[3], p[5]), (0.125, 1.0, 1.0, 2.0 / 1024.0));
        // With 26 or 40 differing answers no random exchange comes near; the test counts the observed one.
        assert!(p[2] < 2e-4 && p[4] < 2e-4, "{p:?}");
        // Holm: sorted, the smallest times 6, the next times 5 (at least as large), then times 4, then times 3; at most 1.
        let corrected: Vec<f64> = found.iter().map(|c| c.p_holm).collect();
        assert_eq!(corrected[2], (6.0 * p[2]).min(1.0));
        assert_eq!(corrected[4], (5.0 * p[4]).max(corrected[2]));
        assert_eq!((corrected[5], corrected[0]), (4.0 * p[5], 3.0 * p[0]));
        assert_eq!((corrected[1], corrected[3]), (1.0, 1.0));
    }

    #[test]
    fn losses_under_different_tokenizers_are_not_compared_across_families() {
        let mut field = [evaluated("A", Some(1), 3), evaluated("B", Some(1), 4)];
        field[1].tokens = "another".to_owned();
        assert_eq!(all(&field, 7).unwrap().len(), 1);
        for evaluation in &mut field {
            evaluation.measurements[0].metric = "perplexity".to_owned();
        }
        assert!(all(&field, 7).unwrap().is_empty());
        field[1].tokens = field[0].tokens.clone();
        assert_eq!(all(&field, 7).unwrap().len(), 1);
    }
}

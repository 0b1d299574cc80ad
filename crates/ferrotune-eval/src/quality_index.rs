//! A single number from several benchmarks, with its definition beside it.
//!
//! Named after the site that made such indices known, but never the site's number: its prompts, models' settings and
//! versions differ.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A benchmark's part in an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// The benchmark.
    pub name: String,
    /// Its weight, above 0.
    pub weight: f64,
    /// The values that stand for 0 and 1, for scores that are not such a share themselves (an Elo rating, a grade).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<[f64; 2]>,
}

/// The definition of an index: its components are all there is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityIndex {
    /// What reports call it.
    pub name: String,
    /// Its parts.
    pub components: Vec<Component>,
}

/// A measured benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchmarkScore {
    /// The benchmark.
    pub name: String,
    /// Its value, in the units of the component's bounds, or a share of 1.
    pub value: f64,
    /// Standard error in the same units, if known.
    pub stderr: Option<f64>,
}

/// The value of an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexValue {
    /// What it is called.
    pub name: String,
    /// 0 to 100.
    pub value: f64,
    /// Standard error in the same units, taking the benchmarks as independent; absent if one of theirs is.
    pub stderr: Option<f64>,
    /// The definition, in words for the record.
    pub definition: String,
}

impl QualityIndex {
    /// The plain mean of MMLU, GPQA, MATH and HumanEval.
    #[must_use]
    pub fn mean_of_four() -> Self {
        let component = |name: &str| Component { name: name.to_owned(), weight: 1.0, bounds: None };
        Self {
            name: "mean of mmlu, gpqa, math and humaneval".to_owned(),
            components: ["mmlu", "gpqa", "math", "humaneval"].map(component).to_vec(),
        }
    }

    /// The plain mean of an Arena rating, MMLU and MT-Bench (1 to 10), the rating between bounds that the caller states,
    /// since none were published.
    #[must_use]
    pub fn with_arena(elo_bounds: [f64; 2]) -> Self {
        let component = |name: &str, bounds| Component { name: name.to_owned(), weight: 1.0, bounds };
        Self {
            name: "mean of arena elo, mmlu and mt-bench".to_owned(),
            components: vec![
                component("arena_elo", Some(elo_bounds)),
                component("mmlu", None),
                component("mt_bench", Some([1.0, 10.0])),
            ],
        }
    }

    /// The index of these scores: Σ w·s / Σ w · 100. Scores that are no component are ignored.
    ///
    /// # Errors
    /// [`Error::MissingComponent`] if a component has no score: nothing is re-weighted silently. [`Error::Setting`] for
    /// a weight that is not positive, bounds that do not rise, a normalized score outside 0 to 1, or no components.
    ///
    /// ```
    /// use ferrotune_eval::quality_index::{BenchmarkScore, QualityIndex};
    /// let score = |name: &str, value| BenchmarkScore { name: name.to_owned(), value, stderr: None };
    /// let scores = [score("mmlu", 0.6), score("gpqa", 0.3), score("math", 0.2), score("humaneval", 0.5)];
    /// let index = QualityIndex::mean_of_four().value(&scores)?;
    /// assert!((index.value - 40.0).abs() < 1e-12);
    /// assert!(QualityIndex::mean_of_four().value(&scores[1..]).is_err());
    /// # Ok::<(), ferrotune_eval::Error>(())
    /// ```
    pub fn value(&self, scores: &[BenchmarkScore]) -> Result<IndexValue> {
        let (mut sum, mut weights) = (0.0, 0.0);
        let mut variance = Some(0.0);
        for component in &self.components {
            let score = scores.iter().find(|score| score.name == component.name).ok_or_else(|| {
                Error::MissingComponent { index: self.name.clone(), component: component.name.clone() }
            })?;
            let [low, high] = component.checked_bounds()?;
            let share = (score.value - low) / (high - low);
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::Setting {
                    option: "score of a component",
                    found: format!("{} for `{}`", score.value, component.name),
                    expected: "a value between the component's bounds (0 to 1 where none are stated)",
                });
            }
            sum += component.weight * share;
            weights += component.weight;
            variance = variance
                .zip(score.stderr)
                .map(|(sum, stderr): (f64, f64)| sum + (component.weight * stderr / (high - low)).powi(2));
        }
        if self.components.is_empty() {
            return Err(Error::Setting {
                option: "components",
                found: "none".to_owned(),
                expected: "at least one",
            });
        }
        Ok(IndexValue {
            name: self.name.clone(),
            value: 100.0 * sum / weights,
            stderr: variance.map(|variance| 100.0 * variance.sqrt() / weights),
            definition: self.definition(),
        })
    }

    fn definition(&self) -> String {
        let part = |component: &Component| {
            let bounds =
                component.bounds.map(|[low, high]| format!(" from {low} to {high}")).unwrap_or_default();
            format!("{} × {}{bounds}", component.weight, component.name)
        };
        let parts: Vec<String> = self.components.iter().map(part).collect();
        format!("100 × weighted mean of {}", parts.join(", "))
    }
}

impl Component {
    fn checked_bounds(&self) -> Result<[f64; 2]> {
        let bounds = self.bounds.unwrap_or([0.0, 1.0]);
        let rising = bounds[0] < bounds[1] && bounds.iter().all(|bound| bound.is_finite());
        if rising && self.weight > 0.0 && self.weight.is_finite() {
            return Ok(bounds);
        }
        Err(Error::Setting {
            option: "component",
            found: format!("`{}` with weight {} and bounds {:?}", self.name, self.weight, self.bounds),
            expected: "a positive weight and rising bounds",
        })
    }
}

use std::{collections::HashMap, fmt, sync::Arc};

use ndarray::{Array2, Axis};

type Finish = dyn Fn(&[f64]) -> f64 + Send + Sync;

/// The per-sample statistics of a metric, and how their column sums become its value.
///
/// Every aggregate of this crate has this form. A mean sums `(score, 1)` and divides; corpus BLEU sums n-gram counts
/// and lengths; a token-weighted perplexity sums `(negative log-likelihood, tokens)`. So one bootstrap and one paired
/// test serve them all, each resampling what the metric really aggregates and not the mean of something else.
///
/// ```
/// use ferrotune_eval::Tally;
/// let tally = Tally::mean_of(&[1.0, 0.0, 0.5]);
/// assert_eq!(tally.value(), 0.5);
/// assert_eq!(tally.value_of(&[0, 0, 2]), 2.5 / 3.0);
/// ```
#[derive(Clone)]
pub struct Tally {
    rows: Array2<f64>, // [samples, statistics]
    finish: Arc<Finish>,
    /// Whether the rows are `(1 or 0, 1)` and the value is the share of ones.
    is_proportion: bool,
    /// For each row its cluster, counted from 0 in order of first appearance; absent where each row is its own.
    clusters: Option<Vec<usize>>,
    /// For each row its stratum, counted likewise; absent where there is one.
    strata: Option<Vec<usize>>,
}

impl Tally {
    /// One row per sample; `finish` gets the column sums.
    ///
    /// *Shapes*: `rows` is `[samples, statistics]`.
    pub fn new(rows: Array2<f64>, finish: impl Fn(&[f64]) -> f64 + Send + Sync + 'static) -> Self {
        Self { rows, finish: Arc::new(finish), is_proportion: false, clusters: None, strata: None }
    }

    /// The arithmetic mean of scores, summed in order.
    #[must_use]
    pub fn mean_of(scores: &[f64]) -> Self {
        let rows = Array2::from_shape_fn((scores.len(), 2), |(i, j)| if j == 0 { scores[i] } else { 1.0 });
        Self::new(rows, |sums| sums[0] / sums[1])
    }

    /// The share of successes, one flag per sample.
    #[must_use]
    pub fn share_of(successes: &[bool]) -> Self {
        let scores: Vec<f64> = successes.iter().map(|&success| f64::from(u8::from(success))).collect();
        Self { is_proportion: true, ..Self::mean_of(&scores) }
    }

    /// The same value of samples that are not independent: those with one label answer the same question, in another
    /// order of choices or another language. Intervals and tests then take each cluster as a whole.
    ///
    /// `labels` has one entry for each row; further ones are not looked at, and rows without one are clusters of their own.
    #[must_use]
    pub fn clustered(self, labels: &[usize]) -> Self {
        let (clusters, count) = self.numbered(labels);
        let clusters = (count < self.len()).then_some(clusters);
        Self { clusters, ..self }
    }

    /// The same value of samples of which each stratum has a fixed number, such as the questions of each subject where the value
    /// is a mean over subjects. Intervals then draw from each stratum by itself, unless a cluster has samples of several.
    ///
    /// `labels` has one entry for each row; further ones are not looked at, and rows without one are strata of their own.
    #[must_use]
    pub fn stratified(self, labels: &[usize]) -> Self {
        let (strata, count) = self.numbered(labels);
        let strata = (count > 1).then_some(strata);
        Self { strata, ..self }
    }

    /// For each row the number of its label, counted from 0 in order of first appearance, and how many there are.
    fn numbered(&self, labels: &[usize]) -> (Vec<usize>, usize) {
        let mut known: HashMap<usize, usize> = HashMap::new();
        let mut numbers = Vec::with_capacity(self.len());
        let mut count = 0;
        for row in 0..self.len() {
            let fresh = count;
            let number = match labels.get(row) {
                Some(&label) => *known.entry(label).or_insert(fresh),
                None => fresh,
            };
            count += usize::from(number == fresh);
            numbers.push(number);
        }
        (numbers, count)
    }

    /// Whether some samples are not independent of each other.
    #[must_use]
    pub fn is_clustered(&self) -> bool {
        self.clusters.is_some()
    }

    /// What is independent of each other, and so what is resampled: the samples, or the sums of each cluster.
    #[must_use]
    pub fn units(&self) -> Self {
        let Some(clusters) = &self.clusters else { return self.clone() };
        let count = clusters.iter().max().map_or(0, |last| last + 1);
        let mut rows = Array2::zeros((count, self.rows.ncols()));
        for (row, &cluster) in self.rows.rows().into_iter().zip(clusters) {
            let mut sum = rows.row_mut(cluster);
            sum += &row;
        }
        let strata = self.strata.as_ref().and_then(|strata| {
            let mut of_cluster = vec![None; count];
            let is_whole = clusters
                .iter()
                .zip(strata)
                .all(|(&cluster, &stratum)| *of_cluster[cluster].get_or_insert(stratum) == stratum);
            if is_whole { of_cluster.into_iter().collect() } else { None }
        });
        Self { rows, is_proportion: false, clusters: None, strata, finish: Arc::clone(&self.finish) }
    }

    /// The rows of each stratum; `None` where there is one.
    pub(crate) fn strata(&self) -> Option<Vec<Vec<usize>>> {
        let strata = self.strata.as_ref()?;
        let mut members = vec![Vec::new(); strata.iter().max().map_or(0, |last| last + 1)];
        strata.iter().enumerate().for_each(|(row, &stratum)| members[stratum].push(row));
        Some(members)
    }

    /// Successes and samples, if the value is a share of successes.
    #[must_use]
    pub fn successes(&self) -> Option<(u64, u64)> {
        self.is_proportion.then(|| (self.rows.column(0).sum() as u64, self.len() as u64))
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.nrows()
    }

    /// Whether there are no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The metric's value over all samples.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.sum_over(0..self.len(), |sums| (self.finish)(sums))
    }

    /// The metric's value over the samples with these indices; an index may occur several times.
    #[must_use]
    pub fn value_of(&self, indices: &[usize]) -> f64 {
        self.sum_over(indices.iter().copied(), |sums| (self.finish)(sums))
    }

    /// The samples with these indices, in that order, as a tally of their own.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let of_selected = |labels: &Option<Vec<usize>>| -> Option<Vec<usize>> {
            labels.as_ref().map(|all| indices.iter().map(|&row| all[row]).collect())
        };
        let rows = self.rows.select(Axis(0), indices);
        let mut selected = Self { rows, clusters: None, strata: None, ..self.clone() };
        if let Some(labels) = of_selected(&self.clusters) {
            selected = selected.clustered(&labels);
        }
        if let Some(labels) = of_selected(&self.strata) {
            selected = selected.stratified(&labels);
        }
        selected
    }

    /// The statistics, `[samples, statistics]`.
    #[must_use]
    pub fn rows(&self) -> &Array2<f64> {
        &self.rows
    }

    /// The value that given column sums stand for.
    #[must_use]
    pub fn finish(&self, sums: &[f64]) -> f64 {
        (self.finish)(sums)
    }

    fn sum_over<T>(&self, indices: impl Iterator<Item = usize>, then: impl FnOnce(&[f64]) -> T) -> T {
        let mut sums = vec![0.0; self.rows.ncols()];
        for index in indices {
            for (sum, x) in sums.iter_mut().zip(self.rows.row(index)) {
                *sum += x;
            }
        }
        then(&sums)
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally").field("rows", &self.rows).finish_non_exhaustive()
    }
}

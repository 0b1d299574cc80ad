//! Curves as they are drawn.

use crate::study::{CurvePoint, RunResults};

/// More points than this cannot be told apart on a panel; their means are drawn instead.
const MOST_POINTS: usize = 240;

/// All points of a run's curves.
pub(super) fn points(run: &RunResults) -> impl Iterator<Item = &CurvePoint> {
    run.training_curve.iter().chain(&run.validation_curve)
}

/// The points of a run's curves that are drawn.
pub(super) fn drawn(run: &RunResults) -> Vec<CurvePoint> {
    let mut all = thinned(&run.training_curve);
    all.extend(thinned(&run.validation_curve));
    all
}

/// The curve with neighbours averaged until it has no more points than can be seen. Its ends stay.
pub(super) fn thinned(curve: &[CurvePoint]) -> Vec<CurvePoint> {
    if curve.len() <= MOST_POINTS {
        return curve.to_vec();
    }
    let (first, inner, last) = (curve[0], &curve[1..curve.len() - 1], curve[curve.len() - 1]);
    let size = inner.len().div_ceil(MOST_POINTS - 2);
    let means = inner.chunks(size).map(|chunk| {
        let middle = chunk[chunk.len() / 2];
        let loss = chunk.iter().map(|point| point.loss / chunk.len() as f64).sum();
        CurvePoint { loss, ..middle }
    });
    std::iter::once(first).chain(means).chain([last]).collect()
}

/// The mean over runs at the steps that all of them have; empty if there are none.
pub(super) fn mean(curves: &[Vec<CurvePoint>]) -> Vec<CurvePoint> {
    let Some((first, others)) = curves.split_first() else { return Vec::new() };
    let n = curves.len() as f64;
    let at = |point: &CurvePoint| {
        let mut loss = point.loss / n;
        for other in others {
            let i = other.binary_search_by_key(&point.step, |p| p.step).ok()?;
            loss += other[i].loss / n;
        }
        Some(CurvePoint { loss, ..*point })
    };
    first.iter().filter_map(at).collect()
}

/// The smallest and the largest of some numbers.
pub(super) fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((f64::min(low, value), f64::max(high, value))),
    })
}

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

#[cfg(test)]
mod tests {
    use super::{MOST_POINTS, mean, thinned};
    use crate::study::CurvePoint;

    fn curve(points: impl IntoIterator<Item = (u64, f64)>) -> Vec<CurvePoint> {
        points.into_iter().map(|(step, loss)| CurvePoint { step, epoch: 0.0, loss }).collect()
    }

    #[test]
    fn the_mean_is_over_the_steps_that_all_runs_have() {
        let curves = [curve([(1, 4.0), (2, 3.0), (3, 1.0)]), curve([(1, 2.0), (3, 2.0), (4, 9.0)])];
        assert_eq!(mean(&curves), curve([(1, 3.0), (3, 1.5)]));
        assert!(mean(&[]).is_empty());
    }

    #[test]
    fn a_long_curve_keeps_its_ends_and_its_level() {
        let long = curve((0..10_000).map(|i| (i, if i % 2 == 0 { 1.0 } else { 3.0 })));
        let short = thinned(&long);
        assert!(short.len() <= MOST_POINTS, "{}", short.len());
        assert_eq!((short[0], short[short.len() - 1]), (long[0], long[9_999]));
        assert!(short.windows(2).all(|pair| pair[0].step < pair[1].step));
        // Chunks of even length hold as many low as high points.
        assert!(short[1..short.len() - 2].iter().all(|point| (point.loss - 2.0).abs() < 0.05));
        assert_eq!(thinned(&long[..100]), &long[..100]);
    }
}

//! An axis of a figure: its range, its ticks and what stands beside them.

use serde::Serialize;

use super::number::decimal;

/// Above this ratio of largest to smallest loss a linear axis flattens everything that matters.
const LOGARITHMIC_FROM: f64 = 100.0;
/// Free space above the largest loss, as a part of the range.
const HEADROOM: f64 = 0.04;
/// About as many intervals as labels of four digits leave room for on a telephone.
const INTERVALS: f64 = 4.0;

/// An axis: where it begins and ends, and the numbers that stand beside it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Axis {
    /// The number at its beginning.
    pub low: f64,
    /// The number at its end.
    pub high: f64,
    /// Whether equal distances are equal ratios.
    pub logarithmic: bool,
    /// Digits after the point of the numbers beside it.
    pub digits: usize,
    /// The numbers beside it.
    pub ticks: Vec<f64>,
}

/// What an axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AxisKind {
    /// Whole numbers; the axis ends with the last of them.
    Counts,
    /// Losses; the axis begins at a tick and becomes logarithmic where they span orders of magnitude.
    Losses,
}

impl Axis {
    /// An axis over a range of finite numbers, `low <= high`.
    pub(super) fn over(low: f64, high: f64, kind: AxisKind) -> Self {
        match kind {
            AxisKind::Losses if low > 0.0 && high / low > LOGARITHMIC_FROM => Self::logarithmic(low, high),
            AxisKind::Losses => Self::linear(low, high),
            AxisKind::Counts => {
                let high = high.max(1.0);
                // Of the steps only 2.5 is no whole number.
                let step = match nice_step(high - low).max(1.0) {
                    step if step.fract() == 0.0 => step,
                    step => 2.0 * step,
                };
                let ticks = multiples(step, low, high);
                Self { low, high, logarithmic: false, digits: 0, ticks }
            }
        }
    }

    fn linear(low: f64, high: f64) -> Self {
        // A flat curve still needs an axis of some height.
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, high + 0.5) };
        let step = nice_step(high - low);
        let (low, high) = ((low / step).floor() * step, high + HEADROOM * (high - low));
        let exponent = step.log10().floor();
        let mut digits = (-exponent).max(0.0) as usize;
        // Steps of 0.25 and 2.5 need a digit more than their magnitude says.
        if ((step / 10f64.powf(exponent)) - 2.5).abs() < 1e-6 && exponent <= 0.0 {
            digits += 1;
        }
        Self { low, high, logarithmic: false, digits, ticks: multiples(step, low, high) }
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let (first, last) = (low.log10().floor(), high.log10().ceil());
        let stride = ((last - first) / INTERVALS).ceil().max(1.0);
        let ticks = (0..).map(|i| first + f64::from(i) * stride).take_while(|x| *x <= last + 1e-9);
        let ticks: Vec<f64> = ticks.map(|x| 10f64.powf(x)).collect();
        let digits = (-first).clamp(0.0, 4.0) as usize;
        let end = ticks.last().map_or(high, |top| top.max(high));
        Self { low: 10f64.powf(first), high: end, logarithmic: true, digits, ticks }
    }

    /// Where a number lies on the axis: 0 at its beginning, 1 at its end.
    pub(super) fn position(&self, value: f64) -> f64 {
        let scale = |x: f64| if self.logarithmic { x.log10() } else { x };
        let (low, high) = (scale(self.low), scale(self.high));
        if high > low { ((scale(value) - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
    }

    /// What stands beside a tick.
    pub(super) fn label(&self, tick: f64) -> String {
        if self.logarithmic || tick.abs() >= 1e5 {
            // Powers of ten and huge numbers: four characters that a narrow margin holds.
            let plain = tick == 0.0 || (0.01..1e4).contains(&tick.abs());
            if plain {
                let digits =
                    if tick.abs() >= 1.0 { 0 } else { (-tick.log10().floor()).clamp(0.0, 4.0) as usize };
                decimal(tick, digits)
            } else {
                let digits = usize::from(!self.logarithmic);
                format!("{tick:.digits$e}")
            }
        } else {
            decimal(tick, self.digits)
        }
    }
}

/// A step of 1, 2, 2.5 or 5 times a power of ten that gives about [`INTERVALS`] intervals.
fn nice_step(range: f64) -> f64 {
    let raw = range / INTERVALS;
    let magnitude = 10f64.powf(raw.log10().floor());
    let nice = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|nice| nice * magnitude >= raw * 0.999);
    nice.unwrap_or(10.0) * magnitude
}

fn multiples(step: f64, low: f64, high: f64) -> Vec<f64> {
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::{Axis, AxisKind};

    fn labels(low: f64, high: f64, kind: AxisKind) -> Vec<String> {
        let axis = Axis::over(low, high, kind);
        assert!(axis.position(low) >= 0.0 && axis.position(high) <= 1.0);
        assert!(axis.position(low) < axis.position(high) || low == high);
        axis.ticks.iter().map(|&tick| axis.label(tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_told_apart_by_their_labels() {
        let cases: [(f64, f64, AxisKind, &[&str]); 10] = [
            (0.0, 200.0, AxisKind::Counts, &["0", "50", "100", "150", "200"]),
            (0.0, 10.0, AxisKind::Counts, &["0", "5", "10"]),
            (0.0, 100.0, AxisKind::Counts, &["0", "25", "50", "75", "100"]),
            (0.0, 0.0, AxisKind::Counts, &["0", "1"]),
            (0.35, 3.06, AxisKind::Losses, &["0", "1", "2", "3"]),
            (1.21, 1.29, AxisKind::Losses, &["1.20", "1.22", "1.24", "1.26", "1.28"]),
            (1.0, 1.9, AxisKind::Losses, &["1.00", "1.25", "1.50", "1.75"]),
            (2.0, 2.0, AxisKind::Losses, &["1.50", "1.75", "2.00", "2.25", "2.50"]),
            (0.012, 4.5, AxisKind::Losses, &["0.01", "0.1", "1", "10"]),
            (0.5, 2e30, AxisKind::Losses, &["0.1", "1e7", "1e15", "1e23", "1e31"]),
        ];
        for (low, high, kind, expected) in cases {
            assert_eq!(labels(low, high, kind), expected, "{low} to {high}");
        }
    }
}

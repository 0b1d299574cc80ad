//! How numbers are written: every reader of `results.json` can repeat the rounding.

/// From here on, numbers are written with an exponent: nobody counts eight digits.
const LARGE: f64 = 1e7;

/// A number with this many digits after the point; very large and very small ones with an exponent instead.
///
/// The result equals Rust's `{:.digits$}` (or `{:.digits$e}`) of the number, so that it can be found again.
pub(super) fn decimal(value: f64, digits: usize) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "infinite".to_owned() } else { "minus infinite".to_owned() };
    }
    let magnitude = value.abs();
    if magnitude >= LARGE || (magnitude > 0.0 && magnitude < 0.5 * 10f64.powi(-(digits as i32))) {
        return format!("{value:.digits$e}");
    }
    let text = format!("{value:.digits$}");
    // A negative zero comes from values that are exactly -0.0.
    if text.trim_start_matches('-').bytes().all(|b| matches!(b, b'0' | b'.')) {
        text.trim_start_matches('-').to_owned()
    } else {
        text
    }
}

/// The same with an explicit sign, for differences. One that the digits do not show is a zero: beside two numbers that
/// read the same, an exponent would claim more than they do.
pub(super) fn signed(value: f64, digits: usize) -> String {
    let unseen = value.abs() < 0.5 * 10f64.powi(-(digits as i32));
    let text = decimal(if unseen { 0.0 } else { value }, digits);
    if value > 0.0 && !unseen { format!("+{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::{decimal, signed};

    #[test]
    fn numbers_keep_their_digits_and_extremes_get_an_exponent() {
        let cases = [
            (0.0, 4, "0.0000"),
            (-0.0, 2, "0.00"),
            (1.23456, 4, "1.2346"),
            (9_999_999.0, 0, "9999999"),
            (1.5e30, 2, "1.50e30"),
            (-2e-9, 3, "-2.000e-9"),
            (0.0005, 3, "0.001"),
            (f64::INFINITY, 3, "infinite"),
        ];
        for (value, digits, expected) in cases {
            assert_eq!(decimal(value, digits), expected, "{value}");
        }
        assert_eq!(signed(0.25, 2), "+0.25");
        assert_eq!(signed(-0.25, 2), "-0.25");
        assert_eq!(signed(0.0, 2), "0.00");
        assert_eq!(signed(5.7e-5, 3), "0.000");
        assert_eq!(signed(-5.7e-5, 3), "0.000");
    }
}

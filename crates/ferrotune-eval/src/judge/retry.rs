//! How long to wait before a question is put again.

use std::time::{Duration, SystemTime};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// Exponential back-off with jitter, within bounds.
///
/// Before retry `k` (counted from 1) it waits `base · 2^(k-1)`, at most `longest`, times a factor drawn evenly from 0.5
/// to 1, so that workers that failed together do not come back together. A server's Retry-After is waited for instead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// How often a question is put at most, the first time included; at least 1.
    pub attempts: u32,
    /// The first wait.
    pub base: Duration,
    /// The longest wait of our own choice.
    pub longest: Duration,
    /// The longest Retry-After that is waited for; a longer one fails the sample.
    pub longest_retry_after: Duration,
    /// Seeds the jitter.
    pub seed: u64,
}

impl Default for RetryPolicy {
    /// Six attempts over about half a minute; ten minutes of patience with a server that names a time.
    fn default() -> Self {
        Self {
            attempts: 6,
            base: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            longest_retry_after: Duration::from_secs(600),
            seed: 0,
        }
    }
}

impl RetryPolicy {
    pub(super) fn check(&self) -> Result<()> {
        if self.attempts == 0 {
            return Err(Error::Setting { option: "attempts", found: "0".to_owned(), expected: "at least 1" });
        }
        Ok(())
    }

    /// The wait before retry `retry`, counted from 1. `stream` tells requests apart, so that the jitter of one does not
    /// depend on the order in which others fail.
    pub(super) fn back_off(&self, retry: u32, stream: u64) -> Duration {
        let doubled =
            self.base.saturating_mul(1_u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX));
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(stream);
        rng.set_word_pos(u128::from(retry) * 16);
        doubled.min(self.longest).mul_f64(rng.random_range(0.5..=1.0))
    }
}

/// The wait that a Retry-After header asks for: seconds, or a date. `None` if it is neither; zero for a date that has
/// passed.
///
/// *Source*: RFC 9110, 10.2.3.
pub(super) fn parse_retry_after(value: &str, wall: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(wall).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // 784111777 is the moment of RFC 9110's example date, 1994-11-06 08:49:37.
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 90);
        for (value, expected) in [
            ("120", Some(120.0)),
            (" 1.5 ", Some(1.5)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(90.0)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(90.0)),
            ("Sun Nov  6 08:49:37 1994", Some(90.0)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0.0)),
            ("-1", None),
            ("NaN", None),
            ("inf", None),
            ("soon", None),
        ] {
            assert_eq!(parse_retry_after(value, wall), expected.map(Duration::from_secs_f64), "{value:?}");
        }
    }

    #[test]
    fn waits_double_within_their_bounds_and_repeat_for_a_seed() {
        let policy = RetryPolicy::default();
        for retry in 1..70 {
            let full = 2.0_f64.powi(retry - 1).min(60.0);
            let wait = policy.back_off(retry as u32, 7).as_secs_f64();
            assert!(wait >= full / 2.0 - 1e-9 && wait <= full + 1e-9, "retry {retry}: {wait}");
            assert_eq!(policy.back_off(retry as u32, 7).as_secs_f64(), wait);
        }
        let others =
            (0..20).map(|stream| policy.back_off(1, stream)).collect::<std::collections::HashSet<_>>();
        assert_eq!(others.len(), 20, "requests that fail together come back apart");
        assert_ne!(RetryPolicy { seed: 1, ..policy }.back_off(1, 7), policy.back_off(1, 7));
    }
}

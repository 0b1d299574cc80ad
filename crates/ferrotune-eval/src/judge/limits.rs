//! How much may be under way: requests at once, requests a minute, tokens a minute.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::Clock;
use crate::{Error, Result};

/// The span that the limits a minute are over.
const MINUTE: Duration = Duration::from_secs(60);

/// What a server allows.
///
/// The limits a minute hold for every span of sixty seconds, not only on average: a request waits until the oldest ones
/// have left its span. Tokens of a request under way count as its question's approximate length plus the longest reply it
/// allows, and as what the server counted once that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests under way at the same time, at least 1.
    pub concurrency: usize,
    /// Requests that may begin within a minute; `None` for no limit.
    pub requests_per_minute: Option<usize>,
    /// Tokens that requests begun within a minute may cost; `None` for no limit.
    pub tokens_per_minute: Option<u64>,
}

impl Default for Limits {
    /// Four requests at once, as many a minute as the server answers.
    fn default() -> Self {
        Self { concurrency: 4, requests_per_minute: None, tokens_per_minute: None }
    }
}

/// Keeps requests within [`Limits`].
#[derive(Debug)]
pub(super) struct Limiter {
    limits: Limits,
    under_way: Mutex<usize>,
    freed: Condvar,
    window: Mutex<Window>,
}

/// The requests that began within the last minute.
#[derive(Debug, Default)]
struct Window {
    grants: VecDeque<Granted>,
    not_before: Duration,
    count: u64,
}

#[derive(Debug)]
struct Granted {
    number: u64,
    at: Duration,
    tokens: u64,
}

/// A place among the requests under way; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Limiter);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *lock(&self.0.under_way) -= 1;
        self.0.freed.notify_one();
    }
}

/// A permission to begin a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant(u64);

/// The state behind a lock is a few counters, consistent at every step, so a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Limiter {
    pub(super) fn new(limits: Limits) -> Result<Self> {
        let zero = |option| Error::Setting { option, found: "0".to_owned(), expected: "at least 1" };
        if limits.concurrency == 0 {
            return Err(zero("concurrency"));
        }
        if limits.requests_per_minute == Some(0) {
            return Err(zero("requests_per_minute"));
        }
        if limits.tokens_per_minute == Some(0) {
            return Err(zero("tokens_per_minute"));
        }
        Ok(Self {
            limits,
            under_way: Mutex::new(0),
            freed: Condvar::new(),
            window: Mutex::new(Window::default()),
        })
    }

    pub(super) fn concurrency(&self) -> usize {
        self.limits.concurrency
    }

    /// Waits for a place among the requests under way.
    pub(super) fn slot(&self) -> Slot<'_> {
        let mut under_way = lock(&self.under_way);
        while *under_way >= self.limits.concurrency {
            under_way = self.freed.wait(under_way).unwrap_or_else(PoisonError::into_inner);
        }
        *under_way += 1;
        Slot(self)
    }

    /// Waits until a request that may cost `tokens` can begin; `None` if it alone exceeds the limit of a minute.
    pub(super) fn grant(&self, clock: &dyn Clock, tokens: u64) -> Option<Grant> {
        if self.limits.tokens_per_minute.is_some_and(|limit| tokens > limit) {
            return None;
        }
        loop {
            let wait = {
                let mut window = lock(&self.window);
                let now = clock.now();
                match window.wait(&self.limits, now, tokens) {
                    None => return Some(window.admit(now, tokens)),
                    Some(wait) => wait,
                }
            };
            clock.sleep(wait);
        }
    }

    /// Replaces a request's expected tokens by those it did cost.
    pub(super) fn settle(&self, grant: Grant, tokens: u64) {
        if let Some(granted) = lock(&self.window).grants.iter_mut().find(|g| g.number == grant.0) {
            granted.tokens = tokens;
        }
    }

    /// Lets no request begin for this long: a server that asks one of them to wait means all.
    pub(super) fn hold(&self, clock: &dyn Clock, wait: Duration) {
        let mut window = lock(&self.window);
        window.not_before = window.not_before.max(clock.now() + wait);
    }
}

impl Window {
    /// How long from `now` until a request of `tokens` may begin; `None` for at once.
    fn wait(&mut self, limits: &Limits, now: Duration, tokens: u64) -> Option<Duration> {
        while self.grants.front().is_some_and(|oldest| oldest.at + MINUTE <= now) {
            self.grants.pop_front();
        }
        let mut free_at = self.not_before;
        if let Some(limit) = limits.requests_per_minute
            && self.grants.len() >= limit
        {
            free_at = free_at.max(self.grants[self.grants.len() - limit].at + MINUTE);
        }
        if let Some(limit) = limits.tokens_per_minute {
            let mut spent: u64 = self.grants.iter().map(|g| g.tokens).sum();
            for granted in &self.grants {
                if spent + tokens <= limit {
                    break;
                }
                spent -= granted.tokens;
                free_at = free_at.max(granted.at + MINUTE);
            }
        }
        (free_at > now).then(|| free_at - now)
    }

    fn admit(&mut self, now: Duration, tokens: u64) -> Grant {
        self.count += 1;
        self.grants.push_back(Granted { number: self.count, at: now, tokens });
        Grant(self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// Sleeping moves it, and nothing else.
    #[derive(Debug, Default)]
    struct Manual(Mutex<Duration>);

    impl Clock for Manual {
        fn now(&self) -> Duration {
            *lock(&self.0)
        }

        fn wall(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }

        fn sleep(&self, duration: Duration) {
            *lock(&self.0) += duration;
        }
    }

    fn limiter(requests: Option<usize>, tokens: Option<u64>) -> Limiter {
        Limiter::new(Limits { concurrency: 1, requests_per_minute: requests, tokens_per_minute: tokens })
            .unwrap()
    }

    /// Asserts that no span of a minute that begins with a grant holds more than the limit.
    fn check(grants: &[(Duration, u64)], requests: usize, tokens: u64) {
        for (i, (start, _)) in grants.iter().enumerate() {
            let span: Vec<_> = grants[i..].iter().take_while(|(at, _)| *at < *start + MINUTE).collect();
            assert!(span.len() <= requests, "{} requests from {start:?}", span.len());
            assert!(span.iter().map(|(_, t)| t).sum::<u64>() <= tokens, "tokens from {start:?}");
        }
    }

    #[test]
    fn no_minute_holds_more_than_its_limits() {
        for (requests, tokens) in [(7, u64::MAX), (usize::MAX, 1000), (5, 900)] {
            let limiter =
                limiter((requests != usize::MAX).then_some(requests), (tokens != u64::MAX).then_some(tokens));
            let clock = Manual::default();
            let mut grants = Vec::new();
            for i in 0..60_u64 {
                let cost = 50 + i * 37 % 300;
                limiter.grant(&clock, cost).unwrap();
                grants.push((clock.now(), cost));
                clock.sleep(Duration::from_millis(i * 911 % 4000));
            }
            check(&grants, requests, tokens);
        }
    }

    #[test]
    fn many_threads_stay_within_one_limit() {
        let limiter = limiter(Some(10), None);
        let clock = Manual::default();
        let grants = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let grant = limiter.grant(&clock, 1).unwrap();
                        let window = lock(&limiter.window);
                        let at = window.grants.iter().find(|g| g.number == grant.0).map(|g| g.at);
                        lock(&grants).extend(at.map(|at| (at, 1)));
                    }
                });
            }
        });
        let mut grants = grants.into_inner().unwrap();
        grants.sort_unstable();
        check(&grants, 10, u64::MAX);
    }

    #[test]
    fn what_a_request_did_cost_replaces_what_it_might_have() {
        let (limiter, clock) = (limiter(None, Some(100)), Manual::default());
        let first = limiter.grant(&clock, 100).unwrap();
        limiter.settle(first, 10);
        limiter.grant(&clock, 90).unwrap();
        assert_eq!(clock.now(), Duration::ZERO);
        limiter.grant(&clock, 1).unwrap();
        assert_eq!(clock.now(), MINUTE);
        assert!(limiter.grant(&clock, 101).is_none(), "a request above the limit would wait for ever");
    }

    #[test]
    fn a_server_that_asks_to_wait_holds_every_request() {
        let (limiter, clock) = (limiter(None, None), Manual::default());
        limiter.hold(&clock, Duration::from_secs(30));
        limiter.hold(&clock, Duration::from_secs(5));
        limiter.grant(&clock, 1).unwrap();
        assert_eq!(clock.now(), Duration::from_secs(30));
    }

    #[test]
    fn limits_of_zero_are_refused() {
        for limits in [
            Limits { concurrency: 0, ..Limits::default() },
            Limits { requests_per_minute: Some(0), ..Limits::default() },
            Limits { tokens_per_minute: Some(0), ..Limits::default() },
        ] {
            assert!(matches!(Limiter::new(limits).unwrap_err(), Error::Setting { .. }));
        }
    }
}

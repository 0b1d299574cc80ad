use std::{
    fmt, thread,
    time::{Duration, Instant, SystemTime},
};

/// Time, as waiting and limits see it; implementors provide all three methods.
///
/// Programs use [`SystemClock`]; a clock whose [`sleep`](Self::sleep) only moves [`now`](Self::now) makes waiting
/// testable.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Time since some fixed moment; never runs backwards.
    fn now(&self) -> Duration;

    /// The time of day, for dates that servers send.
    fn wall(&self) -> SystemTime;

    /// Returns once [`now`](Self::now) is later by this much.
    fn sleep(&self, duration: Duration);
}

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }
}

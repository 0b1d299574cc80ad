use crate::error::Result;
use crate::ffi;

/// Runs `body` once on each of libtorch's intra-op threads, and returns when all are through.
///
/// The calling thread is one of them. They are as many as `tch::set_num_threads` said, and they are awake where libtorch has just
/// computed something: work that alternates with libtorch's runs on them without waiting for a core that they keep busy. Called from
/// within `body`, or from another of libtorch's parallel loops, it runs on that thread alone, once.
///
/// # Errors
///
/// libtorch's, if it cannot start the loop; `body` has not run then.
///
/// # Panics
///
/// If `body` does, on any thread, with what it panicked with, once all are through.
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// let (next, sum) = (AtomicU32::new(0), AtomicU32::new(0));
/// ferrotune_torch::on_each_thread(&|| loop {
///     let task = next.fetch_add(1, Ordering::Relaxed);
///     if task >= 100 {
///         break;
///     }
///     sum.fetch_add(task, Ordering::Relaxed);
/// })?;
/// assert_eq!(sum.into_inner(), 4950);
/// # Ok::<(), ferrotune_torch::Error>(())
/// ```
pub fn on_each_thread(body: &(dyn Fn() + Sync)) -> Result<()> {
    ffi::on_each_thread(body)
}

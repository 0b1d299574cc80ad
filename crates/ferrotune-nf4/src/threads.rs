use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use rayon::prelude::*;

use crate::Isa;

/// The threads that kernels run on: rayon's current pool, or those of a library that the program uses anyway.
///
/// A program that also computes with another library should lend that library's threads: two pools on the same cores wait for each other.
#[derive(Clone, Copy)]
pub struct Threads {
    run: fn(&(dyn Fn() + Sync)),
}

impl Threads {
    /// The current rayon pool.
    pub const RAYON: Self = Self::new(on_rayon);

    /// Threads on which `run` runs a closure, once on each, and returns when all are through.
    ///
    /// The closure takes one task after another until none is left, so that the result does not depend on how often, on how many
    /// threads and in which order it runs.
    #[must_use]
    pub const fn new(run: fn(&(dyn Fn() + Sync))) -> Self {
        Self { run }
    }

    /// Does `work` once for each task, on any thread; a task that is alone, on this one.
    pub(crate) fn for_each<I>(self, tasks: I, work: impl Fn(I::Item) + Sync)
    where
        I: ExactSizeIterator + Send,
    {
        let count = tasks.len();
        let tasks = Mutex::new(tasks);
        // Advancing an iterator over slices does not panic, so a poisoned lock still guards a whole one.
        let next = || tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
        let rest = || {
            while let Some(task) = next() {
                work(task);
            }
        };
        if count > 1 {
            (self.run)(&rest);
        }
        // A `run` that did not run it leaves all of it to this thread.
        rest();
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}

fn on_rayon(body: &(dyn Fn() + Sync)) {
    // Ordinary tasks and not a broadcast, which would wait for threads that are busy with something else.
    (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).for_each(|_| body());
}

/// What kernels run on: which instructions, on whose threads.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    /// The instructions.
    pub isa: Isa,
    /// The threads.
    pub threads: Threads,
}

/// These instructions on rayon's threads.
impl From<Isa> for Cpu {
    fn from(isa: Isa) -> Self {
        Self { isa, threads: Threads::RAYON }
    }
}

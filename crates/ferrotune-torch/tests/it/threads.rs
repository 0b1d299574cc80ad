//! Work on libtorch's own threads.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    thread::{self, ThreadId},
};

use ferrotune_torch::on_each_thread;

/// A thread that asks libtorch for the first time takes the number that any thread set last, and tests run in parallel. No other
/// module sets it.
static NUMBER: Mutex<()> = Mutex::new(());

/// How often each thread ran the body.
fn runs(threads: i32, body: impl Fn() + Sync) -> HashMap<ThreadId, usize> {
    // A body that panicked leaves nothing here that another could trip over.
    let _alone = NUMBER.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(threads);
    let runs = Mutex::new(HashMap::new());
    on_each_thread(&|| {
        *runs.lock().unwrap().entry(thread::current().id()).or_default() += 1;
        body();
    })
    .unwrap();
    runs.into_inner().unwrap()
}

#[test]
fn every_thread_of_the_pool_runs_the_body_once() {
    for threads in [1, 2, 3] {
        let runs = runs(threads, || ());
        assert_eq!((runs.len(), runs.values().sum::<usize>()), (threads as usize, threads as usize));
        assert!(runs.contains_key(&thread::current().id()));
    }
}

#[test]
fn a_call_within_a_call_stays_on_its_thread() {
    let inner = Mutex::new(Vec::new());
    let outer = runs(2, || {
        let here = thread::current().id();
        on_each_thread(&|| inner.lock().unwrap().push((here, thread::current().id()))).unwrap();
    });
    let inner = inner.into_inner().unwrap();
    assert_eq!((outer.len(), inner.len()), (2, 2));
    assert!(inner.iter().all(|(outer, inner)| outer == inner));
}

#[test]
fn a_panic_comes_back_to_the_caller_after_all_are_through() {
    let finished = Mutex::new(0);
    let caller = thread::current().id();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runs(2, || {
            *finished.lock().unwrap() += 1;
            // On the thread that C++ started.
            assert!(thread::current().id() == caller, "a body's own words");
        })
    }));
    let panic = outcome.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a body's own words"));
    assert_eq!(finished.into_inner().unwrap(), 2);
    assert_eq!(runs(2, || ()).len(), 2);
}

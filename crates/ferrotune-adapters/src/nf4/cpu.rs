//! What the kernels of the CPU run on: the best instructions, on libtorch's own threads.
//!
//! libtorch's threads stay awake for a while after each of its operations, waiting for the next one. Threads of another pool
//! would share the cores with them, and a run's number of threads would not hold for them.

use ferrotune_nf4::{Cpu, Isa, Threads};
use ferrotune_torch::on_each_thread;

/// libtorch's intra-op threads.
pub(super) const THREADS: Threads = Threads::new(run);

pub(super) fn cpu() -> Cpu {
    Cpu { isa: Isa::best(), threads: THREADS }
}

fn run(body: &(dyn Fn() + Sync)) {
    if let Err(error) = on_each_thread(body) {
        // The kernels do on the current thread what was left undone.
        tracing::warn!("4-bit weights are worked on by one thread: {error}");
    }
}

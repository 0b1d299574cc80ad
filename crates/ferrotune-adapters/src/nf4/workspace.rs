//! Memory that all matrices of a storage share while one of them is applied.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use ferrotune_nf4::Scratch;
use tch::{Device, Kind, Tensor};

use crate::Result;

/// A dense matrix's worth of memory, and what packed products need. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Workspace {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Weights of the largest matrix, so that the buffer is allocated once.
    largest: AtomicUsize,
    memory: Mutex<Memory>,
}

/// What is in use by one product at a time.
#[derive(Debug, Default)]
pub(super) struct Memory {
    bytes: Option<Tensor>, // u8
    pub(super) scratch: Scratch,
}

impl Workspace {
    /// Makes sure that the buffer, once it is allocated, holds a matrix of this many weights.
    pub(super) fn reserve(&self, weights: usize) {
        self.shared.largest.fetch_max(weights, Ordering::Relaxed);
    }

    /// The memory, for one product.
    pub(super) fn lock(&self) -> MutexGuard<'_, Memory> {
        // What a panic left there is overwritten before it is read.
        self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A dense matrix of `shape` in `memory`, whose values are those of the last product.
    pub(super) fn dense(
        &self,
        memory: &mut Memory,
        shape: [i64; 2],
        kind: Kind,
        device: Device,
    ) -> Result<Tensor> {
        let weights = shape[0] * shape[1];
        let size = kind.elt_size_in_bytes() as i64;
        let buffer = match memory.bytes.take() {
            Some(bytes) if bytes.size()[0] >= weights * size && bytes.device() == device => bytes,
            // The old one goes before the new one comes.
            other => {
                drop(other);
                let largest = (self.shared.largest.load(Ordering::Relaxed) as i64).max(weights);
                Tensor::f_empty([largest * size], (Kind::Uint8, device))?
            }
        };
        let dense = buffer.f_narrow(0, 0, weights * size)?.f_view_dtype(kind)?.f_view(shape)?;
        memory.bytes = Some(buffer);
        Ok(dense)
    }
}

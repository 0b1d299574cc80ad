use std::fmt;
use std::ops::Deref;

use tch::Tensor;

/// A tensor that several threads may read at once.
///
/// [`Tensor`] can be sent to another thread but not shared, because its methods may change it through any of its
/// handles. A frozen weight is shared by every thread that runs a backward pass, so it is kept in this wrapper.
///
/// # Contract
///
/// While a `SharedTensor` may be read by another thread, nobody changes the tensor or its storage in place: not
/// through this handle's [`Deref`] target or a [`Tensor::shallow_clone`] of it, not through a view, and not through a
/// handle that was kept before wrapping. Replacing the whole `SharedTensor` behind a lock is fine. Operations that only
/// read are safe: libtorch counts handles atomically and reads storages without touching them.
///
/// # Example
///
/// ```
/// use ferrotune_torch::SharedTensor;
/// use tch::Tensor;
///
/// let weight = SharedTensor::from(Tensor::from_slice(&[1.0f32, 2.0, 3.0]));
/// let sums: Vec<f64> = std::thread::scope(|scope| {
///     let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| weight.sum(tch::Kind::Float).double_value(&[]))).collect();
///     readers.into_iter().map(|reader| reader.join().expect("a reader panicked")).collect()
/// });
/// assert_eq!(sums, [6.0, 6.0]);
/// ```
pub struct SharedTensor(Tensor);

// SAFETY: reading an `at::Tensor` from several threads is what libtorch does itself (its handle count is atomic, its
// storage is plain memory). Nobody writes meanwhile: the contract above.
unsafe impl Sync for SharedTensor {}

impl SharedTensor {
    /// The tensor itself.
    pub fn into_inner(self) -> Tensor {
        self.0
    }
}

impl Deref for SharedTensor {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.0
    }
}

impl From<Tensor> for SharedTensor {
    fn from(tensor: Tensor) -> Self {
        Self(tensor)
    }
}

impl AsRef<Tensor> for SharedTensor {
    fn as_ref(&self) -> &Tensor {
        &self.0
    }
}

/// Another handle on the same storage.
impl Clone for SharedTensor {
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

impl fmt::Debug for SharedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

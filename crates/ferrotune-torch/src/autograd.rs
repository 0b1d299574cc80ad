use tch::Tensor;

use crate::error::Result;
use crate::ffi;

/// Runs the backward pass from several roots and adds what arrives to the leaves' `grad`.
///
/// A root is a tensor and the gradient it is given; `None` stands for 1 and needs a root of one element. The graph is
/// freed as it is walked.
///
/// It may be called inside [`Function::backward`](crate::Function::backward), which is how a block is recomputed.
///
/// # Errors
///
/// The error of a [`Function`](crate::Function) in the graph, with its source, or libtorch's (a root without a history,
/// a graph that was walked before, a saved tensor that was changed in place).
///
/// # Example
///
/// ```
/// use ferrotune_torch::backward;
/// use tch::Tensor;
///
/// let x = Tensor::from_slice(&[1.0f32, 2.0]).set_requires_grad(true);
/// let y = &x * 3.0;
/// backward(&[(&y, Some(&Tensor::from_slice(&[1.0f32, 10.0])))])?;
/// assert_eq!(Vec::<f32>::try_from(x.grad())?, [3.0, 30.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn backward(roots: &[(&Tensor, Option<&Tensor>)]) -> Result<()> {
    ffi::backward(roots)
}

/// Runs the backward pass from several roots and returns the gradients of `inputs`, leaving every `grad` as it was.
///
/// Roots are given as in [`backward`]. An input that the roots do not depend on gives `None` with `allow_unused` and is
/// an error without.
///
/// # Errors
///
/// As [`backward`], and if an input does not require a gradient.
pub fn grad(
    roots: &[(&Tensor, Option<&Tensor>)],
    inputs: &[&Tensor],
    allow_unused: bool,
) -> Result<Vec<Option<Tensor>>> {
    ffi::grad(roots, inputs, allow_unused)
}

/// Runs `body` with recording on or off in this thread, and restores what was before, also if `body` panics.
///
/// `tch::no_grad` and `tch::with_grad` leave the setting changed after a panic.
pub fn with_grad<T>(enabled: bool, body: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ffi::set_grad_enabled(self.0);
        }
    }
    let _restore = Restore(ffi::grad_enabled());
    ffi::set_grad_enabled(enabled);
    body()
}

/// Whether operations of this thread are being recorded.
pub fn grad_enabled() -> bool {
    ffi::grad_enabled()
}

use std::any::Any;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tch::Tensor;

use crate::autograd::with_grad;
use crate::error::{BoxError, Error, Result, Stage};
use crate::ffi::{self, Call, InputMeta};

/// What a forward pass returns.
#[derive(Debug, Default)]
pub struct Forward {
    /// The results, at least one, in the order that [`apply`] returns them and that `grads` has in the backward pass.
    pub outputs: Vec<Tensor>,
    /// What the backward pass needs; inputs, outputs and intermediate tensors alike.
    pub saved: Vec<Tensor>,
}

/// A differentiable operation whose two passes are written in Rust.
///
/// Implement it where libtorch's own derivative would keep too much (a dequantized matrix, all logits, a block's
/// activations), and apply it with [`apply`]. One value serves any number of applications, at once and from any thread:
/// libtorch runs the backward passes of CUDA graphs on threads of its own.
///
/// # What an implementor must know
///
/// * Recording is off in both passes: ordinary `tch` operations in them leave nothing in the graph. A backward pass that
///   recomputes turns it on with [`with_grad`](crate::with_grad) and may call [`grad`](crate::grad) or
///   [`backward`](crate::backward) itself.
/// * Gradients flow to the `inputs` only. A trainable tensor that the function holds itself, instead of taking it as an
///   input, gets none.
/// * What the backward pass needs goes into [`Forward::saved`], not into the function: libtorch's saved variables free
///   it after the backward pass, and notice when somebody changes it in place in between.
/// * An output may be an input or a view of one. It then refuses to be changed in place.
/// * Integer and boolean inputs are allowed and get no gradient; integer outputs get no history.
/// * An error and a panic become an [`Error`] that carries the function's name, from [`apply`], from
///   [`backward`](crate::backward), and (as text) from tch's own `backward`.
///
/// # Example
///
/// ```
/// use std::sync::Arc;
///
/// use ferrotune_torch::{BoxError, Forward, Function, apply, backward};
/// use tch::{Kind, Tensor};
///
/// /// x², differentiated by hand.
/// struct Square;
///
/// impl Function for Square {
///     fn name(&self) -> &str {
///         "square"
///     }
///
///     fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError> {
///         let x = &inputs[0];
///         Ok(Forward { outputs: vec![x.f_square()?], saved: vec![x.shallow_clone()] })
///     }
///
///     fn backward(
///         &self,
///         saved: &[Tensor],
///         grads: &[Option<Tensor>],
///         _needs: &[bool],
///     ) -> Result<Vec<Option<Tensor>>, BoxError> {
///         let Some(grad) = &grads[0] else { return Ok(vec![None]) };
///         Ok(vec![Some(grad.f_mul(&saved[0])?.f_mul_scalar(2.0)?)])
///     }
/// }
///
/// let x = Tensor::from_slice(&[1.0f32, -3.0]).set_requires_grad(true);
/// let y = apply(Arc::new(Square), &[&x])?.remove(0);
/// backward(&[(&y.sum(Kind::Float), None)])?;
/// assert_eq!(Vec::<f32>::try_from(x.grad())?, [2.0, -6.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Function: Send + Sync + 'static {
    /// The name that errors and libtorch's own messages give the function.
    fn name(&self) -> &str;

    /// Computes the outputs and says what to keep for the backward pass.
    ///
    /// # Errors
    ///
    /// Any; it comes out of [`apply`] as [`Error::Function`].
    fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError>;

    /// Computes the gradients of the inputs: one entry per input, shaped and typed like it.
    ///
    /// `saved` is what the forward pass saved, in its order and without history. `grads` has one entry per output,
    /// `None` where the output got no gradient (read it as zeros). `needs` has one entry per input; where it is false
    /// the gradient goes nowhere, and the entry may be `None` and should be, to save the work. `None` where it is true
    /// stands for zeros.
    ///
    /// # Errors
    ///
    /// Any; it comes out of the backward pass as [`Error::Function`].
    fn backward(
        &self,
        saved: &[Tensor],
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>, BoxError>;
}

/// Applies `function` to `inputs` and records it if gradients are on and an input asks for one.
///
/// # Errors
///
/// [`Error::UndefinedInput`] before anything runs; [`Error::Function`] and [`Error::Panic`] if the forward pass fails,
/// [`Error::UndefinedOutput`] if it returns a tensor that holds nothing. What goes wrong in the backward pass comes out of the
/// backward pass.
pub fn apply(function: Arc<dyn Function>, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let name = function.name().to_owned();
    let c_name = CString::new(name.as_str()).map_err(|_| Error::ZeroByte { name: name.clone() })?;
    if let Some(input) = inputs.iter().position(|input| !input.defined()) {
        return Err(Error::UndefinedInput { function: name, input });
    }
    let Forward { outputs, saved } = run_forward(&*function, &name, inputs)?;
    if let Some(output) = outputs.iter().position(|output| !output.defined()) {
        return Err(Error::UndefinedOutput { function: name, output });
    }
    let metas = inputs
        .iter()
        .map(|input| InputMeta { size: input.size(), kind: input.kind(), device: input.device() })
        .collect();
    ffi::attach(Call { function, name, inputs: metas }, &c_name, inputs, &outputs, &saved)
}

fn run_forward(function: &dyn Function, name: &str, inputs: &[&Tensor]) -> Result<Forward> {
    let stage = Stage::Forward;
    let pass = || {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.shallow_clone()).collect();
        with_grad(false, || function.forward(&inputs))
    };
    match catch_unwind(AssertUnwindSafe(pass)) {
        Ok(Ok(forward)) => Ok(forward),
        Ok(Err(source)) => Err(Error::Function { function: name.to_owned(), stage, source }),
        Err(panic) => {
            Err(Error::Panic { function: name.to_owned(), stage, message: panic_message(panic.as_ref()) })
        }
    }
}

/// The text of a panic, as the standard library's own hook reads it.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}

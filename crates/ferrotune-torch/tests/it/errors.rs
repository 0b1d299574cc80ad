//! What goes wrong on one side of the boundary is an error on the other, and the program goes on.

use std::error::Error as _;
use std::sync::Arc;

use ferrotune_torch::{Error, Forward, Function, Stage, apply, backward};
use tch::{Kind, TchError, Tensor};

use crate::functions::{AffineAndSine, Exp, F64, closures, doubling, normal, values};

#[derive(Debug, thiserror::Error)]
#[error("the disk is full")]
struct DiskFull;

fn leaf() -> Tensor {
    normal(&[3], 1).set_requires_grad(true)
}

/// Applies a function to a leaf and returns the sum of its output.
fn loss(function: Arc<dyn Function>, x: &Tensor) -> Tensor {
    apply(function, &[x]).unwrap().remove(0).sum(Kind::Double)
}

fn backward_error(function: Arc<dyn Function>) -> Error {
    backward(&[(&loss(function, &leaf()), None)]).unwrap_err()
}

#[test]
fn an_error_in_the_forward_pass_comes_out_of_apply() {
    let function = closures("reader", |_| Err(DiskFull.into()), |_, _, _| Ok(vec![None]));
    let error = apply(function, &[&leaf()]).unwrap_err();
    assert_eq!(error.to_string(), "function `reader` failed in its forward pass: the disk is full");
    assert!(error.source().unwrap().is::<DiskFull>());
}

#[test]
fn an_error_in_the_backward_pass_comes_out_of_backward_with_its_source() {
    let error = backward_error(doubling("reader", |_, _, _| Err(DiskFull.into())));
    assert_eq!(error.to_string(), "function `reader` failed in its backward pass: the disk is full");
    assert!(
        matches!(&error, Error::Function { function, stage: Stage::Backward, .. } if function == "reader")
    );
    assert!(error.source().unwrap().is::<DiskFull>());
}

#[test]
fn an_error_in_the_backward_pass_comes_out_of_tchs_backward_as_text() {
    let root = loss(doubling("reader", |_, _, _| Err(DiskFull.into())), &leaf());
    let Err(TchError::Torch(text)) = root.f_backward() else { panic!("an error was expected") };
    assert_eq!(text, "function `reader` failed in its backward pass: the disk is full");
}

#[test]
fn an_exception_of_libtorch_inside_a_pass_is_an_error_of_the_function() {
    let error = backward_error(doubling("misfit", |saved, _, _| {
        Ok(vec![Some(saved[0].f_matmul(&Tensor::zeros([5, 5], F64))?)])
    }));
    assert!(error.to_string().starts_with("function `misfit` failed in its backward pass: "), "{error}");
    assert!(error.source().unwrap().is::<TchError>());
    let forward = closures(
        "misfit",
        |inputs| {
            Ok(Forward { outputs: vec![inputs[0].f_matmul(&Tensor::zeros([5, 5], F64))?], saved: vec![] })
        },
        |_, _, _| Ok(vec![None]),
    );
    assert!(apply(forward, &[&leaf()]).unwrap_err().source().unwrap().is::<TchError>());
}

#[test]
fn a_panic_in_either_pass_is_an_error_that_names_the_function() {
    let forward = closures("fragile", |_| panic!("index out of bounds"), |_, _, _| Ok(vec![None]));
    let error = apply(forward, &[&leaf()]).unwrap_err();
    assert_eq!(error.to_string(), "function `fragile` panicked in its forward pass: index out of bounds");

    let formatted = doubling("fragile", |_, grads, _| panic!("{} gradients", grads.len()));
    let error = backward_error(formatted);
    assert_eq!(error.to_string(), "function `fragile` panicked in its backward pass: 1 gradients");
    assert!(matches!(error, Error::Panic { stage: Stage::Backward, .. }));

    // tch's operations without `f_` panic where libtorch throws.
    let error = backward_error(doubling("fragile", |saved, _, _| Ok(vec![Some(saved[0].view([7]))])));
    assert!(matches!(error, Error::Panic { .. }), "{error}");
}

#[test]
fn the_engine_works_on_after_an_error_and_after_a_panic() {
    for _ in 0..3 {
        backward_error(doubling("reader", |_, _, _| Err(DiskFull.into())));
        backward_error(doubling("fragile", |_, _, _| panic!("on purpose")));
        let x = leaf();
        let root = loss(doubling("sound", |_, grads, _| Ok(vec![grads[0].as_ref().map(|g| g * 2.0)])), &x);
        backward(&[(&root, None)]).unwrap();
        assert_eq!(values(&x.grad()), [2.0; 3]);
    }
}

#[test]
fn a_wrong_number_of_gradients_is_refused() {
    let error = backward_error(doubling("miscounts", |_, _, _| Ok(vec![])));
    assert_eq!(error.to_string(), "function `miscounts` returned 0 gradients, expected 1, one per input");
    let error = backward_error(doubling("miscounts", |_, _, _| Ok(vec![None, None])));
    assert!(matches!(error, Error::GradientCount { expected: 1, found: 2, .. }));
}

#[test]
fn a_gradient_of_another_shape_is_refused_even_if_it_would_broadcast() {
    let error = backward_error(doubling("flat", |_, _, _| Ok(vec![Some(Tensor::zeros([1], F64))])));
    assert_eq!(
        error.to_string(),
        "function `flat` returned a gradient of shape [1] for input 0, expected [3]"
    );
}

#[test]
fn a_gradient_of_another_type_is_refused() {
    let error =
        backward_error(doubling("coarse", |saved, _, _| Ok(vec![Some(saved[0].to_kind(Kind::Half))])));
    assert_eq!(
        error.to_string(),
        "function `coarse` returned a gradient of type Half for input 0, expected Double"
    );
}

#[test]
fn an_undefined_input_is_refused_before_the_function_runs() {
    let function = closures("never", |_| panic!("it ran"), |_, _, _| Ok(vec![None]));
    let error = apply(function, &[&leaf(), &Tensor::new()]).unwrap_err();
    assert_eq!(error.to_string(), "function `never` was given an undefined tensor as input 1");
}

#[test]
fn an_undefined_output_is_refused() {
    let function = closures(
        "hollow",
        |inputs| Ok(Forward { outputs: vec![inputs[0].shallow_clone(), Tensor::new()], saved: vec![] }),
        |_, _, _| Ok(vec![None]),
    );
    let error = apply(function, &[&leaf()]).unwrap_err();
    assert_eq!(error.to_string(), "function `hollow` returned an undefined tensor as output 1");
}

#[test]
fn a_gradient_of_a_gradient_is_refused() {
    let x = leaf();
    let root = loss(Arc::new(Exp { dropped: Arc::default() }), &x);
    let error = Tensor::f_run_backward(&[&root], &[&x], true, true).unwrap_err();
    assert!(error.to_string().contains("function `exp` cannot be differentiated twice"), "{error}");
    // The same graph is still good for a first derivative.
    backward(&[(&root, None)]).unwrap();
    assert!(x.grad().defined());
}

#[test]
fn a_graph_is_good_for_one_pass() {
    let x = leaf();
    let root = loss(Arc::new(Exp { dropped: Arc::default() }), &x);
    backward(&[(&root, None)]).unwrap();
    let error = backward(&[(&root, None)]).unwrap_err();
    assert!(error.to_string().contains("backward through the graph a second time"), "{error}");
}

#[test]
fn a_saved_tensor_changed_in_place_is_noticed() {
    let x = leaf();
    let hidden = &x * 1.0;
    let root = loss(doubling("saves", |saved, _, _| Ok(vec![Some(saved[0].shallow_clone())])), &hidden);
    let _ = hidden.shallow_clone().g_add_scalar_(1.0);
    let error = backward(&[(&root, None)]).unwrap_err();
    assert!(error.to_string().contains("modified by an inplace operation"), "{error}");

    let output = apply(Arc::new(Exp { dropped: Arc::default() }), &[&x]).unwrap().remove(0);
    let root = output.sum(Kind::Double);
    let _ = output.detach().g_add_scalar_(1.0);
    let error = backward(&[(&root, None)]).unwrap_err();
    assert!(error.to_string().contains("modified by an inplace operation"), "{error}");
}

#[test]
fn roots_that_cannot_be_differentiated_are_errors() {
    assert!(backward(&[(&normal(&[1], 1), None)]).is_err(), "no history");
    assert!(backward(&[(&(leaf() * 2.0), None)]).is_err(), "no gradient for three elements");
    let wrong = Tensor::ones([2], F64);
    assert!(backward(&[(&(leaf() * 2.0), Some(&wrong))]).is_err(), "a gradient of another shape");
}

#[test]
fn a_name_with_a_zero_byte_is_refused() {
    let error = apply(doubling("ze\0ro", |_, _, _| Ok(vec![None])), &[&leaf()]).unwrap_err();
    assert!(matches!(error, Error::ZeroByte { .. }));
}

#[test]
fn an_error_text_with_a_zero_byte_arrives() {
    let error = backward_error(doubling("odd", |_, _, _| Err("be\0fore and after".into())));
    assert!(error.to_string().ends_with("after"), "{error}");
}

#[test]
fn the_first_of_two_failing_functions_is_reported_and_the_other_is_not_run() {
    let x = leaf();
    let inner = apply(doubling("inner", |_, _, _| Err("inner failed".into())), &[&x]).unwrap().remove(0);
    let root = loss(doubling("outer", |_, _, _| Err("outer failed".into())), &inner);
    let error = backward(&[(&root, None)]).unwrap_err();
    assert_eq!(error.to_string(), "function `outer` failed in its backward pass: outer failed");
    assert!(!x.grad().defined());
}

#[test]
fn libtorchs_messages_come_without_its_stack() {
    let x = leaf();
    let outputs =
        apply(Arc::new(AffineAndSine::default()), &[&x.view([1, 3]), &normal(&[3, 2], 1), &normal(&[2], 2)]);
    let wrong = Tensor::ones([7], F64);
    let error = backward(&[(&outputs.unwrap()[0], Some(&wrong))]).unwrap_err();
    assert!(!error.to_string().contains("Exception raised from"), "{error}");
}

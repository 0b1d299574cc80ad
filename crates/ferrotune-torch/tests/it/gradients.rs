//! Gradients are right, and nothing but what was asked for is computed or recorded.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ferrotune_torch::{Forward, Function, SharedTensor, apply, backward, grad, grad_enabled, with_grad};
use tch::{Device, Kind, Tensor};

use crate::functions::{AffineAndSine, Exp, F64, closures, doubling, largest_difference, normal, values};

/// Central differences with step h err by h²/6 times the third derivative and by rounding, 1e-16/h: about 1e-10 here.
const STEP: f64 = 1e-5;
const FINITE_DIFFERENCE_TOLERANCE: f64 = 1e-8;
/// The same operations in the same order, or reordered sums of a dozen terms of order 1 in f64.
const F64_TOLERANCE: f64 = 1e-13;

/// Compares the gradients of `weights · outputs` with finite differences, for every element of every input.
fn check_gradients(function: Arc<dyn Function>, inputs: &[Tensor], seed: u64) {
    let scalar = |inputs: &[&Tensor]| -> Tensor {
        let outputs = apply(function.clone(), inputs).unwrap();
        let terms = outputs
            .iter()
            .enumerate()
            .map(|(i, output)| (output * normal(&output.size(), seed + i as u64)).sum(Kind::Double));
        terms.reduce(|a, b| a + b).unwrap()
    };
    let leaves: Vec<Tensor> = inputs.iter().map(|t| t.copy().set_requires_grad(true)).collect();
    backward(&[(&scalar(&leaves.iter().collect::<Vec<_>>()), None)]).unwrap();
    for (which, leaf) in leaves.iter().enumerate() {
        let analytic = values(&leaf.grad());
        for (element, analytic) in analytic.into_iter().enumerate() {
            let at = |offset: f64| {
                let moved: Vec<Tensor> = inputs.iter().map(Tensor::copy).collect();
                let _ = moved[which].view(-1).get(element as i64).g_add_scalar_(offset);
                scalar(&moved.iter().collect::<Vec<_>>()).double_value(&[])
            };
            let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            assert!(
                (numeric - analytic).abs() <= FINITE_DIFFERENCE_TOLERANCE * (1.0 + numeric.abs()),
                "{}: input {which}, element {element}: {analytic}, finite differences say {numeric}",
                function.name()
            );
        }
    }
}

#[test]
fn several_inputs_and_outputs_agree_with_finite_differences() {
    let inputs = [normal(&[4, 3], 1), normal(&[3, 5], 2), normal(&[5], 3)];
    check_gradients(Arc::new(AffineAndSine::default()), &inputs, 10);
}

#[test]
fn a_saved_output_agrees_with_finite_differences() {
    check_gradients(Arc::new(Exp { dropped: Arc::default() }), &[normal(&[2, 3], 4)], 20);
}

#[test]
fn saved_intermediates_agree_with_finite_differences() {
    // log(1 + x²), which saves 1 + x² and a view of the input.
    let function = closures(
        "log1p_square",
        |inputs| {
            let inner = inputs[0].f_square()?.f_add_scalar(1.0)?;
            Ok(Forward { outputs: vec![inner.f_log()?], saved: vec![inner, inputs[0].f_view([-1])?] })
        },
        |saved, grads, _| {
            let Some(grad) = &grads[0] else { return Ok(vec![None]) };
            let x = saved[1].f_reshape(grad.size())?;
            Ok(vec![Some(grad.f_mul(&x)?.f_mul_scalar(2.0)?.f_div(&saved[0])?)])
        },
    );
    check_gradients(function, &[normal(&[3, 2], 5)], 30);
}

#[test]
fn gradients_equal_those_of_libtorchs_own_operations() {
    let make = || [(4, 3, 1), (3, 5, 2)].map(|(n, m, seed)| normal(&[n, m], seed).set_requires_grad(true));
    let bias = || normal(&[5], 3).set_requires_grad(true);
    let loss = |y: &Tensor, s: &Tensor| y.square().sum(Kind::Double) + s.exp().sum(Kind::Double);

    let ([x, w], b) = (make(), bias());
    let outputs = apply(Arc::new(AffineAndSine::default()), &[&x, &w, &b]).unwrap();
    backward(&[(&loss(&outputs[0], &outputs[1]), None)]).unwrap();

    let ([x2, w2], b2) = (make(), bias());
    loss(&(x2.matmul(&w2) + &b2), &x2.sin()).backward();

    for (ours, theirs) in [(&x, &x2), (&w, &w2), (&b, &b2)] {
        assert!(largest_difference(&ours.grad(), &theirs.grad()) < F64_TOLERANCE);
    }
}

#[test]
fn a_chain_of_functions_and_operations_is_differentiated_through() {
    let exp: Arc<dyn Function> = Arc::new(Exp { dropped: Arc::default() });
    let x = normal(&[3], 6).set_requires_grad(true);
    let inner = apply(exp.clone(), &[&(&x * 0.5)]).unwrap().remove(0);
    let outer = apply(exp, &[&(-&inner)]).unwrap().remove(0);
    backward(&[(&outer.sum(Kind::Double), None)]).unwrap();
    // d/dx exp(-exp(x/2)) = -exp(-exp(x/2)) exp(x/2) / 2
    let e = (x.detach() * 0.5).exp();
    let expected = (-&e).exp() * &e * -0.5;
    assert!(largest_difference(&x.grad(), &expected) < F64_TOLERANCE);
}

#[test]
fn only_needed_gradients_are_asked_for() {
    let function = Arc::new(AffineAndSine::default());
    let (x, w, b) = (normal(&[4, 3], 1), normal(&[3, 5], 2).set_requires_grad(true), normal(&[5], 3));
    let outputs = apply(function.clone(), &[&x, &w, &b]).unwrap();
    // The second output gets no gradient: it is not part of the loss.
    backward(&[(&outputs[0].sum(Kind::Double), None)]).unwrap();
    assert_eq!(*function.asked.lock().unwrap(), [(vec![false, true, false], vec![true, false])]);
    assert!(w.grad().defined() && !x.grad().defined() && !b.grad().defined());
}

#[test]
fn grad_asks_for_the_given_inputs_only_and_touches_no_leaf() {
    let function = Arc::new(AffineAndSine::default());
    let [x, w] = [(4, 3, 1), (3, 5, 2)].map(|(n, m, seed)| normal(&[n, m], seed).set_requires_grad(true));
    let b = normal(&[5], 3).set_requires_grad(true);
    let outputs = apply(function.clone(), &[&x, &w, &b]).unwrap();
    let roots = [(&outputs[0], Some(&normal(&[4, 5], 8))), (&outputs[1], Some(&normal(&[4, 3], 9)))]
        .map(|(root, grad)| (root.shallow_clone(), grad.map(Tensor::shallow_clone)));
    let roots: Vec<_> = roots.iter().map(|(root, grad)| (root, grad.as_ref())).collect();
    let found = grad(&roots, &[&b], false).unwrap();
    let expected = normal(&[4, 5], 8).sum_dim_intlist(0, false, None::<Kind>);
    assert!(largest_difference(found[0].as_ref().unwrap(), &expected) < F64_TOLERANCE);
    assert_eq!(*function.asked.lock().unwrap(), [(vec![false, false, true], vec![true, true])]);
    assert!([&x, &w, &b].iter().all(|leaf| !leaf.grad().defined()));
}

#[test]
fn an_unused_input_is_none_or_an_error_as_asked() {
    let [x, other] = [1, 2].map(|seed| normal(&[2], seed).set_requires_grad(true));
    let root = || x.square().sum(Kind::Double);
    let found = grad(&[(&root(), None)], &[&x, &other], true).unwrap();
    assert!(found[0].is_some() && found[1].is_none());
    assert!(grad(&[(&root(), None)], &[&x, &other], false).is_err());
}

#[test]
fn a_gradient_that_was_not_needed_is_dropped() {
    let function = closures(
        "eager",
        |inputs| Ok(Forward { outputs: vec![inputs[0].f_add(&inputs[1])?], saved: vec![] }),
        // Wrong in shape too: nobody looks at it.
        |_, grads, _| Ok(vec![grads[0].as_ref().map(Tensor::shallow_clone), Some(Tensor::zeros([7], F64))]),
    );
    let (x, y) = (normal(&[2], 1).set_requires_grad(true), normal(&[2], 2));
    let sum = apply(function, &[&x, &y]).unwrap().remove(0);
    backward(&[(&sum.sum(Kind::Double), None)]).unwrap();
    assert_eq!(values(&x.grad()), [1.0, 1.0]);
    assert!(!y.grad().defined());
}

#[test]
fn none_stands_for_a_zero_gradient() {
    let function = doubling("silent", |_, _, _| Ok(vec![None]));
    let x = normal(&[2], 1).set_requires_grad(true);
    let doubled = apply(function, &[&x]).unwrap().remove(0);
    backward(&[(&(doubled + &x).sum(Kind::Double), None)]).unwrap();
    assert_eq!(values(&x.grad()), [1.0, 1.0]);
}

#[test]
fn integer_inputs_and_outputs_are_allowed() {
    // Rows of a table by index; the index of the largest entry comes back too.
    let function = closures(
        "select_rows",
        |inputs| {
            let rows = inputs[0].f_index_select(0, &inputs[1])?;
            let largest = rows.f_argmax(1, false)?;
            Ok(Forward {
                outputs: vec![rows, largest],
                saved: vec![inputs[0].shallow_clone(), inputs[1].shallow_clone()],
            })
        },
        |saved, grads, needs| {
            assert_eq!(needs, [true, false]);
            assert!(grads[1].is_none());
            let Some(grad) = &grads[0] else { return Ok(vec![None, None]) };
            Ok(vec![Some(saved[0].f_zeros_like()?.f_index_add(0, &saved[1], grad)?), None])
        },
    );
    let table = normal(&[3, 2], 1).set_requires_grad(true);
    let index = Tensor::from_slice(&[2i64, 0, 2]);
    let outputs = apply(function, &[&table, &index]).unwrap();
    assert_eq!(outputs[1].kind(), Kind::Int64);
    assert!(outputs[0].requires_grad() && !outputs[1].requires_grad());
    backward(&[(&outputs[0].sum(Kind::Double), None)]).unwrap();
    assert_eq!(values(&table.grad()), [1.0, 1.0, 0.0, 0.0, 2.0, 2.0]);
}

#[test]
fn nothing_is_recorded_in_either_pass() {
    let function = closures(
        "quiet",
        |inputs| {
            assert!(!grad_enabled());
            let intermediate = inputs[0].f_mul_scalar(3.0)?;
            assert!(inputs[0].requires_grad() && !intermediate.requires_grad());
            Ok(Forward {
                outputs: vec![intermediate.f_add_scalar(1.0)?],
                saved: vec![inputs[0].shallow_clone()],
            })
        },
        |saved, grads, _| {
            assert!(!grad_enabled());
            // A saved input comes without its history, and without its leaf.
            assert!(!saved[0].requires_grad());
            Ok(vec![grads[0].as_ref().map(|grad| grad.f_mul_scalar(3.0)).transpose()?])
        },
    );
    let x = normal(&[2], 1).set_requires_grad(true);
    let y = apply(function, &[&x]).unwrap().remove(0);
    backward(&[(&y.sum(Kind::Double), None)]).unwrap();
    assert_eq!(values(&x.grad()), [3.0, 3.0]);
}

#[test]
fn marking_a_saved_tensor_leaves_the_original_alone() {
    let function = closures(
        "marks",
        |inputs| {
            Ok(Forward {
                outputs: vec![inputs[0].f_mul(&inputs[1])?],
                saved: vec![inputs[1].shallow_clone()],
            })
        },
        |saved, grads, _| {
            let marked = saved[0].shallow_clone().set_requires_grad(true);
            let squares = with_grad(true, || marked.f_square())?;
            let found = grad(&[(&squares, grads[0].as_ref())], &[&marked], false)?;
            Ok(vec![found[0].as_ref().map(Tensor::shallow_clone), None])
        },
    );
    let (x, factor) = (normal(&[2], 1).set_requires_grad(true), normal(&[2], 2));
    let y = apply(function, &[&x, &factor]).unwrap().remove(0);
    backward(&[(&y.sum(Kind::Double), None)]).unwrap();
    assert_eq!(values(&x.grad()), values(&(&factor * 2.0)));
    assert!(!factor.requires_grad());
}

#[test]
fn without_a_gradient_to_compute_nothing_is_kept() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let function: Arc<dyn Function> = Arc::new(Exp { dropped });
    let x = normal(&[2], 1);
    let plain = apply(function.clone(), &[&x]).unwrap();
    let leaf = x.set_requires_grad(true);
    let silent = with_grad(false, || apply(function.clone(), &[&leaf])).unwrap();
    assert!(!plain[0].requires_grad() && !silent[0].requires_grad());
    assert_eq!(Arc::strong_count(&function), 1);
}

#[test]
fn an_output_that_is_an_input_carries_the_gradient_and_refuses_to_be_changed() {
    for (name, make) in [
        ("itself", (|x: &Tensor| x.shallow_clone()) as fn(&Tensor) -> Tensor),
        ("view", |x| x.view([3, 2])),
        ("detached", Tensor::detach),
    ] {
        // Identity forward, threefold backward: the shape of an operator that sums gradients over ranks.
        let function = closures(
            "identity",
            move |inputs| Ok(Forward { outputs: vec![make(&inputs[0])], saved: vec![] }),
            |_, grads, _| {
                let grad =
                    grads[0].as_ref().map(|grad| grad.f_reshape([2, 3])?.f_mul_scalar(3.0)).transpose()?;
                Ok(vec![grad])
            },
        );
        let leaf = normal(&[2, 3], 1).set_requires_grad(true);
        let x = &leaf * 1.0;
        let mut y = apply(function, &[&x]).unwrap().remove(0);
        assert_eq!(y.data_ptr(), x.data_ptr(), "{name}: no copy is made");
        assert!(y.f_mul_(&Tensor::from(2.0)).is_err(), "{name}: changing the output would change the input");
        backward(&[(&(&y * 1.0).sum(Kind::Double), None)]).unwrap();
        assert_eq!(values(&leaf.grad()), [3.0; 6], "{name}");
        // The input keeps its own history.
        backward(&[(&(&leaf * 1.0).sum(Kind::Double), None)]).unwrap();
        assert_eq!(values(&leaf.grad()), [4.0; 6], "{name}");
    }
}

#[test]
fn a_tensor_that_the_function_holds_is_not_changed_by_returning_it() {
    let held = Arc::new(SharedTensor::from(normal(&[2], 1)));
    let inside = held.clone();
    let function = closures(
        "constant",
        move |_| Ok(Forward { outputs: vec![inside.shallow_clone()], saved: vec![] }),
        |_, _, _| Ok(vec![None]),
    );
    let x = normal(&[2], 2).set_requires_grad(true);
    let y = apply(function, &[&x]).unwrap().remove(0);
    assert!(y.requires_grad() && !held.requires_grad());
}

#[test]
fn the_same_output_twice_gets_both_gradients() {
    let function = closures(
        "twice",
        |inputs| {
            let y = inputs[0].f_mul_scalar(2.0)?;
            Ok(Forward { outputs: vec![y.shallow_clone(), y], saved: vec![] })
        },
        |_, grads, _| {
            let [Some(a), Some(b)] = grads else { return Err("both outputs are used".into()) };
            Ok(vec![Some(a.f_add(b)?.f_mul_scalar(2.0)?)])
        },
    );
    let x = normal(&[2], 1).set_requires_grad(true);
    let y = apply(function, &[&x]).unwrap();
    backward(&[(&(&y[0] + &y[1] * 10.0).sum(Kind::Double), None)]).unwrap();
    assert_eq!(values(&x.grad()), [22.0, 22.0]);
}

#[test]
fn an_empty_input_works() {
    let x = Tensor::zeros([0, 3], F64).set_requires_grad(true);
    let outputs =
        apply(Arc::new(AffineAndSine::default()), &[&x, &normal(&[3, 5], 2), &normal(&[5], 3)]).unwrap();
    backward(&[(&outputs[0].sum(Kind::Double), None)]).unwrap();
    assert_eq!(x.grad().size(), [0, 3]);
}

#[test]
fn half_precision_gradients_keep_their_type() {
    let x = Tensor::from_slice(&[0.5f32, -1.0]).to_kind(Kind::BFloat16).set_requires_grad(true);
    let y = apply(Arc::new(Exp { dropped: Arc::default() }), &[&x]).unwrap().remove(0);
    backward(&[(&y.sum(Kind::Float), None)]).unwrap();
    assert_eq!(x.grad().kind(), Kind::BFloat16);
}

#[test]
fn a_function_serves_several_threads_at_once() {
    let function = Arc::new(AffineAndSine::default());
    let weight = SharedTensor::from(normal(&[3, 5], 2));
    let expected = {
        let w = weight.shallow_clone();
        Tensor::ones([4, 5], F64).matmul(&w.t_copy())
    };
    let gradients: Vec<Tensor> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|seed| {
                let (function, weight) = (function.clone(), &weight);
                scope.spawn(move || {
                    let x = normal(&[4, 3], seed).set_requires_grad(true);
                    let b = Tensor::zeros([5], (Kind::Double, Device::Cpu));
                    let y = apply(function, &[&x, weight, &b]).unwrap().remove(0);
                    backward(&[(&y.sum(Kind::Double), None)]).unwrap();
                    x.grad()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for gradient in gradients {
        assert!(largest_difference(&gradient, &expected) < F64_TOLERANCE);
    }
}

#[test]
fn recording_is_restored_after_a_panic() {
    assert!(grad_enabled());
    let panicked = std::panic::catch_unwind(|| with_grad(false, || panic!("on purpose")));
    assert!(panicked.is_err() && grad_enabled());
}

//! Counted operations are those of the shapes, each once, forward and backward. The expected numbers are products of
//! the dimensions, times two for a multiplication and an addition.

use std::sync::Arc;

use ferrotune_torch::{Forward, apply, backward, flops, grad};
use tch::{Device, Kind, Tensor};

use crate::functions::closures;

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

fn zeros(shape: &[i64]) -> Tensor {
    Tensor::zeros(shape, F32)
}

fn leaf(shape: &[i64]) -> Tensor {
    zeros(shape).set_requires_grad(true)
}

fn check(name: &str, expected: i64, body: impl FnOnce() -> Tensor) {
    let (_, counted) = flops::count(body).unwrap();
    assert_eq!(counted, expected as u64, "{name}");
}

#[test]
fn products_are_counted_by_their_shapes() {
    let (b, n, k, m) = (7, 3, 5, 4);
    check("mm", 2 * n * k * m, || zeros(&[n, k]).mm(&zeros(&[k, m])));
    check("bmm", 2 * b * n * k * m, || zeros(&[b, n, k]).bmm(&zeros(&[b, k, m])));
    check("mv", 2 * n * k, || zeros(&[n, k]).mv(&zeros(&[k])));
    check("dot", 2 * k, || zeros(&[k]).dot(&zeros(&[k])));
    check("addmm", 2 * n * k * m, || zeros(&[m]).addmm(&zeros(&[n, k]), &zeros(&[k, m])));
    check("addmm_", 2 * n * k * m, || zeros(&[n, m]).addmm_(&zeros(&[n, k]), &zeros(&[k, m])));
    check("baddbmm", 2 * b * n * k * m, || {
        zeros(&[b, n, m]).baddbmm(&zeros(&[b, n, k]), &zeros(&[b, k, m]), 1, 1)
    });
    check("matmul of three dimensions and two", 2 * b * n * k * m, || {
        zeros(&[b, n, k]).matmul(&zeros(&[k, m]))
    });
    check("linear", 2 * b * n * k * m, || zeros(&[b, n, k]).linear::<Tensor>(&zeros(&[m, k]), None));
    check("linear with a bias", 2 * n * k * m, || zeros(&[n, k]).linear(&zeros(&[m, k]), Some(zeros(&[m]))));
    check("einsum", 2 * b * n * k * m, || {
        Tensor::einsum("bnk,bkm->bnm", &[zeros(&[b, n, k]), zeros(&[b, k, m])], None::<i64>)
    });
    check("element-wise work", 0, || (zeros(&[n, k]) + 1.0).exp().softmax(-1, None::<Kind>));
    check("bf16", 2 * n * k * m, || {
        zeros(&[n, k]).to_kind(Kind::BFloat16).mm(&zeros(&[k, m]).to_kind(Kind::BFloat16))
    });
}

#[test]
fn a_backward_pass_counts_the_products_it_runs() {
    let (n, k, m) = (3, 5, 4);
    let product = 2 * n * k * m;
    // Forward, and one product for each gradient that is wanted.
    check("both gradients", 3 * product, || {
        let y = leaf(&[n, k]).mm(&leaf(&[k, m]));
        backward(&[(&y.sum(Kind::Float), None)]).unwrap();
        y
    });
    check("the input's gradient only", 2 * product, || {
        let y = leaf(&[n, k]).mm(&zeros(&[k, m]));
        backward(&[(&y.sum(Kind::Float), None)]).unwrap();
        y
    });
}

#[test]
fn products_in_a_function_are_counted_in_both_passes() {
    let (n, k, m) = (3, 5, 4);
    let function = closures(
        "frozen_linear",
        |inputs| {
            let (x, w) = (&inputs[0], &inputs[1]);
            Ok(Forward { outputs: vec![x.f_matmul(&w.f_tr()?)?], saved: vec![w.shallow_clone()] })
        },
        |saved, grads, _| Ok(vec![grads[0].as_ref().map(|grad| grad.f_matmul(&saved[0])).transpose()?, None]),
    );
    check("a frozen product", 2 * 2 * n * k * m, || {
        let x = leaf(&[n, k]);
        let y = apply(function, &[&x, &zeros(&[m, k])]).unwrap().remove(0);
        grad(&[(&y.sum(Kind::Float), None)], &[&x], false).unwrap();
        y
    });
}

/// Routed rows cost what they are, however many experts there are.
#[test]
fn a_grouped_product_costs_the_rows_and_not_the_groups() {
    let (rows, k, m) = (24, 16, 32);
    for groups in [2, 4, 8] {
        let ends: Vec<i32> = (1..=groups).map(|group| (rows * group / groups) as i32).collect();
        let run = |x: &Tensor, w: &Tensor| {
            x.internal_grouped_mm(w, Some(Tensor::from_slice(&ends)), None, None::<Kind>)
        };
        let x = zeros(&[rows, k]).to_kind(Kind::BFloat16);
        let w = zeros(&[groups, k, m]).to_kind(Kind::BFloat16);
        check("forward", 2 * rows * k * m, || run(&x, &w));
        let (x, w) = (x.set_requires_grad(true), w.set_requires_grad(true));
        check("forward and backward", 3 * 2 * rows * k * m, || {
            let y = run(&x, &w);
            let ones = Tensor::ones([rows, m], (Kind::BFloat16, Device::Cpu));
            grad(&[(&y, Some(&ones))], &[&x, &w], false).unwrap();
            y
        });
    }
}

#[test]
fn rows_behind_the_last_group_cost_nothing() {
    let (rows, k, m) = (24, 16, 32);
    let x = zeros(&[rows, k]).to_kind(Kind::BFloat16);
    let w = zeros(&[2, k, m]).to_kind(Kind::BFloat16);
    check("half the rows", 2 * (rows / 2) * k * m, || {
        x.internal_grouped_mm(&w, Some(Tensor::from_slice(&[4i32, rows as i32 / 2])), None, None::<Kind>)
    });
}

#[test]
fn attention_counts_scores_and_values_and_in_the_backward_pass_five_products() {
    let (b, h, l, s, e) = (2, 3, 5, 7, 8);
    let run = |q: &Tensor, k: &Tensor, v: &Tensor| {
        Tensor::scaled_dot_product_attention::<Tensor>(q, k, v, None, 0.0, false, None, false)
    };
    let product = 2 * b * h * l * s * e;
    check("forward", 2 * product, || {
        run(&zeros(&[b, h, l, e]), &zeros(&[b, h, s, e]), &zeros(&[b, h, s, e]))
    });
    check("forward and backward", 7 * product, || {
        let y = run(&leaf(&[b, h, l, e]), &leaf(&[b, h, s, e]), &leaf(&[b, h, s, e]));
        backward(&[(&y.sum(Kind::Float), None)]).unwrap();
        y
    });
}

#[test]
fn counts_nest_and_do_not_see_other_threads() {
    let product = || zeros(&[2, 3]).mm(&zeros(&[3, 4]));
    const PRODUCT: u64 = 2 * 2 * 3 * 4;
    let other_is_running = Arc::new(std::sync::Barrier::new(2));
    let seen = other_is_running.clone();
    let other = std::thread::spawn(move || {
        seen.wait();
        for _ in 0..100 {
            let _ = zeros(&[2, 3]).mm(&zeros(&[3, 4]));
        }
    });
    let (inner, outer) = flops::count(|| {
        other_is_running.wait();
        let _ = product();
        let (_, inner) = flops::count(product).unwrap();
        let _ = product();
        other.join().unwrap();
        inner
    })
    .unwrap();
    assert_eq!((inner, outer), (PRODUCT, 3 * PRODUCT));
    // Nothing is left on after the last counter.
    let (_, after) = flops::count(|| ()).unwrap();
    assert_eq!(after, 0);
}

#[test]
fn a_panic_in_the_counted_code_ends_the_count() {
    let panicked = std::panic::catch_unwind(|| flops::count(|| panic!("on purpose")));
    assert!(panicked.is_err());
    check("afterwards", 2 * 2 * 3 * 4, || zeros(&[2, 3]).mm(&zeros(&[3, 4])));
}

//! Nothing outlives its use: not a function, not a saved tensor, not an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrotune_torch::{Forward, Function, apply, backward, memory};
use tch::{Device, Kind, Tensor};

use crate::functions::{Exp, closures, doubling, normal};
use crate::process::alone;

fn counted() -> (Arc<dyn Function>, Arc<AtomicUsize>) {
    let dropped = Arc::new(AtomicUsize::new(0));
    (Arc::new(Exp { dropped: dropped.clone() }), dropped)
}

#[test]
fn a_function_lives_as_long_as_its_graph() {
    let (function, dropped) = counted();
    let x = normal(&[2], 1).set_requires_grad(true);
    let y = apply(function, &[&x]).unwrap().remove(0);
    let root = y.sum(Kind::Double);
    drop(y);
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    backward(&[(&root, None)]).unwrap();
    drop(root);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn a_graph_that_is_never_walked_is_freed() {
    let (function, dropped) = counted();
    let x = normal(&[2], 1).set_requires_grad(true);
    // `exp` saves its own output: a cycle, if the output's history were saved with it.
    drop(apply(function, &[&x]).unwrap());
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn a_saved_view_of_an_output_makes_no_cycle() {
    let function = closures(
        "keeps_view",
        |inputs| {
            let y = inputs[0].f_mul_scalar(2.0)?;
            Ok(Forward { saved: vec![y.f_view([-1])?, y.f_tr()?], outputs: vec![y] })
        },
        |_, grads, _| Ok(vec![grads[0].as_ref().map(|grad| grad * 2.0)]),
    );
    let x = normal(&[2, 3], 1).set_requires_grad(true);
    drop(apply(function.clone(), &[&x]).unwrap());
    assert_eq!(Arc::strong_count(&function), 1);
}

#[test]
fn errors_and_panics_leave_nothing_behind() {
    for (name, fails) in [("reader", true), ("fragile", false)] {
        let function = doubling(name, move |_, _, _| {
            if fails {
                return Err("on purpose".into());
            }
            panic!("on purpose")
        });
        for _ in 0..10 {
            let x = normal(&[2], 1).set_requires_grad(true);
            let root = apply(function.clone(), &[&x]).unwrap().remove(0).sum(Kind::Double);
            assert!(backward(&[(&root, None)]).is_err());
        }
        assert_eq!(Arc::strong_count(&function), 1, "{name}");
    }
}

#[test]
fn a_thousand_passes_keep_nothing() {
    let (function, _) = counted();
    for _ in 0..1000 {
        let x = normal(&[2], 1).set_requires_grad(true);
        let y = apply(function.clone(), &[&x]).unwrap().remove(0);
        backward(&[(&y.sum(Kind::Double), None)]).unwrap();
    }
    assert_eq!(Arc::strong_count(&function), 1);
}

#[test]
fn saved_tensors_are_freed_by_the_backward_pass() {
    alone("lifetimes::saved_tensors_are_freed_by_the_backward_pass", || {
        /// Large enough to be mapped by itself, so that the process gives it back at once.
        const BYTES: u64 = 256 << 20;
        let function = closures(
            "hoards",
            |inputs| {
                let big = Tensor::f_ones([BYTES as i64 / 4], (Kind::Float, Device::Cpu))?;
                Ok(Forward { outputs: vec![inputs[0].f_mul_scalar(2.0)?], saved: vec![big] })
            },
            |saved, grads, _| {
                assert_eq!(saved[0].numel() as u64, BYTES / 4);
                Ok(vec![grads[0].as_ref().map(|grad| grad * 2.0)])
            },
        );
        let x = normal(&[2], 1).set_requires_grad(true);
        let before = memory::host_resident_bytes().unwrap();
        let y = apply(function, &[&x]).unwrap().remove(0);
        let kept = memory::host_resident_bytes().unwrap();
        backward(&[(&y.sum(Kind::Double), None)]).unwrap();
        let after = memory::host_resident_bytes().unwrap();
        assert!(kept > before + BYTES * 3 / 4, "{before} {kept}");
        assert!(after + BYTES * 3 / 4 < kept, "{kept} {after}");
        // The output, and with it the graph, was alive all the time.
        assert!(y.requires_grad());
    });
}

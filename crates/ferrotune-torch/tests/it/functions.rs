//! Functions that the tests apply.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrotune_torch::{BoxError, Forward, Function};
use tch::{Device, Kind, Tensor};

pub(crate) type Gradients = Result<Vec<Option<Tensor>>, BoxError>;

pub(crate) const F64: (Kind, Device) = (Kind::Double, Device::Cpu);

/// A function made of two closures.
pub(crate) struct Closures<F, B> {
    pub(crate) name: &'static str,
    pub(crate) forward: F,
    pub(crate) backward: B,
}

impl<F, B> Function for Closures<F, B>
where
    F: Fn(&[Tensor]) -> Result<Forward, BoxError> + Send + Sync + 'static,
    B: Fn(&[Tensor], &[Option<Tensor>], &[bool]) -> Gradients + Send + Sync + 'static,
{
    fn name(&self) -> &str {
        self.name
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError> {
        (self.forward)(inputs)
    }

    fn backward(&self, saved: &[Tensor], grads: &[Option<Tensor>], needs: &[bool]) -> Gradients {
        (self.backward)(saved, grads, needs)
    }
}

pub(crate) fn closures<F, B>(name: &'static str, forward: F, backward: B) -> Arc<dyn Function>
where
    F: Fn(&[Tensor]) -> Result<Forward, BoxError> + Send + Sync + 'static,
    B: Fn(&[Tensor], &[Option<Tensor>], &[bool]) -> Gradients + Send + Sync + 'static,
{
    Arc::new(Closures { name, forward, backward })
}

/// `2 x` with the given backward pass, for tests of what backward passes may do.
pub(crate) fn doubling<B>(name: &'static str, backward: B) -> Arc<dyn Function>
where
    B: Fn(&[Tensor], &[Option<Tensor>], &[bool]) -> Gradients + Send + Sync + 'static,
{
    let forward = |inputs: &[Tensor]| {
        Ok(Forward { outputs: vec![inputs[0].f_mul_scalar(2.0)?], saved: vec![inputs[0].shallow_clone()] })
    };
    closures(name, forward, backward)
}

/// `y = x w + b` and `s = sin(x)`: three inputs, two outputs that both depend on the first.
#[derive(Default)]
pub(crate) struct AffineAndSine {
    /// What each backward pass was asked for: the inputs that need a gradient, the outputs that got one.
    pub(crate) asked: Mutex<Vec<(Vec<bool>, Vec<bool>)>>,
}

impl Function for AffineAndSine {
    fn name(&self) -> &str {
        "affine_and_sine"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError> {
        let (x, w, b) = (&inputs[0], &inputs[1], &inputs[2]);
        let y = x.f_matmul(w)?.f_add(b)?;
        Ok(Forward { outputs: vec![y, x.f_sin()?], saved: vec![x.shallow_clone(), w.shallow_clone()] })
    }

    fn backward(&self, saved: &[Tensor], grads: &[Option<Tensor>], needs: &[bool]) -> Gradients {
        self.asked.lock().unwrap().push((needs.to_vec(), grads.iter().map(Option::is_some).collect()));
        let (x, w) = (&saved[0], &saved[1]);
        let mut dx = x.f_zeros_like()?;
        let (mut dw, mut db) = (None, None);
        if let Some(dy) = &grads[0] {
            if needs[0] {
                dx = dx.f_add(&dy.f_matmul(&w.f_tr()?)?)?;
            }
            if needs[1] {
                dw = Some(x.f_tr()?.f_matmul(dy)?);
            }
            if needs[2] {
                db = Some(dy.f_sum_dim_intlist(0, false, None)?);
            }
        }
        if let Some(ds) = &grads[1] {
            dx = dx.f_add(&ds.f_mul(&x.f_cos()?)?)?;
        }
        Ok(vec![needs[0].then_some(dx), dw, db])
    }
}

/// `exp(x)`, which keeps its output for the backward pass, and counts itself.
pub(crate) struct Exp {
    pub(crate) dropped: Arc<AtomicUsize>,
}

impl Function for Exp {
    fn name(&self) -> &str {
        "exp"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError> {
        let y = inputs[0].f_exp()?;
        Ok(Forward { saved: vec![y.shallow_clone()], outputs: vec![y] })
    }

    fn backward(&self, saved: &[Tensor], grads: &[Option<Tensor>], _needs: &[bool]) -> Gradients {
        Ok(vec![grads[0].as_ref().map(|grad| grad.f_mul(&saved[0])).transpose()?])
    }
}

impl Drop for Exp {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// Normal numbers from a generator of the test's own: the default one belongs to the generator's tests.
pub(crate) fn normal(shape: &[i64], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let count = shape.iter().product::<i64>();
    let values: Vec<f64> = (0..count)
        .map(|_| (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos())
        .collect();
    Tensor::from_slice(&values).reshape(shape)
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

pub(crate) fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

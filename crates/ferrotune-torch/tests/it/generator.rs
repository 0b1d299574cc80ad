//! A generator's state saved and restored gives the same noise again.

use std::sync::Mutex;

use ferrotune_torch::{Error, generator};
use tch::{Device, Kind, Tensor};

use crate::functions::values;

/// There is one default generator, and tests run in parallel. No other module draws from it.
static GENERATOR: Mutex<()> = Mutex::new(());

fn dropout() -> Vec<f64> {
    values(&Tensor::ones([1000], (Kind::Float, Device::Cpu)).dropout(0.3, true))
}

#[test]
fn a_restored_state_reproduces_dropout() {
    let _alone = GENERATOR.lock().unwrap();
    generator::seed(Device::Cpu, 7).unwrap();
    dropout();
    // In the middle of a pair: normal numbers are drawn in twos, and the second is part of the state.
    let odd = || values(&Tensor::randn([1], (Kind::Double, Device::Cpu)));
    odd();
    let state = generator::state(Device::Cpu).unwrap();
    let first = (odd(), dropout(), dropout());
    assert_ne!(first.1, first.2);
    generator::seed(Device::Cpu, 8).unwrap();
    assert_ne!(dropout(), first.1);
    generator::set_state(Device::Cpu, &state).unwrap();
    assert_eq!((odd(), dropout(), dropout()), first);
    generator::set_state(Device::Cpu, &state).unwrap();
    assert_eq!(generator::state(Device::Cpu).unwrap(), state);
}

#[test]
fn a_seed_gives_what_tchs_seed_gives() {
    let _alone = GENERATOR.lock().unwrap();
    generator::seed(Device::Cpu, 42).unwrap();
    let ours = dropout();
    tch::manual_seed(42);
    assert_eq!(dropout(), ours);
}

#[test]
fn a_state_of_another_length_is_refused_and_the_present_one_kept() {
    let _alone = GENERATOR.lock().unwrap();
    let state = generator::state(Device::Cpu).unwrap();
    let error = generator::set_state(Device::Cpu, &state[1..]).unwrap_err();
    assert!(
        matches!(error, Error::GeneratorState { found, expected, .. } if found + 1 == expected),
        "{error}"
    );
    let error = generator::set_state(Device::Cpu, &vec![0xff; state.len()]).unwrap_err();
    assert!(matches!(error, Error::Libtorch { .. }), "{error}");
    assert_eq!(generator::state(Device::Cpu).unwrap(), state);
}

#[test]
fn devices_that_are_not_there_are_errors() {
    assert!(matches!(generator::state(Device::Mps), Err(Error::UnsupportedDevice { .. })));
}

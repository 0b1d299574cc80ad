//! Random number generators: the state behind dropout and sampling, saved and restored for a resume bit for bit.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::ffi;

/// The whole state of the device's default generator, as bytes.
///
/// The bytes are libtorch's own layout (Python's `torch.get_rng_state` and `torch.cuda.get_rng_state` give the same
/// ones) and mean something to the same release only.
///
/// # Errors
///
/// [`Error::UnsupportedDevice`], or libtorch's own for a CUDA device that is not there.
pub fn state(device: Device) -> Result<Vec<u8>> {
    let state = ffi::generator_state(device)?;
    Ok(Vec::<u8>::try_from(&state)?)
}

/// Puts the device's default generator into a state that [`state`] returned.
///
/// # Errors
///
/// [`Error::GeneratorState`] if the length is wrong, libtorch's own error if the bytes are no state.
pub fn set_state(device: Device, state: &[u8]) -> Result<()> {
    let expected = ffi::generator_state(device)?.numel();
    if state.len() != expected {
        return Err(Error::GeneratorState { device, expected, found: state.len() });
    }
    let tensor = Tensor::f_from_data_size(state, &[state.len() as i64], Kind::Uint8)?;
    ffi::generator_set_state(device, &tensor)
}

/// Seeds the default generator of this one device.
///
/// `tch::manual_seed` seeds every device, and asks whether there is CUDA; that must not happen before
/// [`cuda::load`](crate::cuda::load).
///
/// # Errors
///
/// [`Error::UnsupportedDevice`], or libtorch's own for a CUDA device that is not there.
pub fn seed(device: Device, seed: u64) -> Result<()> {
    ffi::generator_seed(device, seed)
}

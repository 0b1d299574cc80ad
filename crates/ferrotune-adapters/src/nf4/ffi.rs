//! Memory of tensors as slices, for the kernels of `ferrotune-nf4`.
#![allow(unsafe_code, reason = "memory of another library; this is one of the two kinds of module that may")]

use ferrotune_nf4::Element;
use half::{bf16, f16};
use tch::{Device, Kind, TchError, Tensor};

/// A number that tensors hold as Rust does; any bits are one.
pub(super) trait Stored: Copy {
    /// The kind of tensor that holds it.
    const KIND: Kind;
}

impl Stored for u8 {
    const KIND: Kind = Kind::Uint8;
}

impl Stored for f32 {
    const KIND: Kind = Kind::Float;
}

impl Stored for f16 {
    const KIND: Kind = Kind::Half;
}

impl Stored for bf16 {
    const KIND: Kind = Kind::BFloat16;
}

/// What weights and activations are stored in.
pub(super) trait Number: Stored + Element {}

impl<T: Stored + Element> Number for T {}

/// The numbers of a contiguous tensor on the CPU.
///
/// # Contract
/// Nobody writes to the tensor's storage, through any handle, while the slice lives.
///
/// # Errors
/// [`TchError::Kind`] for a tensor elsewhere, of another kind or not contiguous.
pub(super) fn slice<T: Stored>(tensor: &Tensor) -> Result<&[T], TchError> {
    let len = checked::<T>(tensor)?;
    if len == 0 {
        return Ok(&[]); // such a tensor may have no memory at all
    }
    // SAFETY: `checked` found `len` numbers of type T one after the other from the pointer on, aligned as libtorch's
    // allocator and views of whole numbers align them. The storage lives as long as the tensor that is borrowed, and
    // is not written to meanwhile (the contract).
    Ok(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast_const().cast(), len) })
}

/// The same to write to.
///
/// # Contract
/// Nobody else reads or writes the tensor's storage, through any handle, while the slice lives.
///
/// # Errors
/// As [`slice`].
pub(super) fn slice_mut<T: Stored>(tensor: &mut Tensor) -> Result<&mut [T], TchError> {
    let len = checked::<T>(tensor)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `slice`; nobody else touches the storage (the contract), and any bits are a number, so that memory
    // that libtorch has not written yet may be seen.
    Ok(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), len) })
}

fn checked<T: Stored>(tensor: &Tensor) -> Result<usize, TchError> {
    if tensor.device() == Device::Cpu && tensor.kind() == T::KIND && tensor.is_contiguous() {
        return Ok(tensor.numel());
    }
    let layout = if tensor.is_contiguous() { "contiguous" } else { "not contiguous" };
    Err(TchError::Kind(format!(
        "a kernel was given a tensor of {:?} on {:?}, {layout}, expected {:?} on the CPU, contiguous",
        tensor.kind(),
        tensor.device(),
        T::KIND
    )))
}

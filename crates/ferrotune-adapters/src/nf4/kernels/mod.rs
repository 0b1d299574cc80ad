//! The CUDA kernels of `ferrotune-nf4` over tensors: where they serve, and what is refused.
//!
//! Where they do not (no NVRTC, no such device, a type or a shape that they lack) libtorch's own operations do the work, see
//! `device.rs`; a line in the log says so once for each device.

mod ffi;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use ferrotune_nf4::{
    BlockSize, Codebook, MOST_ROWS,
    cuda::{Cache, ElementKind, Kernels},
    packed_len,
};
use ferrotune_nn::RowGroups;
use ferrotune_torch::{SharedTensor, cuda};
use tch::{Device, Kind, Tensor};

use super::QuantizedTensor;
use crate::{Error, Result};

/// Weights that kernels take at a time: 16 bytes of 16-bit numbers. Ranges and rows are multiples of it.
const STEP: usize = 8;

/// A device's kernels.
#[derive(Clone, Debug)]
pub(super) struct DeviceKernels {
    kernels: Arc<Kernels>,
    index: usize,
}

/// The kernels of a device; none for the CPU, and where they cannot be had.
///
/// They are compiled or read from the user's cache when a device is first asked for, and serve the whole process: like the
/// libraries that it has loaded they never change.
pub(super) fn of_device(device: Device) -> Option<DeviceKernels> {
    static KNOWN: OnceLock<Mutex<HashMap<usize, Option<DeviceKernels>>>> = OnceLock::new();
    let Device::Cuda(index) = device else { return None };
    let known = KNOWN.get_or_init(Mutex::default);
    // A panic in between leaves the table as it was.
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(index).or_insert_with(|| load(index)).clone()
}

fn load(index: usize) -> Option<DeviceKernels> {
    match Kernels::for_device(index, &cuda::library_folders(), &Cache::of_user()) {
        Ok(kernels) => {
            tracing::debug!("4-bit kernels are ready for cuda:{index}");
            Some(DeviceKernels { kernels: Arc::new(kernels), index })
        }
        Err(error) => {
            tracing::warn!("4-bit weights on cuda:{index} are decoded by libtorch's operations: {error}");
            None
        }
    }
}

/// What kernels call a kind; none for kinds that they lack.
fn element(kind: Kind) -> Option<ElementKind> {
    match kind {
        Kind::Float => Some(ElementKind::F32),
        Kind::Half => Some(ElementKind::F16),
        Kind::BFloat16 => Some(ElementKind::Bf16),
        _ => None,
    }
}

/// Whether the kernels can unpack into `out` from the flat index `start` on.
pub(super) fn unpack_into(start: usize, out: &Tensor) -> bool {
    element(out.kind()).is_some() && start.is_multiple_of(STEP) && ffi::is_aligned(out)
}

/// Whether the kernels can multiply `x` with a matrix of this many columns.
pub(super) fn multiply(columns: usize, x: &Tensor) -> bool {
    element(x.kind()).is_some()
        && columns.is_multiple_of(STEP)
        && (1..=MOST_ROWS * columns).contains(&x.numel())
}

impl DeviceKernels {
    /// Writes the weights from the flat index `start` on into `out`, for which [`unpack_into`] holds.
    pub(super) fn dequantize_into(
        &self,
        tensor: &QuantizedTensor,
        start: usize,
        out: &mut Tensor,
    ) -> Result<()> {
        let Some(kind) = element(out.kind()) else { return Err(unsupported(out)) };
        ffi::dequantize(&self.kernels, self.index, tensor, kind, start, out)
    }

    /// `x Wᵀ`, `[.., in]` to `[.., out]`, for an `x` for which [`multiply`] holds.
    pub(super) fn product(&self, tensor: &QuantizedTensor, x: &Tensor) -> Result<Tensor> {
        let Some(kind) = element(x.kind()) else { return Err(unsupported(x)) };
        let x = aligned(&x.f_contiguous()?)?;
        let mut shape = x.size();
        if let Some(last) = shape.last_mut() {
            *last = tensor.shape()[0];
        }
        let mut y = Tensor::f_empty(&shape, (x.kind(), x.device()))?;
        ffi::product(&self.kernels, self.index, tensor, kind, &x, &mut y)?;
        Ok(y)
    }

    /// Codes and scales of a tensor on this device, the scales in 32 bits. Waits for the device.
    ///
    /// # Errors
    /// [`Error::Format`] with the flat index of the first weight that is not finite.
    pub(super) fn quantize(
        &self,
        weight: &Tensor,
        codebook: Codebook,
        block_size: BlockSize,
    ) -> Result<(SharedTensor, Tensor)> {
        let Some(kind) = element(weight.kind()) else { return Err(unsupported(weight)) };
        let weight = aligned(&weight.f_contiguous()?)?;
        let (len, device) = (weight.numel(), weight.device());
        let mut codes = Tensor::f_empty([packed_len(len) as i64], (Kind::Uint8, device))?;
        let mut absmax = Tensor::f_empty([block_size.blocks(len) as i64], (Kind::Float, device))?;
        let mut bad = Tensor::f_full([1], i64::MAX, (Kind::Int64, device))?;
        ffi::quantize(
            &self.kernels,
            self.index,
            codebook,
            block_size,
            kind,
            &weight,
            &mut codes,
            &mut absmax,
            &mut bad,
        )?;
        let bad = bad.f_int64_value(&[0])?;
        if bad != i64::MAX {
            let value = weight.f_view([-1])?.f_double_value(&[bad])? as f32;
            let index = bad as usize;
            return Err(ferrotune_nf4::Error::NotFinite { what: "weight", index, value }.into());
        }
        Ok((codes.into(), absmax))
    }
}

fn unsupported(tensor: &Tensor) -> Error {
    tch::TchError::Kind(format!("a CUDA kernel was given a tensor of {:?}", tensor.kind())).into()
}

/// The tensor, or a copy of it where it does not begin as kernels need it.
fn aligned(tensor: &Tensor) -> Result<Tensor> {
    if ffi::is_aligned(tensor) {
        return Ok(tensor.shallow_clone());
    }
    let mut copy = tensor.f_empty_like()?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}

/// What unpacks those of a site's experts that have rows, without asking the device how many they have.
#[derive(Debug)]
pub(super) struct ExpertKernels {
    kernels: DeviceKernels,
    codebook: Codebook,
    /// Descriptions of the matrices, by expert and part.
    matrices: SharedTensor, // u8
    experts: usize,
    parts: usize,
    /// Weights of the longest matrix.
    longest: usize,
    /// Weights of all.
    weights: usize,
}

impl ExpertKernels {
    /// For these experts, whose parts lie one below the other; none off CUDA, or where they cannot be unpacked in one go.
    ///
    /// The tensors must stay where they are while this is in use.
    pub(super) fn new(experts: &[Vec<QuantizedTensor>]) -> Result<Option<Self>> {
        let Some(first) = experts.first().and_then(|parts| parts.first()) else { return Ok(None) };
        let Some(kernels) = of_device(first.device()) else { return Ok(None) };
        let (codebook, parts) = (first.quantization().codebook, experts[0].len());
        let alike = |tensor: &QuantizedTensor| {
            tensor.quantization().codebook == codebook
                && tensor.device() == first.device()
                && tensor.numel().is_multiple_of(STEP)
        };
        if !experts.iter().all(|expert| expert.len() == parts && expert.iter().all(alike)) {
            return Ok(None);
        }
        let (mut bytes, mut place) = (Vec::new(), 0);
        for tensor in experts.iter().flatten() {
            bytes.extend(ffi::described(tensor, place)?);
            place += tensor.numel();
        }
        let matrices = Tensor::f_from_slice(&bytes)?.f_to_device(first.device())?.into();
        let longest = experts.iter().flatten().map(QuantizedTensor::numel).max().unwrap_or(0);
        Ok(Some(Self { kernels, codebook, matrices, experts: experts.len(), parts, longest, weights: place }))
    }

    /// Unpacks the experts that have rows into their places in `dense`, `[experts, out, in]`; the others' are left as they are.
    pub(super) fn dequantize_into(&self, groups: &RowGroups, dense: &mut Tensor) -> Result<()> {
        let Some(kind) = element(dense.kind()) else { return Err(unsupported(dense)) };
        ffi::dequantize_experts(self, kind, groups.ends(), dense)
    }
}

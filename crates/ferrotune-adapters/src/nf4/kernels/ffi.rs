//! Tensors as addresses, for the kernels of `ferrotune-nf4`: each function checks what its kernel's contract asks.
//!
//! A launch returns at once. Memory of libtorch's that is given back meanwhile is handed out again for the same stream only,
//! and what is put on a stream later runs later; so a tensor may be dropped once its kernel is launched on its stream.
#![allow(unsafe_code, reason = "memory of another library; this is one of the two kinds of module that may")]

use ferrotune_nf4::{
    BlockSize, Codebook, NESTED_BLOCK_SIZE,
    cuda::{DevicePacked, DeviceScales, ElementKind, ExpertMatrix, Kernels, Stream},
    packed_len,
};
use ferrotune_torch::cuda;
use tch::{Device, Kind, TchError, Tensor};

use super::{super::BlockScales, ExpertKernels, QuantizedTensor};
use crate::Result;

/// Bytes that a tensor must begin at a multiple of.
const ALIGNMENT: usize = 16;

/// Whether kernels can read and write the tensor 16 bytes at a time.
pub(super) fn is_aligned(tensor: &Tensor) -> bool {
    tensor.data_ptr().addr().is_multiple_of(ALIGNMENT)
}

fn stream(index: usize) -> Result<Stream> {
    Ok(Stream(cuda::current_stream(index)?))
}

fn kind_of(element: ElementKind) -> Kind {
    match element {
        ElementKind::F32 => Kind::Float,
        ElementKind::F16 => Kind::Half,
        ElementKind::Bf16 => Kind::BFloat16,
    }
}

/// The address of a contiguous tensor of at least `len` numbers of `kind` on this device.
fn address(tensor: &Tensor, index: usize, kind: Kind, len: usize) -> Result<u64> {
    let found = (tensor.device(), tensor.kind(), tensor.is_contiguous());
    if found == (Device::Cuda(index), kind, true) && tensor.numel() >= len {
        return Ok(tensor.data_ptr().expose_provenance() as u64);
    }
    Err(TchError::Kind(format!(
        "a CUDA kernel was given {} numbers, {found:?} (device, kind, contiguous), expected {len}, {:?}",
        tensor.numel(),
        (Device::Cuda(index), kind, true)
    ))
    .into())
}

/// A quantized tensor by addresses; they hold while the tensor does.
fn packed(tensor: &QuantizedTensor, index: usize) -> Result<DevicePacked> {
    let (settings, len) = (tensor.quantization(), tensor.numel());
    let blocks = settings.block_size.blocks(len);
    let scales = match tensor.scales() {
        BlockScales::Plain(absmax) => {
            DeviceScales::Plain { absmax: address(absmax, index, Kind::Float, blocks)? }
        }
        BlockScales::Nested { codes, absmax, offset } => DeviceScales::Nested {
            codes: address(codes, index, Kind::Uint8, blocks)?,
            absmax: address(absmax, index, Kind::Float, blocks.div_ceil(NESTED_BLOCK_SIZE))?,
            offset: *offset,
        },
    };
    let codes = address(tensor.codes(), index, Kind::Uint8, packed_len(len))?;
    Ok(DevicePacked { codebook: settings.codebook, block_size: settings.block_size, len, codes, scales })
}

pub(super) fn dequantize(
    kernels: &Kernels,
    index: usize,
    tensor: &QuantizedTensor,
    kind: ElementKind,
    start: usize,
    out: &mut Tensor,
) -> Result<()> {
    let (packed, count) = (packed(tensor, index)?, out.numel());
    let to = address(out, index, kind_of(kind), count)?;
    // SAFETY: `packed` and `address` found all buffers on this device, of these kinds and at least as long; `out` is borrowed
    // mutably, and libtorch puts what follows on the same stream.
    Ok(unsafe { kernels.dequantize(stream(index)?, &packed, kind, start, count, to) }?)
}

pub(super) fn product(
    kernels: &Kernels,
    index: usize,
    tensor: &QuantizedTensor,
    kind: ElementKind,
    x: &Tensor,
    y: &mut Tensor,
) -> Result<()> {
    let (rows, columns) = (tensor.shape()[0] as usize, tensor.shape()[1] as usize);
    let batch = x.numel() / columns.max(1);
    let packed = packed(tensor, index)?;
    let from = address(x, index, kind_of(kind), batch * columns)?;
    let to = address(y, index, kind_of(kind), batch * rows)?;
    // SAFETY: as in `dequantize`, with `x` and `y` of the lengths that the product reads and writes.
    Ok(unsafe { kernels.product(stream(index)?, &packed, kind, rows, columns, batch, from, to) }?)
}

#[expect(clippy::too_many_arguments, reason = "a kernel's parameters")]
pub(super) fn quantize(
    kernels: &Kernels,
    index: usize,
    codebook: Codebook,
    block_size: BlockSize,
    kind: ElementKind,
    weight: &Tensor,
    codes: &mut Tensor,
    absmax: &mut Tensor,
    first_bad: &mut Tensor,
) -> Result<()> {
    let len = weight.numel();
    let from = address(weight, index, kind_of(kind), len)?;
    let to = address(codes, index, Kind::Uint8, packed_len(len))?;
    let scales = address(absmax, index, Kind::Float, block_size.blocks(len))?;
    let bad = address(first_bad, index, Kind::Int64, 1)?;
    // SAFETY: as in `dequantize`; all three results are borrowed mutably. A signed number that is not negative has the bits of
    // the unsigned one.
    let launched =
        unsafe { kernels.quantize(stream(index)?, codebook, block_size, kind, len, from, to, scales, bad) };
    Ok(launched?)
}

/// How a kernel reads a matrix that goes to the weight `place` of the output.
pub(super) fn described(tensor: &QuantizedTensor, place: usize) -> Result<[u8; ExpertMatrix::SIZE]> {
    let Device::Cuda(index) = tensor.device() else {
        return Err(TchError::Kind("experts are described to a kernel on CUDA only".to_owned()).into());
    };
    Ok(ExpertMatrix { packed: packed(tensor, index)?, place }.bytes()?)
}

pub(super) fn dequantize_experts(
    experts: &ExpertKernels,
    kind: ElementKind,
    ends: &Tensor,
    dense: &mut Tensor,
) -> Result<()> {
    let (kernels, index) = (&experts.kernels.kernels, experts.kernels.index);
    let matrices = experts.experts * experts.parts;
    let described = address(&experts.matrices, index, Kind::Uint8, matrices * ExpertMatrix::SIZE)?;
    let ends = address(ends, index, Kind::Int, experts.experts)?;
    let to = address(dense, index, kind_of(kind), experts.weights)?;
    // SAFETY: as in `dequantize`; the descriptions were made by `described` from tensors that their owner keeps beside
    // them, and their places end at `weights`.
    let launched = unsafe {
        kernels.dequantize_experts(
            stream(index)?,
            experts.codebook,
            kind,
            experts.experts,
            experts.parts,
            experts.longest,
            ends,
            described,
            to,
        )
    };
    Ok(launched?)
}

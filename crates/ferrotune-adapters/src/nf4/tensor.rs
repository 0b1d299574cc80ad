//! A tensor in four bits, wherever its bytes are.

use std::ops::Range;

use ferrotune_nf4::{BlockSize, Codebook, NESTED_BLOCK_SIZE, Packed, Scales, packed_len};
use ferrotune_torch::SharedTensor;
use half::{bf16, f16};
use tch::{Device, Kind, Tensor};

use super::{
    cpu::{THREADS, cpu},
    device::{self, Tables},
    ffi::{self, Number},
    kernels::{self, DeviceKernels},
};
use crate::{Error, Result};

/// How weights are put into four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// The sixteen numbers that a code can stand for.
    pub codebook: Codebook,
    /// How many weights share a scale.
    pub block_size: BlockSize,
    /// Whether the scales are kept in eight bits themselves.
    pub double_quantization: bool,
}

impl Default for Quantization {
    /// NF4 in blocks of 64 with double quantization: 4.127 bits a weight. What QLoRA (arXiv:2305.14314) trains over.
    fn default() -> Self {
        Self { codebook: Codebook::Nf4, block_size: BlockSize::default(), double_quantization: true }
    }
}

impl Quantization {
    /// The bytes that a tensor of this many weights takes, scales included.
    #[must_use]
    pub fn bytes(&self, weights: u64) -> u64 {
        packed_len(weights as usize) as u64 + self.scale_bytes(weights)
    }

    /// The bytes of its scales alone.
    #[must_use]
    pub fn scale_bytes(&self, weights: u64) -> u64 {
        let blocks = self.block_size.blocks(weights as usize) as u64;
        if self.double_quantization {
            blocks + (blocks.div_ceil(NESTED_BLOCK_SIZE as u64) + 1) * size_of::<f32>() as u64
        } else {
            blocks * size_of::<f32>() as u64
        }
    }
}

/// The scales of a [`QuantizedTensor`], one for each block.
#[derive(Clone, Debug)]
pub enum BlockScales {
    /// In 32 bits.
    Plain(SharedTensor), // f32 [blocks]
    /// In eight bits: `absmax[i] = map[codes[i]] * absmax[i / 256] + offset`.
    Nested {
        /// One code for each block.
        codes: SharedTensor, // u8 [blocks]
        /// One scale for each 256 blocks.
        absmax: SharedTensor, // f32 [blocks / 256, rounded up]
        /// The mean of the scales.
        offset: f32,
    },
}

/// A frozen tensor of 4-bit codes and block scales, flattened row by row as bitsandbytes' files have it.
///
/// Always valid: lengths fit the shape and scales are finite, which every constructor checks. `docs/nf4.md` specifies
/// the bytes.
#[derive(Clone, Debug)]
pub struct QuantizedTensor {
    shape: Vec<i64>,
    /// What it was quantized from.
    kind: Kind,
    codebook: Codebook,
    block_size: BlockSize,
    codes: SharedTensor, // u8 [weights / 2, rounded up]
    scales: BlockScales,
    /// The maps, where the bytes are not on the CPU.
    tables: Option<Tables>,
}

impl QuantizedTensor {
    /// Quantizes a tensor of floating-point numbers of any shape where it lies, if that is a device with kernels, and on the host
    /// otherwise; the result is there too, and its bytes are the same.
    ///
    /// Numbers of 32 and 16 bits are read as they are. Runs on libtorch's threads, or waits for the device.
    ///
    /// # Errors
    /// [`Error::Format`] with the flat index of the first NaN or infinite weight.
    pub fn quantize(weight: &Tensor, settings: &Quantization) -> Result<Self> {
        let weight = weight.f_detach()?;
        if let Some(kernels) = kernels::of_device(weight.device()) {
            return Self::quantize_there(&kernels, &weight, settings);
        }
        let weight = weight.f_to_device(Device::Cpu)?.f_contiguous()?;
        let (weight, kind) = match weight.kind() {
            kind @ (Kind::Float | Kind::Half | Kind::BFloat16) => (weight, kind),
            _ => (weight.f_to_kind(Kind::Float)?, Kind::Float),
        };
        let (codes, absmax) = match kind {
            Kind::Half => codes_and_scales::<f16>(&weight, settings)?,
            Kind::BFloat16 => codes_and_scales::<bf16>(&weight, settings)?,
            _ => codes_and_scales::<f32>(&weight, settings)?,
        };
        let scales = if settings.double_quantization { nested(&absmax)? } else { BlockScales::Plain(absmax) };
        let Quantization { codebook, block_size, .. } = *settings;
        Self::from_parts(weight.size(), kind, codebook, block_size, codes, scales)
    }

    /// The same by a device's kernels. Scales are quantized on the host: they are few, and the order in which their mean is summed is
    /// part of the format.
    fn quantize_there(kernels: &DeviceKernels, weight: &Tensor, settings: &Quantization) -> Result<Self> {
        let (weight, kind) = match weight.kind() {
            kind @ (Kind::Float | Kind::Half | Kind::BFloat16) => (weight.shallow_clone(), kind),
            _ => (weight.f_to_kind(Kind::Float)?, Kind::Float),
        };
        let Quantization { codebook, block_size, double_quantization } = *settings;
        let (codes, absmax) = kernels.quantize(&weight, codebook, block_size)?;
        let scales = if double_quantization {
            nested(&absmax.f_to_device(Device::Cpu)?)?
        } else {
            BlockScales::Plain(absmax.into())
        };
        let tensor = Self { shape: weight.size(), kind, codebook, block_size, codes, scales, tables: None };
        tensor.to_device(weight.device())
    }

    /// A tensor of `shape` from its bytes on the CPU. `kind` is the type that it was quantized from.
    ///
    /// # Errors
    /// [`Error::Format`] for lengths that do not fit the shape and for scales that are not finite, [`Error::Tensor`] for
    /// tensors of another type.
    pub fn from_parts(
        shape: Vec<i64>,
        kind: Kind,
        codebook: Codebook,
        block_size: BlockSize,
        codes: SharedTensor,
        scales: BlockScales,
    ) -> Result<Self> {
        let tensor = Self { shape, kind, codebook, block_size, codes, scales, tables: None };
        tensor.packed()?;
        Ok(tensor)
    }

    /// The shape of the weights.
    #[must_use]
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// The number of weights.
    #[must_use]
    pub fn numel(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// The type that it was quantized from: 32 or 16 bits.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How it is quantized.
    #[must_use]
    pub fn quantization(&self) -> Quantization {
        Quantization {
            codebook: self.codebook,
            block_size: self.block_size,
            double_quantization: matches!(self.scales, BlockScales::Nested { .. }),
        }
    }

    /// The codes, two to a byte: u8 `[weights / 2, rounded up]`.
    #[must_use]
    pub fn codes(&self) -> &SharedTensor {
        &self.codes
    }

    /// The scales.
    #[must_use]
    pub fn scales(&self) -> &BlockScales {
        &self.scales
    }

    /// Where its bytes are.
    #[must_use]
    pub fn device(&self) -> Device {
        self.codes.device()
    }

    /// The kernels of the device where its bytes are.
    pub(super) fn kernels(&self) -> Option<&DeviceKernels> {
        self.tables.as_ref().and_then(Tables::kernels)
    }

    /// The bytes of codes and scales.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.quantization().bytes(self.numel() as u64)
    }

    /// The same tensor with its bytes on `device`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn to_device(&self, device: Device) -> Result<Self> {
        let there = |tensor: &Tensor| Ok::<_, Error>(SharedTensor::from(tensor.f_to_device(device)?));
        let scales = match &self.scales {
            BlockScales::Plain(absmax) => BlockScales::Plain(there(absmax)?),
            BlockScales::Nested { codes, absmax, offset } => {
                BlockScales::Nested { codes: there(codes)?, absmax: there(absmax)?, offset: *offset }
            }
        };
        let tables = (device != Device::Cpu).then(|| Tables::new(self.codebook, device)).transpose()?;
        Ok(Self { codes: there(&self.codes)?, scales, tables, ..self.clone() })
    }

    /// The weights as a dense tensor of `kind`, rounded from 32 bits.
    ///
    /// # Errors
    /// libtorch's.
    pub fn dequantize(&self, kind: Kind) -> Result<Tensor> {
        let mut dense = Tensor::f_empty(&self.shape, (kind, self.device()))?;
        self.dequantize_into(0, &mut dense)?;
        Ok(dense)
    }

    /// Rows of a matrix `[out, in]` as a dense tensor `[range, in]` of `kind`.
    ///
    /// # Errors
    /// [`Error::Format`] for rows that it does not have.
    pub fn rows(&self, range: Range<i64>, kind: Kind) -> Result<Tensor> {
        let columns = self.shape.last().copied().unwrap_or(1);
        let mut dense = Tensor::f_empty([range.end - range.start, columns], (kind, self.device()))?;
        self.dequantize_into((range.start * columns) as usize, &mut dense)?;
        Ok(dense)
    }

    /// Writes weights from the flat index `start` on into `out`, which is contiguous, on this tensor's device, and of no
    /// one else's concern meanwhile.
    pub(super) fn dequantize_into(&self, start: usize, out: &mut Tensor) -> Result<()> {
        let end = start.saturating_add(out.numel());
        if end > self.numel() {
            return Err(ferrotune_nf4::Error::Range { start, end, len: self.numel() }.into());
        }
        if let Some(tables) = &self.tables {
            return device::dequantize_into(self, tables, start, out);
        }
        let packed = self.packed()?;
        match out.kind() {
            Kind::Float => packed.dequantize_range(cpu(), start, ffi::slice_mut::<f32>(out)?)?,
            Kind::Half => packed.dequantize_range(cpu(), start, ffi::slice_mut::<f16>(out)?)?,
            Kind::BFloat16 => packed.dequantize_range(cpu(), start, ffi::slice_mut::<bf16>(out)?)?,
            _ => {
                let mut single = Tensor::f_empty(out.size(), (Kind::Float, Device::Cpu))?;
                packed.dequantize_range(cpu(), start, ffi::slice_mut::<f32>(&mut single)?)?;
                out.f_copy_(&single)?;
            }
        }
        Ok(())
    }

    /// The checked view that the kernels of the CPU take.
    pub(super) fn packed(&self) -> Result<Packed<'_>> {
        let scales = match &self.scales {
            BlockScales::Plain(absmax) => Scales::Plain(ffi::slice(absmax)?),
            BlockScales::Nested { codes, absmax, offset } => {
                Scales::Nested { codes: ffi::slice(codes)?, absmax: ffi::slice(absmax)?, offset: *offset }
            }
        };
        let (len, codes) = (self.numel(), ffi::slice(&self.codes)?);
        Ok(Packed::new(self.codebook, self.block_size, len, codes, scales)?)
    }
}

/// Codes and one scale for each block, in 32 bits.
fn codes_and_scales<T: Number>(
    weight: &Tensor,
    settings: &Quantization,
) -> Result<(SharedTensor, SharedTensor)> {
    let Quantization { codebook, block_size, .. } = *settings;
    let weight = ffi::slice::<T>(weight)?;
    let mut codes = empty(packed_len(weight.len()), Kind::Uint8)?;
    let mut absmax = empty(block_size.blocks(weight.len()), Kind::Float)?;
    let (packed, scales) = (ffi::slice_mut(&mut codes)?, ffi::slice_mut(&mut absmax)?);
    ferrotune_nf4::quantize(cpu(), codebook, block_size, weight, packed, scales)?;
    Ok((codes.into(), absmax.into()))
}

/// Scales in eight bits.
fn nested(scales: &Tensor) -> Result<BlockScales> {
    let blocks = scales.numel();
    let mut codes = empty(blocks, Kind::Uint8)?;
    let mut absmax = empty(blocks.div_ceil(NESTED_BLOCK_SIZE), Kind::Float)?;
    let offset = ferrotune_nf4::quantize_scales(
        THREADS,
        ffi::slice(scales)?,
        ffi::slice_mut(&mut codes)?,
        ffi::slice_mut(&mut absmax)?,
    )?;
    Ok(BlockScales::Nested { codes: codes.into(), absmax: absmax.into(), offset })
}

fn empty(len: usize, kind: Kind) -> Result<Tensor> {
    Ok(Tensor::f_empty([len as i64], (kind, Device::Cpu))?)
}

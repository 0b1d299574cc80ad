//! Dequantizing on a device other than the CPU: by its kernels, or with libtorch's own operations, which run on any.
//!
//! Either way values equal those of the CPU's kernels bit for bit: the same products and sums in 32 bits, each rounded once.

use ferrotune_nf4::{Codebook, DYNAMIC_MAP, NESTED_BLOCK_SIZE};
use ferrotune_torch::SharedTensor;
use tch::{Device, Kind, Tensor};

use super::{
    BlockScales, QuantizedTensor,
    kernels::{self, DeviceKernels},
};
use crate::Result;

/// Weights at a time: each takes 12 bytes of temporary tensors.
const PIECE: usize = 1 << 22;

/// What decodes on a device: its kernels if there are any, and the numbers that codes stand for.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    kernels: Option<DeviceKernels>,
    weights: SharedTensor, // f32 [16]
    scales: SharedTensor,  // f32 [256]
}

impl Tables {
    pub(super) fn new(codebook: Codebook, device: Device) -> Result<Self> {
        let there =
            |map: &[f32]| Ok::<_, crate::Error>(Tensor::f_from_slice(map)?.f_to_device(device)?.into());
        let kernels = kernels::of_device(device);
        Ok(Self { kernels, weights: there(codebook.table())?, scales: there(&DYNAMIC_MAP)? })
    }

    /// The device's kernels.
    pub(super) fn kernels(&self) -> Option<&DeviceKernels> {
        self.kernels.as_ref()
    }
}

/// Writes the weights of `tensor` from the flat index `start` on into `out`, contiguous and on the same device.
pub(super) fn dequantize_into(
    tensor: &QuantizedTensor,
    tables: &Tables,
    start: usize,
    out: &mut Tensor,
) -> Result<()> {
    match tables.kernels() {
        Some(kernels) if kernels::unpack_into(start, out) => kernels.dequantize_into(tensor, start, out),
        _ => by_operations(tensor, tables, start, out),
    }
}

/// The same with libtorch's operations.
fn by_operations(tensor: &QuantizedTensor, tables: &Tables, start: usize, out: &mut Tensor) -> Result<()> {
    let flat = out.f_view([-1])?;
    let end = start + out.numel();
    for from in (start..end).step_by(PIECE) {
        let to = (from + PIECE).min(end);
        let weights = piece(tensor, tables, from, to)?;
        flat.f_narrow(0, (from - start) as i64, (to - from) as i64)?.f_copy_(&weights)?;
    }
    Ok(())
}

/// The weights `from..to` in 32 bits.
fn piece(tensor: &QuantizedTensor, tables: &Tables, from: usize, to: usize) -> Result<Tensor> {
    let byte = from / 2;
    let bytes = tensor.codes().f_narrow(0, byte as i64, (to.div_ceil(2) - byte) as i64)?;
    let high = bytes.f_bitwise_right_shift_tensor_scalar(4)?;
    let low = bytes.f_bitwise_and(15)?;
    let codes = Tensor::f_stack(&[high, low], 1)?.f_view([-1])?.f_to_kind(Kind::Int)?;
    let weights = tables.weights.f_index_select(0, &codes)?;
    let weights = weights.f_narrow(0, (from - 2 * byte) as i64, (to - from) as i64)?;

    let size = tensor.quantization().block_size.get();
    let block = from / size;
    let scales = scales(tensor, tables, block, to.div_ceil(size))?;
    let scales = scales.f_repeat_interleave_self_int(size as i64, 0, None)?;
    let scales = scales.f_narrow(0, (from - block * size) as i64, (to - from) as i64)?;
    Ok(weights.f_mul(&scales)?)
}

/// The scales of the blocks `from..to` in 32 bits.
fn scales(tensor: &QuantizedTensor, tables: &Tables, from: usize, to: usize) -> Result<Tensor> {
    let (start, length) = (from as i64, (to - from) as i64);
    match tensor.scales() {
        BlockScales::Plain(absmax) => Ok(absmax.f_narrow(0, start, length)?),
        BlockScales::Nested { codes, absmax, offset } => {
            let codes = codes.f_narrow(0, start, length)?.f_to_kind(Kind::Int)?;
            let places = Tensor::f_arange_start(start, start + length, (Kind::Int64, codes.device()))?
                .f_floor_divide_scalar(NESTED_BLOCK_SIZE as i64)?;
            let absmax = absmax.f_index_select(0, &places)?;
            let scaled = tables.scales.f_index_select(0, &codes)?.f_mul(&absmax)?;
            Ok(scaled.f_add_scalar(f64::from(*offset))?)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not there")]
mod tests {
    use super::*;
    use crate::nf4::Quantization;

    #[test]
    fn libtorch_and_the_kernels_decode_to_the_same_bits() {
        let weight = Tensor::f_arange(7001, (Kind::Float, Device::Cpu)).unwrap().sin() * 3.0; // odd
        for codebook in [Codebook::Nf4, Codebook::Fp4] {
            for double_quantization in [false, true] {
                let settings = Quantization { codebook, double_quantization, ..Quantization::default() };
                let tensor = QuantizedTensor::quantize(&weight, &settings).unwrap();
                let tables = Tables::new(codebook, Device::Cpu).unwrap();
                // Whole, from the middle of a byte, of a block, within a block, the odd end, nothing.
                for (start, len) in [(0, 7001), (1, 4000), (100, 6901), (65, 3), (7000, 1), (7001, 0)] {
                    for kind in [Kind::Float, Kind::BFloat16] {
                        let mut found = Tensor::f_empty([len], (kind, Device::Cpu)).unwrap();
                        let mut expected = found.f_empty_like().unwrap();
                        dequantize_into(&tensor, &tables, start, &mut found).unwrap();
                        tensor.dequantize_into(start, &mut expected).unwrap();
                        assert!(found.equal(&expected), "{settings:?} {start} {len} {kind:?}");
                    }
                }
            }
        }
    }
}

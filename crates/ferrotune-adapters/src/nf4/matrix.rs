//! A frozen matrix in four bits.

use std::ops::Range;

use ferrotune_nf4::{MOST_ROWS, PackedMatrix, Scratch};
use ferrotune_nn::{Dims, Matrix, Result as ModelResult};
use half::{bf16, f16};
use tch::{Device, Kind, Tensor, no_grad};

use super::{
    QuantizedTensor,
    cpu::cpu,
    ffi::{self, Number},
    kernels,
    workspace::Workspace,
};
use crate::Result;

/// A matrix `[out, in]` in four bits. What a backward pass keeps of it is a handle on its packed bytes.
#[derive(Debug)]
pub(super) struct QuantizedMatrix {
    pub(super) tensor: QuantizedTensor,
    /// The type of the model's weights.
    pub(super) kind: Kind,
    pub(super) workspace: Workspace,
    /// Module path, for messages.
    pub(super) path: String,
}

impl QuantizedMatrix {
    fn apply(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut memory = self.workspace.lock();
        if takes_packed_product(&self.tensor, x) {
            return match bias {
                None => packed_product(&self.tensor, x, &mut memory.scratch),
                // In 32 bits, so that the sum is rounded once.
                Some(bias) => {
                    let x32 = x.f_to_kind(Kind::Float)?;
                    let product = packed_product(&self.tensor, &x32, &mut memory.scratch)?;
                    Ok(product.f_add(bias)?.f_to_kind(x.kind())?)
                }
            };
        }
        let mut dense =
            self.workspace.dense(&mut memory, self.dims().shape(), x.kind(), self.tensor.device())?;
        self.tensor.dequantize_into(0, &mut dense)?;
        Ok(x.f_linear(&dense, bias)?)
    }

    fn apply_transposed(&self, g: &Tensor) -> Result<Tensor> {
        let mut memory = self.workspace.lock();
        let mut dense =
            self.workspace.dense(&mut memory, self.dims().shape(), g.kind(), self.tensor.device())?;
        self.tensor.dequantize_into(0, &mut dense)?;
        Ok(g.f_matmul(&dense)?)
    }
}

impl Matrix for QuantizedMatrix {
    fn dims(&self) -> Dims {
        Dims::new(self.tensor.shape()[0], self.tensor.shape()[1])
    }

    fn product(&self, x: &Tensor, bias: Option<&Tensor>) -> ModelResult<Tensor> {
        // libtorch must not save the shared buffer for a backward pass of its own.
        no_grad(|| self.apply(x, bias)).map_err(|error| error.at(&self.path))
    }

    fn product_transposed(&self, g: &Tensor) -> ModelResult<Tensor> {
        no_grad(|| self.apply_transposed(g)).map_err(|error| error.at(&self.path))
    }

    fn rows(&self, range: Range<i64>) -> ModelResult<Tensor> {
        self.tensor.rows(range, self.kind).map_err(|error| error.at(&self.path))
    }
}

/// Whether the rows of `x` are few enough for a product straight from packed bytes.
pub(super) fn takes_packed_product(tensor: &QuantizedTensor, x: &Tensor) -> bool {
    let columns = tensor.shape()[1].max(1) as usize;
    if tensor.kernels().is_some() {
        return kernels::multiply(columns, x);
    }
    tensor.device() == Device::Cpu
        && matches!(x.kind(), Kind::Float | Kind::Half | Kind::BFloat16)
        && (1..=MOST_ROWS * columns).contains(&x.numel())
}

/// `x Wᵀ` from packed bytes, `[.., in]` to `[.., out]`.
pub(super) fn packed_product(tensor: &QuantizedTensor, x: &Tensor, scratch: &mut Scratch) -> Result<Tensor> {
    if let Some(kernels) = tensor.kernels() {
        return kernels.product(tensor, x);
    }
    match x.kind() {
        Kind::Half => product_of::<f16>(tensor, x, scratch),
        Kind::BFloat16 => product_of::<bf16>(tensor, x, scratch),
        _ => product_of::<f32>(tensor, x, scratch),
    }
}

fn product_of<T: Number>(tensor: &QuantizedTensor, x: &Tensor, scratch: &mut Scratch) -> Result<Tensor> {
    let (rows, columns) = (tensor.shape()[0], tensor.shape()[1]);
    let matrix = PackedMatrix::new(tensor.packed()?, rows as usize, columns as usize)?;
    let mut shape = x.size();
    if let Some(last) = shape.last_mut() {
        *last = rows;
    }
    let x = x.f_contiguous()?;
    let mut output = Tensor::f_empty(&shape, (T::KIND, Device::Cpu))?;
    let batch = x.numel() / columns as usize;
    matrix.product(cpu(), batch, ffi::slice::<T>(&x)?, ffi::slice_mut(&mut output)?, scratch)?;
    Ok(output)
}

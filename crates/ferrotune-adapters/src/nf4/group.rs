//! The frozen matrices of all experts of a site in four bits.

use ferrotune_nn::{GroupedMatrix, Result as ModelResult, RowGroups};
use tch::{Kind, Tensor, no_grad};

use super::{
    QuantizedTensor,
    matrix::{packed_product, takes_packed_product},
    workspace::{Memory, Workspace},
};
use crate::{Error, Result};

/// Every part of every expert in four bits, each by itself, as files hold them. Only experts with rows are decoded, one
/// after the other into the shared buffer.
#[derive(Debug)]
pub(super) struct QuantizedGroup {
    /// By expert, then by part in output order.
    pub(super) experts: Vec<Vec<QuantizedTensor>>,
    pub(super) in_features: i64,
    pub(super) out_features: i64,
    /// The type of the model's weights.
    pub(super) kind: Kind,
    pub(super) workspace: Workspace,
    /// Module path, for messages.
    pub(super) path: String,
}

impl QuantizedGroup {
    /// One expert's parts one below the other, `[out, in]`, in the shared buffer.
    fn dense(&self, expert: i64, kind: Kind, memory: &mut Memory) -> Result<Tensor> {
        let parts = &self.experts[expert as usize];
        let shape = [self.out_features, self.in_features];
        let dense = self.workspace.dense(memory, shape, kind, parts[0].device())?;
        self.decode(expert, &dense)?;
        Ok(dense)
    }

    fn decode(&self, expert: i64, dense: &Tensor) -> Result<()> {
        let mut start = 0;
        for part in &self.experts[expert as usize] {
            let rows = part.shape()[0];
            part.dequantize_into(0, &mut dense.f_narrow(0, start, rows)?)?;
            start += rows;
        }
        Ok(())
    }

    fn apply(&self, x: &Tensor, groups: &RowGroups) -> Result<Tensor> {
        let x = x.f_contiguous()?;
        let output = x.f_new_empty([x.size()[0], self.out_features], (x.kind(), x.device()))?;
        let mut memory = self.workspace.lock();
        for_each_occupied(groups, |expert, start, length| {
            let x = x.f_narrow(0, start, length)?;
            let y = output.f_narrow(0, start, length)?;
            let parts = &self.experts[expert as usize];
            if takes_packed_product(&parts[0], &x) {
                let mut column = 0;
                for part in parts {
                    let product = packed_product(part, &x, &mut memory.scratch)?; // [length, width]
                    let width = product.size()[1];
                    y.f_narrow(1, column, width)?.f_copy_(&product)?;
                    column += width;
                }
            } else {
                let dense = self.dense(expert, x.kind(), &mut memory)?;
                let _ = x.f_matmul_out(&y, &dense.f_tr()?)?;
            }
            Ok(())
        })?;
        Ok(output)
    }

    fn apply_transposed(&self, g: &Tensor, groups: &RowGroups) -> Result<Tensor> {
        let output = g.f_new_empty([g.size()[0], self.in_features], (g.kind(), g.device()))?;
        let mut memory = self.workspace.lock();
        for_each_occupied(groups, |expert, start, length| {
            let dense = self.dense(expert, g.kind(), &mut memory)?;
            let _ =
                g.f_narrow(0, start, length)?.f_matmul_out(&output.f_narrow(0, start, length)?, &dense)?;
            Ok(())
        })?;
        Ok(output)
    }
}

impl GroupedMatrix for QuantizedGroup {
    fn product(&self, x: &Tensor, groups: &RowGroups) -> ModelResult<Tensor> {
        // libtorch must not save the shared buffer for a backward pass of its own.
        no_grad(|| self.apply(x, groups)).map_err(|error| error.at(&self.path))
    }

    fn product_transposed(&self, g: &Tensor, groups: &RowGroups) -> ModelResult<Tensor> {
        no_grad(|| self.apply_transposed(g, groups)).map_err(|error| error.at(&self.path))
    }

    fn expert(&self, expert: i64) -> ModelResult<Tensor> {
        let decoded = || {
            let device = self.experts[expert as usize][0].device();
            let dense = Tensor::f_empty([self.out_features, self.in_features], (self.kind, device))?;
            self.decode(expert, &dense)?;
            Ok(dense)
        };
        decoded().map_err(|error: Error| error.at(&self.path))
    }
}

/// [`RowGroups::for_each_occupied`] with this crate's errors.
fn for_each_occupied(groups: &RowGroups, mut each: impl FnMut(i64, i64, i64) -> Result<()>) -> Result<()> {
    let mut problem = None;
    groups.for_each_occupied(|expert, start, length| {
        if problem.is_none() {
            problem = each(expert, start, length).err();
        }
        Ok(())
    })?;
    problem.map_or(Ok(()), Err)
}

//! The frozen matrices of all experts of a site in four bits.

use ferrotune_nf4::MOST_ROWS;
use ferrotune_nn::{GroupedMatrix, Result as ModelResult, RowGroups};
use tch::{Kind, Tensor, no_grad};

use super::{
    QuantizedTensor,
    kernels::ExpertKernels,
    matrix::{packed_product, takes_packed_product},
    workspace::{Memory, Workspace},
};
use crate::{Error, Result};

/// Every part of every expert in four bits, each by itself, as files hold them. Only experts with rows are decoded, one
/// after the other into the shared buffer; or, by CUDA kernels, at once for a grouped product, so that the host need not wait to
/// learn which they are.
#[derive(Debug)]
pub(super) struct QuantizedGroup {
    /// By expert, then by part in output order.
    pub(super) experts: Vec<Vec<QuantizedTensor>>,
    /// What decodes all of them at once.
    pub(super) kernels: Option<ExpertKernels>,
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

    /// What decodes all experts at once, where that and libtorch's grouped product serve for these rows.
    fn at_once(&self, rows: &Tensor) -> Option<&ExpertKernels> {
        let kernels = self.kernels.as_ref()?;
        // The product wants bf16 and rows of whole 16 bytes. A few rows are multiplied straight from packed bytes.
        let fits = rows.kind() == Kind::BFloat16
            && (self.in_features % 8, self.out_features % 8) == (0, 0)
            && rows.size()[0] > MOST_ROWS as i64;
        fits.then_some(kernels)
    }

    /// The experts that have rows, `[experts, out, in]`, in the shared buffer; the others hold anything.
    fn occupied(
        &self,
        kernels: &ExpertKernels,
        groups: &RowGroups,
        kind: Kind,
        memory: &mut Memory,
    ) -> Result<Tensor> {
        let experts = self.experts.len() as i64;
        let shape = [experts * self.out_features, self.in_features];
        let dense = self.workspace.dense(memory, shape, kind, self.experts[0][0].device())?;
        let mut dense = dense.f_view([experts, self.out_features, self.in_features])?;
        kernels.dequantize_into(groups, &mut dense)?;
        Ok(dense)
    }

    fn apply(&self, x: &Tensor, groups: &RowGroups) -> Result<Tensor> {
        let x = x.f_contiguous()?;
        if let Some(kernels) = self.at_once(&x) {
            let mut memory = self.workspace.lock();
            let dense = self.occupied(kernels, groups, x.kind(), &mut memory)?;
            return grouped(&x, &dense, groups);
        }
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
        if let Some(kernels) = self.at_once(g) {
            let mut memory = self.workspace.lock();
            let dense = self.occupied(kernels, groups, g.kind(), &mut memory)?;
            return grouped_transposed(&g.f_contiguous()?, &dense, groups);
        }
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

/// `x Wᵀ` for each expert's rows and matrix: `[rows, in]` and `[experts, out, in]` to `[rows, out]`. Matrices without rows are not
/// read.
fn grouped(x: &Tensor, dense: &Tensor, groups: &RowGroups) -> Result<Tensor> {
    let dense = dense.f_transpose(1, 2)?; // [experts, in, out]
    Ok(x.f_internal_grouped_mm(&dense, Some(groups.ends()), None, None)?)
}

/// `g W` for each expert's rows and matrix: `[rows, out]` and `[experts, out, in]` to `[rows, in]`.
fn grouped_transposed(g: &Tensor, dense: &Tensor, groups: &RowGroups) -> Result<Tensor> {
    Ok(g.f_internal_grouped_mm(dense, Some(groups.ends()), None, None)?)
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not there")]
mod tests {
    use tch::Device;

    use super::*;

    /// bf16 keeps 8 bits; both sides sum in 32.
    const TOLERANCE: f64 = 1.0 / 256.0;

    #[test]
    fn grouped_products_are_those_of_each_experts_rows_and_ignore_experts_without() {
        const COUNTS: [i64; 4] = [3, 0, 17, 5];
        let (experts, rows, out, width) = (4, 25, 24, 16);
        let wave = |shape: &[i64], step: f64| {
            let count = shape.iter().product::<i64>();
            let flat = Tensor::f_arange(count, (Kind::Float, Device::Cpu)).unwrap();
            (flat * step).sin().reshape(shape).to_kind(Kind::BFloat16)
        };
        let dense = wave(&[experts, out, width], 0.7);
        let _ = dense.select(0, 1).fill_(f64::NAN);
        let groups = RowGroups::from_counts(&Tensor::from_slice(&COUNTS)).unwrap();
        for transposed in [false, true] {
            let x = wave(&[rows, if transposed { out } else { width }], 0.3);
            let product = if transposed { grouped_transposed } else { grouped };
            let found = product(&x, &dense, &groups).unwrap().to_kind(Kind::Double);
            let mut start = 0;
            for (expert, &count) in COUNTS.iter().enumerate() {
                let weight = dense.select(0, expert as i64).to_kind(Kind::Double);
                let weight = if transposed { weight } else { weight.tr() };
                let expected = x.narrow(0, start, count).to_kind(Kind::Double).matmul(&weight);
                let found = found.narrow(0, start, count);
                assert!(found.allclose(&expected, TOLERANCE, TOLERANCE, false), "expert {expert}");
                start += count;
            }
        }
    }
}

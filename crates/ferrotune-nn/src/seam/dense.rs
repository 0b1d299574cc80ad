//! Matrices kept as they are stored, in the compute type.

use std::{ops::Range, sync::Arc};

use ferrotune_torch::SharedTensor;
use tch::Tensor;

use super::{Dims, GroupedMatrix, GroupedSite, Matrix, RowGroups, Site, Storage};
use crate::{Result, Weights};

/// The storage that keeps every matrix dense.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dense;

impl Storage for Dense {
    fn matrix(&mut self, site: &Site, at: &Weights<'_>) -> Result<Arc<dyn Matrix>> {
        Ok(Arc::new(DenseMatrix { weight: at.tensor("weight", &site.dims.shape())?.into() }))
    }

    fn grouped_matrix(&mut self, site: &GroupedSite, at: &Weights<'_>) -> Result<Arc<dyn GroupedMatrix>> {
        let stacked =
            Tensor::f_empty([site.experts, site.out_features(), site.in_features], (at.kind(), at.device()))?;
        for expert in 0..site.experts {
            let mut start = 0;
            for part in &site.parts {
                let weight =
                    at.at(expert).at(part.name).tensor("weight", &[part.out_features, site.in_features])?;
                stacked.f_select(0, expert)?.f_narrow(0, start, part.out_features)?.f_copy_(&weight)?;
                start += part.out_features;
            }
        }
        Ok(Arc::new(DenseGroup { weights: stacked.into() }))
    }
}

#[derive(Debug)]
struct DenseMatrix {
    weight: SharedTensor, // [out, in]
}

impl Matrix for DenseMatrix {
    fn dims(&self) -> Dims {
        let shape = self.weight.size();
        Dims::new(shape[0], shape[1])
    }

    fn product(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, bias)?)
    }

    fn product_transposed(&self, g: &Tensor) -> Result<Tensor> {
        Ok(g.f_matmul(&self.weight)?)
    }

    fn rows(&self, range: Range<i64>) -> Result<Tensor> {
        Ok(self.weight.f_narrow(0, range.start, range.end - range.start)?)
    }
}

#[derive(Debug)]
struct DenseGroup {
    weights: SharedTensor, // [experts, out, in]
}

impl GroupedMatrix for DenseGroup {
    fn product(&self, x: &Tensor, groups: &RowGroups) -> Result<Tensor> {
        let output = x.f_new_empty([x.size()[0], self.weights.size()[1]], (x.kind(), x.device()))?;
        groups.for_each_occupied(|expert, start, length| {
            let weight = self.weights.f_select(0, expert)?.f_tr()?; // [in, out]
            let _ =
                x.f_narrow(0, start, length)?.f_matmul_out(&output.f_narrow(0, start, length)?, &weight)?;
            Ok(())
        })?;
        Ok(output)
    }

    fn product_transposed(&self, g: &Tensor, groups: &RowGroups) -> Result<Tensor> {
        let output = g.f_new_empty([g.size()[0], self.weights.size()[2]], (g.kind(), g.device()))?;
        groups.for_each_occupied(|expert, start, length| {
            let weight = self.weights.f_select(0, expert)?; // [out, in]
            let _ =
                g.f_narrow(0, start, length)?.f_matmul_out(&output.f_narrow(0, start, length)?, &weight)?;
            Ok(())
        })?;
        Ok(output)
    }

    fn expert(&self, expert: i64) -> Result<Tensor> {
        Ok(self.weights.f_select(0, expert)?)
    }
}

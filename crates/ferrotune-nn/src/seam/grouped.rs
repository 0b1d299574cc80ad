//! Rows grouped by expert, and the plainest way to apply a projection to each group.

use std::sync::{Arc, OnceLock};

use ferrotune_torch::SharedTensor;
use tch::{Kind, Tensor};

use super::{Grouped, GroupedSite, Pass, Projection, ProjectionBuilder, Site};
use crate::{Dims, Result, Role, Weights};

/// Which rows belong to which expert, for rows sorted by expert. Clones share their contents.
#[derive(Clone, Debug)]
pub struct RowGroups {
    ends: SharedTensor,
    host: Arc<OnceLock<Vec<i64>>>,
}

impl RowGroups {
    /// Groups from the number of rows of each expert, `[experts]` of integers on any device.
    pub fn from_counts(counts: &Tensor) -> Result<Self> {
        let ends = counts.f_cumsum(0, Kind::Int)?;
        Ok(Self { ends: ends.into(), host: Arc::default() })
    }

    /// The row after the last of each expert, `[experts]` of 32-bit integers on the rows' device: what grouped
    /// products take.
    pub fn ends(&self) -> &Tensor {
        &self.ends
    }

    /// The same on the host. The first call waits for the device.
    pub fn host_ends(&self) -> Result<&[i64]> {
        if let Some(ends) = self.host.get() {
            return Ok(ends);
        }
        let ends = Vec::<i64>::try_from(&self.ends.f_to_kind(Kind::Int64)?)?;
        Ok(self.host.get_or_init(|| ends))
    }

    /// Calls `each(expert, start, length)` for every expert that has rows.
    pub fn for_each_occupied(&self, mut each: impl FnMut(i64, i64, i64) -> Result<()>) -> Result<()> {
        let mut start = 0;
        for (expert, &end) in (0..).zip(self.host_ends()?) {
            if end > start {
                each(expert, start, end - start)?;
            }
            start = end;
        }
        Ok(())
    }
}

/// A projection per expert and part, applied to each expert's rows in turn.
#[derive(Debug)]
pub struct LoopedGroup {
    experts: Vec<Vec<Box<dyn Projection>>>,
    out_features: i64,
}

impl LoopedGroup {
    /// Asks `builder` for each expert's projections.
    pub fn build<B: ProjectionBuilder + ?Sized>(
        builder: &mut B,
        site: &GroupedSite,
        at: &Weights<'_>,
    ) -> Result<Self> {
        let part = |builder: &mut B, expert: i64, index: usize| {
            let part = &site.parts[index];
            let site = Site::new(Role::Expert, Dims::new(part.out_features, site.in_features));
            builder.projection(&site, &at.at(expert).at(part.name))
        };
        let experts = (0..site.experts)
            .map(|expert| (0..site.parts.len()).map(|index| part(builder, expert, index)).collect())
            .collect::<Result<_>>()?;
        Ok(Self { experts, out_features: site.out_features() })
    }
}

impl Grouped for LoopedGroup {
    fn forward(&self, x: &Tensor, groups: &RowGroups, pass: &Pass) -> Result<Tensor> {
        let mut outputs = Vec::new();
        groups.for_each_occupied(|expert, start, length| {
            let rows = x.f_narrow(0, start, length)?; // [rows of this expert, in]
            let parts = self.experts[expert as usize]
                .iter()
                .map(|projection| projection.forward(&rows, pass))
                .collect::<Result<Vec<_>>>()?;
            outputs.push(if parts.len() == 1 {
                parts[0].shallow_clone()
            } else {
                Tensor::f_cat(&parts, -1)?
            });
            Ok(())
        })?;
        if outputs.is_empty() {
            return Ok(x.f_new_zeros([0, self.out_features], (x.kind(), x.device()))?);
        }
        Ok(Tensor::f_cat(&outputs, 0)?) // [rows, out]
    }
}

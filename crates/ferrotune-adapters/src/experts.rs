//! Products of low rank on the experts of a sparse block: what is added costs what the routed rows cost.

use std::{ops::Range, sync::Arc};

use ferrotune_nn::{Grouped, GroupedMatrix, Pass, Result, RowGroups, seam::FrozenGroup};
use ferrotune_torch::{BoxError, Forward, Function, SharedTensor, apply};
use tch::{Kind, Tensor};

use crate::{
    dora::{Magnitude, RowScale, Rows},
    factors::{dropped, drops},
};

/// The products added to a run of output columns, one per adapted expert.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) a: SharedTensor, // [adapted experts, rank, in]
    pub(crate) b: SharedTensor, // [adapted experts, width, rank]
    /// Where an expert's factors stand, if it has any.
    pub(crate) slots: Arc<[Option<i64>]>,
    /// The first output column.
    pub(crate) start: i64,
    pub(crate) scaling: f64,
    /// With DoRA, `[adapted experts, width]`.
    pub(crate) magnitude: Option<Magnitude>,
}

impl Stack {
    fn width(&self) -> i64 {
        self.b.size()[1]
    }

    /// The rows of its experts among `groups`.
    fn rows(&self, groups: &RowGroups) -> AdaptedRows {
        AdaptedRows { slots: Arc::clone(&self.slots), groups: groups.clone() }
    }

    fn columns(&self) -> Range<i64> {
        self.start..self.start + self.width()
    }

    /// What `of` makes of the base rows of each adapted expert, stacked.
    pub(crate) fn of_experts(
        slots: &[Option<i64>],
        columns: Range<i64>,
        base: &dyn GroupedMatrix,
        of: impl Fn(i64, &Rows<'_>) -> crate::Result<Tensor>,
    ) -> crate::Result<Tensor> {
        let adapted = (0..).zip(slots).filter_map(|(expert, slot)| Some((expert, (*slot)?)));
        let mut stacked: Vec<(i64, Tensor)> = adapted
            .map(|(expert, slot)| Ok((slot, of(slot, &Rows::of_expert(base, expert, columns.clone())?)?)))
            .collect::<crate::Result<_>>()?;
        stacked.sort_by_key(|(slot, _)| *slot);
        Ok(Tensor::f_stack(&stacked.into_iter().map(|(_, tensor)| tensor).collect::<Vec<_>>(), 0)?)
    }

    /// The base's output in this stack's columns and what is added to it, with the rows' magnitudes where there are
    /// any. `dropped` is what the base makes of an input of which elements were dropped.
    fn onto(
        &self,
        base: &Tensor,
        added: &Tensor,
        dropped: Option<&Tensor>,
        groups: &RowGroups,
        matrix: &dyn GroupedMatrix,
    ) -> Result<Tensor> {
        let Some(magnitude) = &self.magnitude else { return Ok(base.f_add(added)?) }; // in the wider of both types
        let rows = || {
            let times = |slot, rows: &Rows<'_>| rows.times(&self.a.f_select(0, slot)?);
            Self::of_experts(&self.slots, self.columns(), matrix, times)
        };
        let scale =
            magnitude.scale(&self.a, &self.b, self.scaling, rows).map_err(|error| error.at("DoRA"))?; // [slots, width]
        let scaled = |sum: Tensor| -> Result<Tensor> {
            let function = RowScale(self.rows(groups));
            Ok(apply(Arc::new(function), &[&sum, &scale])?.swap_remove(0))
        };
        match dropped {
            None => scaled(base.f_add(added)?),
            Some(dropped) => Ok(scaled(dropped.f_add(added)?)?.f_sub(dropped)?.f_add(base)?),
        }
    }
}

/// Frozen experts with products of low rank added.
#[derive(Debug)]
pub(crate) struct AdaptedGroup {
    pub(crate) base: FrozenGroup,
    pub(crate) stacks: Vec<Stack>,
    /// The columns of each part's output.
    pub(crate) parts: Vec<i64>,
    pub(crate) kind: Kind,
    pub(crate) dropout: f64,
}

impl Grouped for AdaptedGroup {
    fn forward(&self, x: &Tensor, groups: &RowGroups, pass: &Pass) -> Result<Tensor> {
        let output = self.base.forward(x, groups, pass)?; // [rows, out]
        let all = output.size()[1];
        let mut pieces: Vec<Tensor> = if self.stacks.iter().all(|stack| stack.width() == all) {
            vec![output]
        } else {
            output.f_split_with_sizes(&self.parts, 1)?
        };
        for stack in &self.stacks {
            let input = dropped(x, self.kind, self.dropout, pass)?; // every product drops its own elements
            let function = StackProduct { rows: stack.rows(groups), scaling: stack.scaling };
            let added = apply(Arc::new(function), &[&input, &*stack.a, &*stack.b])?.swap_remove(0); // [rows, width]
            // With DoRA the base's part of the sum is of the same dropped input.
            let dropped = if stack.magnitude.is_some() && drops(self.dropout, pass) {
                Some(self.base.forward(&input.f_to_kind(x.kind())?, groups, pass)?)
            } else {
                None
            };
            let (mut start, mut column) = (stack.start, 0);
            for piece in &mut pieces {
                let width = piece.size()[1];
                if column == start && column < stack.start + stack.width() {
                    let added = added.f_narrow(1, start - stack.start, width)?;
                    let dropped = dropped.as_ref().map(|all| all.f_narrow(1, start, width)).transpose()?;
                    *piece = stack.onto(piece, &added, dropped.as_ref(), groups, &**self.base.matrix())?;
                    start += width;
                }
                column += width;
            }
        }
        let joined = if pieces.len() == 1 { pieces.swap_remove(0) } else { cat_columns(&pieces, x.kind())? };
        Ok(joined.f_to_kind(x.kind())?)
    }
}

/// Pieces side by side, each rounded to `kind` first, so that a frozen piece is not widened for its neighbour's sake.
fn cat_columns(pieces: &[Tensor], kind: Kind) -> Result<Tensor> {
    let pieces: Vec<Tensor> = pieces.iter().map(|piece| piece.f_to_kind(kind)).collect::<Result<_, _>>()?;
    Ok(Tensor::f_cat(&pieces, 1)?)
}

/// `s · x_e A_eᵀ B_eᵀ` for the rows of each expert `e`. Written by hand because libtorch's derivative of a slice is a
/// tensor of the size of the whole, once per expert.
#[derive(Debug)]
struct StackProduct {
    rows: AdaptedRows,
    scaling: f64,
}

/// The rows of those experts that have something on them.
#[derive(Clone, Debug)]
pub(crate) struct AdaptedRows {
    /// Where an expert's factors or magnitudes stand; without any its rows stay as they are.
    slots: Arc<[Option<i64>]>,
    groups: RowGroups,
}

impl AdaptedRows {
    /// Calls `each(slot, start, length)` for every expert that has rows and a slot.
    pub(crate) fn for_each(&self, mut each: impl FnMut(i64, i64, i64) -> Result<()>) -> Result<()> {
        self.groups.for_each_occupied(|expert, start, length| match self.slots[expert as usize] {
            Some(slot) => each(slot, start, length),
            None => Ok(()),
        })
    }
}

impl Function for StackProduct {
    fn name(&self) -> &str {
        "products of low rank on experts"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<Forward, BoxError> {
        let [x, a, b] = inputs else { return Err("expected x, A and B".into()) };
        let rows = x.size()[0];
        let options = (x.kind(), x.device());
        let inner = x.f_new_zeros([rows, a.size()[1]], options)?; // [rows, rank]
        let output = x.f_new_zeros([rows, b.size()[1]], options)?; // [rows, width]
        self.rows.for_each(|slot, start, length| {
            let (h, y) = (inner.f_narrow(0, start, length)?, output.f_narrow(0, start, length)?);
            let _ = x.f_narrow(0, start, length)?.f_matmul_out(&h, &a.f_select(0, slot)?.f_tr()?)?;
            let _ = h.f_matmul_out(&y, &b.f_select(0, slot)?.f_tr()?)?;
            Ok(())
        })?;
        let mut output = output;
        let output = output.f_mul_scalar_(self.scaling)?;
        let saved = vec![x.shallow_clone(), a.shallow_clone(), b.shallow_clone(), inner];
        Ok(Forward { outputs: vec![output], saved })
    }

    fn backward(
        &self,
        saved: &[Tensor],
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let [x, a, b, inner] = saved else { return Err("expected what forward saved".into()) };
        let Some(grad) = &grads[0] else { return Ok(vec![None, None, None]) };
        let like = |tensor: &Tensor, needed: bool| needed.then(|| tensor.f_zeros_like()).transpose();
        let (grad_x, grad_a, grad_b) = (like(x, needs[0])?, like(a, needs[1])?, like(b, needs[2])?);
        let grad = grad.f_mul_scalar(self.scaling)?.f_contiguous()?; // [rows, width]
        self.rows.for_each(|slot, start, length| {
            let (x, h) = (x.f_narrow(0, start, length)?, inner.f_narrow(0, start, length)?);
            let g = grad.f_narrow(0, start, length)?;
            if let Some(grad_b) = &grad_b {
                let _ = g.f_tr()?.f_matmul_out(&grad_b.f_select(0, slot)?, &h)?; // [width, rank]
            }
            let grad_inner = g.f_matmul(&b.f_select(0, slot)?)?; // [rows of this expert, rank]
            if let Some(grad_a) = &grad_a {
                let _ = grad_inner.f_tr()?.f_matmul_out(&grad_a.f_select(0, slot)?, &x)?; // [rank, in]
            }
            if let Some(grad_x) = &grad_x {
                let _ =
                    grad_inner.f_matmul_out(&grad_x.f_narrow(0, start, length)?, &a.f_select(0, slot)?)?;
            }
            Ok(())
        })?;
        Ok(vec![grad_x, grad_a, grad_b])
    }
}

//! Flat to per expert: a pair of factors for each matrix out of one for all.

use std::collections::BTreeMap;

use super::{Conversion, Factors, Stacked, leaf, module, parent};
use crate::{
    Error, ExpertLayout, Result,
    factors::Factor,
    files::{self, flat_key, key},
    target::Decision,
};

impl<'a> Conversion<'a> {
    pub(super) fn split_experts(&mut self) -> Result<()> {
        // As a model asks: layer by layer, parameter by parameter.
        let mut layers: Vec<Stacked<'a>> =
            std::mem::take(&mut self.stacked).into_values().flatten().collect();
        layers.sort_by_key(|layer| self.order.iter().position(|name| *name == layer.name));
        let mut taken: BTreeMap<String, Vec<(Stacked<'a>, Factors)>> = BTreeMap::new();
        for layer in layers {
            let Some(scale) = self.rules.parameter(layer.name)? else { continue };
            let first = layer.parts[0][0];
            let experts = layer.parts[0].len() as i64;
            let out = layer.parts.iter().map(|part| part[0].shape[0]).sum();
            if layer.members().any(|spec| self.decisions[module(spec)] != Decision::Frozen) {
                return Err(Error::Layout {
                    path: layer.name.to_owned(),
                    place: self.adapter.place.clone(),
                    problem: "is adapted in both layouts at once, which one file cannot hold in one layout"
                        .to_owned(),
                });
            }
            let a = self.taker.take_flat(layer.name, Factor::A, [experts, scale.rank, first.shape[1]])?;
            let b = self.taker.take_flat(layer.name, Factor::B, [experts, out, scale.rank])?;
            taken.entry(layer.leaf().to_owned()).or_default().push((layer, Factors { a, b }));
        }
        for (leaf_name, layers) in taken {
            let parts = layers[0].0.parts.len() as i64;
            let mut blocks = parts > 1;
            for (layer, factors) in &layers {
                blocks = blocks && is_block_diagonal(layer, factors)?;
            }
            let path = layers[0].0.name;
            let (Some(scale), alpha) = (self.rules.parameter(path)?, self.rules.alpha(path)?) else {
                continue;
            };
            let (rank, alpha) =
                if blocks { (scale.rank / parts, alpha / self.growth(parts)) } else { (scale.rank, alpha) };
            for (layer, factors) in layers {
                self.write_per_expert(&layer, &factors, blocks, rank)?;
                for part in &layer.parts {
                    let name = leaf(module(part[0])).to_owned();
                    if !self.ranks.iter().any(|(other, ..)| *other == name) {
                        self.ranks.push((name, rank, alpha));
                    }
                }
                for depth in 0..=self.adapter.config.target_parameters.len() {
                    for factor in [Factor::A, Factor::B] {
                        self.tensors.remove(&flat_key(parent(layer.name), depth, factor));
                    }
                }
            }
            self.parameters.retain(|name| leaf(name) != leaf_name);
            self.changed = true;
        }
        self.move_routers(ExpertLayout::PerExpert)
    }

    fn write_per_expert(
        &mut self,
        layer: &Stacked<'_>,
        Factors { a, b }: &Factors,
        blocks: bool,
        rank: i64,
    ) -> Result<()> {
        let mut row = 0;
        for (number, part) in (0..).zip(&layer.parts) {
            let height = part[0].shape[0];
            for (expert, spec) in (0..).zip(part) {
                let (mut a, mut b) =
                    (a.f_select(0, expert)?, b.f_select(0, expert)?.f_narrow(0, row, height)?);
                if blocks {
                    a = a.f_narrow(0, number * rank, rank)?;
                    b = b.f_narrow(1, number * rank, rank)?;
                }
                for (factor, tensor) in [(Factor::A, a), (Factor::B, b)] {
                    let name = key(module(spec), files::leaf(factor));
                    self.tensors.insert(name, tensor.f_contiguous()?.f_detach_copy()?);
                }
                self.adapted.insert(module(spec).to_owned());
                self.others.remove(module(spec));
            }
            row += height;
        }
        Ok(())
    }
}

/// Whether B adds to each part by a share of the rank of its own.
fn is_block_diagonal(layer: &Stacked<'_>, Factors { b, .. }: &Factors) -> Result<bool> {
    let (parts, rank) = (layer.parts.len() as i64, b.size()[2]);
    if rank % parts != 0 {
        return Ok(false);
    }
    let (share, mut row) = (rank / parts, 0);
    for (number, part) in (0..).zip(&layer.parts) {
        let height = part[0].shape[0];
        let rows = b.f_narrow(1, row, height)?;
        for (start, length) in [(0, number * share), ((number + 1) * share, rank - (number + 1) * share)] {
            if rows.f_narrow(2, start, length)?.f_count_nonzero(None)?.f_int64_value(&[])? > 0 {
                return Ok(false);
            }
        }
        row += height;
    }
    Ok(true)
}

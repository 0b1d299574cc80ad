//! What stands on the experts of a sparse block.

use std::{collections::BTreeMap, sync::Arc};

use ferrotune_nn::{
    Decay, Dims, Frozen, Gradient, Grouped, GroupedMatrix, GroupedSite, Role, Site, Storage, Weights,
    seam::LoopedGroup,
};
use ferrotune_torch::SharedTensor;
use tch::{Device, Tensor};

use super::{Building, draft::Draft};
use crate::{
    Adaptation, Error, Result,
    adapter::Place,
    dora::{Magnitude, norms},
    experts::{AdaptedGroup, Stack},
    factors::{Factor, fresh},
    files::{self, key},
    init::{Derived, Residual, Taken},
    target::{Decision, Scale, stacked_parameter},
};

/// One part of the experts at a site.
struct PartSite<'a> {
    /// The experts' module.
    at: &'a Weights<'a>,
    name: &'a str,
    experts: i64,
    dims: Dims,
    /// Its first output column.
    start: i64,
    /// The adapted experts, those of one rank and scaling together.
    adapted: Vec<(Scale, Vec<i64>)>,
}

impl Draft {
    pub(super) fn build_group<S: Storage>(
        &mut self,
        base: &mut Frozen<S>,
        site: &GroupedSite,
        at: &Weights<'_>,
    ) -> Result<Box<dyn Grouped>> {
        let stacked = stacked_parameter(at.path(), site.stacked_name);
        let flat = self.rules.parameter(&stacked)?;
        let mut decisions = Vec::new(); // part by part, expert by expert
        for part in &site.parts {
            let decide = |expert| self.rules.module(Role::Expert, at.at(expert).at(part.name).path());
            decisions.push((0..site.experts).map(decide).collect::<Result<Vec<_>>>()?);
        }
        if decisions.iter().flatten().any(|decision| *decision == Decision::Saved) {
            if flat.is_some() {
                return Err(Error::Config {
                    field: "target_parameters".to_owned(),
                    place: "the LoRA configuration".to_owned(),
                    found: stacked,
                    expected: "parameters of which no part is in modules_to_save".to_owned(),
                });
            }
            let mut builder = Building { base, draft: self };
            return Ok(Box::new(LoopedGroup::build(&mut builder, site, at)?));
        }
        let mut start = 0;
        let mut parts = Vec::new();
        for (part, decisions) in site.parts.iter().zip(&decisions) {
            let dims = Dims::new(part.out_features, site.in_features);
            let mut adapted: Vec<(Scale, Vec<i64>)> = Vec::new();
            for (expert, decision) in (0..).zip(decisions) {
                let Decision::Adapted(scale) = *decision else { continue };
                match adapted.iter_mut().find(|(other, _)| *other == scale) {
                    Some((_, experts)) => experts.push(expert),
                    None => adapted.push((scale, vec![expert])),
                }
            }
            parts.push(PartSite { at, name: part.name, experts: site.experts, dims, start, adapted });
            start += part.out_features;
        }
        let residual = Residual::new(at.source(), self.derive_experts(base.storage(), &parts)?);
        let base = base.frozen_group(site, &at.with_source(&residual))?;
        let mut stacks = Vec::new();
        if let Some(scale) = flat {
            stacks.push(self.flat_stack(site, &stacked, scale, at.device())?);
        }
        for part in &parts {
            for (scale, experts) in &part.adapted {
                stacks.push(self.expert_stack(part, *scale, experts, &**base.matrix())?);
            }
        }
        if stacks.is_empty() {
            return Ok(Box::new(base));
        }
        let parts = site.parts.iter().map(|part| part.out_features).collect();
        Ok(Box::new(AdaptedGroup { base, stacks, parts, kind: self.kind, dropout: self.config.lora_dropout }))
    }

    /// What the base loses to factors that begin with a part of it, by the names of weights.
    fn derive_experts<S: Storage>(
        &mut self,
        storage: &S,
        parts: &[PartSite<'_>],
    ) -> Result<BTreeMap<String, Taken>> {
        let mut taken = BTreeMap::new();
        for part in parts {
            for (scale, experts) in &part.adapted {
                for expert in experts {
                    let at = part.at.at(expert).at(part.name);
                    let (site, names) = (Site::new(Role::Expert, part.dims), [at.path().to_owned()]);
                    if let Some(of_expert) = self.derive(storage, &site, *scale, &names, &at)? {
                        taken.insert(format!("{}.weight", at.path()), of_expert);
                    }
                }
            }
        }
        Ok(taken)
    }

    /// Factors of some experts' matrices of one part, each under its own name in the file. The part has several such
    /// stacks where patterns give some experts another rank.
    fn expert_stack(
        &mut self,
        part: &PartSite<'_>,
        scale: Scale,
        experts: &[i64],
        base: &dyn GroupedMatrix,
    ) -> Result<Stack> {
        let PartSite { at, name: part_name, dims, start, .. } = *part;
        let Scale { rank, scaling } = scale;
        let paths: Vec<String> =
            experts.iter().map(|expert| at.at(expert).at(part_name).path().to_owned()).collect();
        for path in &paths {
            self.record(path, Role::Expert, Adaptation::LowRank { rank, scaling });
        }
        let stack_name =
            if part.adapted.len() > 1 { paths[0].clone() } else { at.at(part_name).path().to_owned() };
        // All experts of a storage or none.
        let derived: Vec<Derived> = paths.iter().filter_map(|path| self.take_derived(path)).collect();
        let factor = |this: &mut Self, factor, shape: [i64; 2]| -> Result<SharedTensor> {
            let value = match &mut this.origin {
                _ if !derived.is_empty() => {
                    Tensor::f_stack(&derived.iter().map(|each| each.of(factor)).collect::<Vec<_>>(), 0)?
                }
                None => {
                    let shape = [experts.len() as i64, shape[0], shape[1]];
                    fresh(&this.config.init_lora_weights, factor, &shape, rank)?
                }
                Some(taker) => {
                    let each = paths.iter().map(|path| taker.take(&[key(path, files::leaf(factor))], &shape));
                    Tensor::f_stack(&each.collect::<Result<Vec<_>>>()?, 0)?
                }
            };
            let place = Place::Slices(paths.iter().map(|path| key(path, files::leaf(factor))).collect());
            // Always with a gradient: where no row reaches an expert its slice is zero.
            let name = format!("{stack_name}.{factor}");
            let leaf = this.leaf(name, &value, place, Decay::Applies, Gradient::EveryStep, at.device())?;
            let taken: Vec<_> =
                derived.iter().filter_map(|each| Some(&**each.taken.as_ref()?.of(factor))).collect();
            if !taken.is_empty() {
                this.took(factor, Some(Tensor::f_stack(&taken, 0)?.into()));
            }
            Ok(leaf)
        };
        let a = factor(self, Factor::A, [rank, dims.in_features])?;
        let b = factor(self, Factor::B, [dims.out_features, rank])?;
        let slot = |expert| experts.iter().position(|&other| other == expert).map(|slot| slot as i64);
        let slots: Arc<[Option<i64>]> = (0..part.experts).map(slot).collect();
        let magnitude = if self.config.use_dora {
            let columns = start..start + dims.out_features;
            let squares = Stack::of_experts(&slots, columns.clone(), base, |_, rows| rows.squares())?;
            let value = match &mut self.origin {
                None => norms(&squares, &a, &b, scaling, || {
                    Stack::of_experts(&slots, columns, base, |slot, rows| rows.times(&a.f_select(0, slot)?))
                })?,
                Some(taker) => {
                    let each = paths
                        .iter()
                        .map(|path| taker.take(&[key(path, files::MAGNITUDE)], &[dims.out_features]));
                    Tensor::f_stack(&each.collect::<Result<Vec<_>>>()?, 0)?
                }
            };
            let place = Place::Slices(paths.iter().map(|path| key(path, files::MAGNITUDE)).collect());
            let name = format!("{stack_name}.{}", files::MAGNITUDE);
            let value = self.leaf(name, &value, place, Decay::Exempt, Gradient::EveryStep, at.device())?;
            Some(Magnitude::new(value, squares))
        } else {
            None
        };
        Ok(Stack { a, b, slots, start, scaling, magnitude })
    }

    /// Factors of a stacked parameter: one A for all of an expert's parts.
    fn flat_stack(
        &mut self,
        site: &GroupedSite,
        stacked: &str,
        scale: Scale,
        device: Device,
    ) -> Result<Stack> {
        let Scale { rank, scaling } = scale;
        self.record(stacked, Role::Expert, Adaptation::LowRank { rank, scaling });
        let module = stacked.rsplit_once('.').map_or("", |(module, _)| module).to_owned();
        let counter = self.flat.entry(module.clone()).or_default();
        let index = *counter;
        *counter += 1;
        let factor = |this: &mut Self, factor, shape: [i64; 3]| {
            let value = match &mut this.origin {
                None => fresh(&this.config.init_lora_weights, factor, &shape, rank)?,
                Some(taker) => taker.take_flat(stacked, factor, shape)?,
            };
            let place = Place::Flat { module: module.clone(), index, factor };
            let name = format!("{stacked}.{factor}");
            this.leaf(name, &value, place, Decay::Applies, Gradient::EveryStep, device)
        };
        let a = factor(self, Factor::A, [site.experts, rank, site.in_features])?;
        let b = factor(self, Factor::B, [site.experts, site.out_features(), rank])?;
        let slots = (0..site.experts).map(Some).collect();
        Ok(Stack { a, b, slots, start: 0, scaling, magnitude: None })
    }
}

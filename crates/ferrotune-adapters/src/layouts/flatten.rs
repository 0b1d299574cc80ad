//! Per expert to flat: one pair of factors out of those of all matrices.

use tch::Tensor;

use super::{Conversion, Factors, Stacked, module, parent};
use crate::{
    Error, ExpertLayout, Result,
    factors::Factor,
    files::{self, flat_key, flatten, key},
};

impl Conversion<'_> {
    pub(super) fn flatten_experts(&mut self) -> Result<()> {
        let mut written: Vec<(&str, Factors)> = Vec::new();
        for (leaf_name, mut layers) in std::mem::take(&mut self.stacked) {
            let all = layers.len();
            layers.retain(|layer| self.is_adapted(layer));
            let Some(scale) = self.one_scale(&leaf_name, &layers)? else { continue };
            let mut taken = Vec::new();
            for layer in &layers {
                taken.push(self.take_per_expert(layer, scale.rank)?);
            }
            let parts = layers[0].parts.len() as i64;
            let mut shared = true;
            for part in taken.iter().flat_map(|parts| parts.windows(2)) {
                shared &= part[0].a.f_equal(&part[1].a)?;
            }
            let path = module(layers[0].parts[0][0]);
            let (mut rank, mut alpha) = (scale.rank, self.rules.alpha(path)?);
            if !shared {
                rank *= parts;
                alpha *= self.growth(parts);
            }
            for (layer, parts) in layers.iter().zip(taken) {
                written.push((layer.name, joined(parts, shared)?));
            }
            if layers.len() == all {
                self.parameters.insert(leaf_name.clone());
            } else {
                self.parameters.extend(layers.iter().map(|layer| layer.name.to_owned()));
            }
            self.ranks.push((leaf_name, rank, alpha));
            self.changed = true;
        }
        self.write_flat(written)?;
        self.move_routers(ExpertLayout::Flat)
    }

    /// One layer's factors of each part, taken out of the tensors.
    fn take_per_expert(&mut self, layer: &Stacked<'_>, rank: i64) -> Result<Vec<Factors>> {
        let mut parts = Vec::new();
        for part in &layer.parts {
            let mut stack = |factor: Factor| -> Result<Tensor> {
                let mut each = Vec::new();
                for spec in part {
                    let name = key(module(spec), files::leaf(factor));
                    let shape = match factor {
                        Factor::A => [rank, spec.shape[1]],
                        Factor::B => [spec.shape[0], rank],
                    };
                    each.push(self.taker.take(std::slice::from_ref(&name), &shape)?);
                    self.tensors.remove(&name);
                }
                Ok(Tensor::f_stack(&each, 0)?)
            };
            parts.push(Factors { a: stack(Factor::A)?, b: stack(Factor::B)? });
            for spec in part {
                self.adapted.remove(module(spec));
                self.others.insert(module(spec).to_owned());
            }
        }
        Ok(parts)
    }

    /// PEFT wraps a module once for each parameter, in the model's order, so those wrapped first lie deeper.
    fn write_flat(&mut self, mut written: Vec<(&str, Factors)>) -> Result<()> {
        written.sort_by_key(|(name, _)| self.order.iter().position(|other| other == name));
        let modules: Vec<String> = written.iter().map(|(name, _)| parent(name).to_owned()).collect();
        for (index, (_, Factors { a, b })) in written.iter().enumerate() {
            let module = &modules[index];
            let depth = modules[index + 1..].iter().filter(|other| *other == module).count();
            for (factor, tensor) in [(Factor::A, a), (Factor::B, b)] {
                let name = flat_key(module, depth, factor);
                if self.tensors.contains_key(&name) {
                    return Err(Error::Layout {
                        path: module.clone(),
                        place: self.adapter.place.clone(),
                        problem:
                            "is adapted in both layouts at once, which one file cannot hold in one layout"
                                .to_owned(),
                    });
                }
                self.tensors.insert(name, flatten(tensor, factor)?.f_contiguous()?);
            }
        }
        Ok(())
    }
}

/// The factors of a stacked parameter from those of its parts.
fn joined(parts: Vec<Factors>, shared: bool) -> Result<Factors> {
    let Some(first) = parts.first() else { return Err(tch::TchError::Kind("no parts".to_owned()).into()) };
    let b: Vec<&Tensor> = parts.iter().map(|part| &part.b).collect();
    if shared {
        return Ok(Factors { a: first.a.shallow_clone(), b: Tensor::f_cat(&b, 1)? });
    }
    let a: Vec<&Tensor> = parts.iter().map(|part| &part.a).collect();
    let rank = first.a.size()[1];
    let rows: i64 = b.iter().map(|b| b.size()[1]).sum();
    let shape = [first.a.size()[0], rows, rank * parts.len() as i64];
    let diagonal = Tensor::f_zeros(shape, (first.b.kind(), first.b.device()))?;
    let mut row = 0;
    for (number, b) in (0..).zip(b) {
        let height = b.size()[1];
        diagonal.f_narrow(1, row, height)?.f_narrow(2, number * rank, rank)?.f_copy_(b)?;
        row += height;
    }
    Ok(Factors { a: Tensor::f_cat(&a, 1)?, b: diagonal })
}

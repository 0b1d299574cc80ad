//! Expert adapters from one layout into the other: a pair of factors per matrix, or one pair for all of a stacked parameter.

mod flatten;
mod split;

use std::collections::{BTreeMap, BTreeSet};

use ferrotune_nn::{Role, WeightSpec};
use tch::Tensor;

use crate::{
    AdapterWeights, Error, LoraConfig, Result, TargetModules,
    factors::Factor,
    files::{self, Taker, key},
    target::{Decision, Rules, Scale, alias, pattern_matches},
};

/// How an adapter's file lays out what it adds to experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertLayout {
    /// A pair of factors for each matrix of each expert: `block_sparse_moe.experts.E.w1.lora_A.weight`. What PEFT wrote on
    /// transformers 4, and what most other programs read.
    PerExpert,
    /// One pair for all experts of a stacked parameter: `mlp.experts.lora_A.weight`. What PEFT's `target_parameters` writes
    /// on transformers 5.
    Flat,
}

/// A stacked parameter of all experts of one layer.
#[derive(Clone)]
struct Stacked<'s> {
    /// Its name: `model.layers.3.mlp.experts.gate_up_proj`.
    name: &'s str,
    /// Its matrices, part by part from the top, expert by expert.
    parts: Vec<Vec<&'s WeightSpec>>,
}

impl Stacked<'_> {
    fn leaf(&self) -> &str {
        leaf(self.name)
    }

    fn members(&self) -> impl Iterator<Item = &WeightSpec> {
        self.parts.iter().flatten().copied()
    }
}

/// One layer's factors of a stacked parameter.
struct Factors {
    a: Tensor, // [experts, rank, in]
    b: Tensor, // [experts, out, rank]
}

impl AdapterWeights {
    /// The same adapter with what it adds to experts in another layout; everything else stays as it is. `specs` are the
    /// weights of the model. An adapter that has the layout already comes back the same.
    ///
    /// *Per expert to flat.* A stacked parameter that holds several matrices (`gate_up_proj`: `w1` above `w3`) has one A.
    /// Where all of them have the same A in all experts and layers, as when they come from a flat adapter, it is that one,
    /// and the rank stays. Elsewhere the rank is multiplied by their number: the A's stand one below the other, the B's
    /// in a block-diagonal matrix, alpha grows so that the scaling stays. This is what PEFT makes of such a file when it
    /// loads one. Nothing is rounded.
    ///
    /// *Flat to per expert.* Block-diagonal B's are taken apart into their blocks; others give each matrix the whole A and
    /// its rows of B, at the same rank.
    ///
    /// One that took a part out of its base when it began comes out as a [`plain`](Self::plain) one.
    ///
    /// There and back is the same to the last bit from either side, but for matrices that share their A and whose B's are zero
    /// outside the blocks, as all-zero ones are: these come back at a part of their rank, with the same product.
    ///
    /// # Errors
    /// [`Error::Layout`] for what the other layout cannot say: some of the matrices only, several ranks or scalings, DoRA, a
    /// full copy of an expert; [`Error::MissingTensor`] and [`Error::WrongShape`] for an adapter of another model.
    pub fn with_expert_layout(&self, layout: ExpertLayout, specs: &[WeightSpec]) -> Result<Self> {
        let mut conversion = Conversion::new(self, specs)?;
        match layout {
            ExpertLayout::PerExpert => conversion.split_experts()?,
            ExpertLayout::Flat => conversion.flatten_experts()?,
        }
        conversion.finish()
    }
}

impl LoraConfig {
    /// Why PEFT on transformers 5 would not read an adapter of this configuration as it is meant, with what to do if something
    /// can be done. There PEFT has one layout for experts and turns per-expert files into it as it reads them, without their
    /// patterns of ranks and alphas. Nothing if it reads it. `specs` are the weights of the model.
    ///
    /// # Errors
    /// What [`check`](Self::check) refuses.
    pub fn unread_by_peft(&self, specs: &[WeightSpec]) -> Result<Option<String>> {
        let adapter = AdapterWeights::new(self.plain(false), BTreeMap::new())?;
        let conversion = Conversion::new(&adapter, specs)?;
        let general = Scale { rank: self.r, scaling: self.scaling(self.r, self.lora_alpha) };
        let mut by_pattern = None;
        for (leaf_name, layers) in &conversion.stacked {
            let layers: Vec<_> =
                layers.iter().filter(|layer| conversion.is_adapted(layer)).cloned().collect();
            match conversion.one_scale(leaf_name, &layers) {
                Err(Error::Layout { path, problem, .. }) => return Ok(Some(format!("`{path}` {problem}"))),
                Ok(Some(scale)) if scale != general => by_pattern = by_pattern.or(Some(leaf_name)),
                other => drop(other?),
            }
        }
        Ok(by_pattern.map(|leaf_name| {
            format!(
                "`{leaf_name}` has a rank or an alpha by a pattern, which PEFT passes over in per-expert files; \
                 the example `convert` with `--to flat` writes one in which it does not"
            )
        }))
    }
}

/// An adapter on its way from one layout into the other.
struct Conversion<'a> {
    adapter: &'a AdapterWeights,
    rules: Rules,
    taker: Taker,
    /// All stacked parameters by their last segment, layers in order.
    stacked: BTreeMap<String, Vec<Stacked<'a>>>,
    /// Their names in the order in which a model asks for them.
    order: Vec<&'a str>,
    routers: Vec<&'a WeightSpec>,
    decisions: BTreeMap<&'a str, Decision>,
    tensors: BTreeMap<String, Tensor>,
    /// Modules that are adapted as modules, and those that are not.
    adapted: BTreeSet<String>,
    others: BTreeSet<String>,
    /// Parameters named in `target_parameters`, by their last segments.
    parameters: BTreeSet<String>,
    /// What some of them have instead of the general rank and alpha.
    ranks: Vec<(String, i64, f64)>,
    changed: bool,
}

impl<'a> Conversion<'a> {
    fn new(adapter: &'a AdapterWeights, specs: &'a [WeightSpec]) -> Result<Self> {
        adapter.require_plain()?;
        let mut rules = Rules::new(&adapter.config)?;
        let mut decisions = BTreeMap::new();
        let mut stacked: BTreeMap<String, Vec<Stacked<'a>>> = BTreeMap::new();
        let (mut adapted, mut others) = (BTreeSet::new(), BTreeSet::new());
        let mut order = Vec::new();
        for spec in specs {
            let module = module(spec);
            if let std::collections::btree_map::Entry::Vacant(entry) = decisions.entry(module) {
                let decision = *entry.insert(rules.module(spec.role, module)?);
                let is_adapted = matches!(decision, Decision::Adapted(_));
                if is_adapted { &mut adapted } else { &mut others }.insert(module.to_owned());
            }
            let Some((name, (_, rows))) =
                spec.alias.as_ref().and_then(|a| Some((&a.name, a.slice.as_ref()?)))
            else {
                continue;
            };
            let layers = stacked.entry(leaf(name).to_owned()).or_default();
            let place = layers.iter().position(|layer| layer.name == name).unwrap_or_else(|| {
                order.push(name.as_str());
                layers.push(Stacked { name, parts: Vec::new() });
                layers.len() - 1
            });
            let layer = &mut layers[place];
            let start = |spec: &WeightSpec| {
                spec.alias.as_ref().and_then(|a| a.slice.as_ref()).map(|(_, rows)| rows.start)
            };
            match layer.parts.iter_mut().find(|part| start(part[0]) == Some(rows.start)) {
                Some(part) => part.push(spec),
                None => layer.parts.push(vec![spec]),
            }
        }
        Ok(Self {
            adapter,
            taker: Taker::new(adapter),
            rules,
            stacked,
            order,
            routers: specs.iter().filter(|spec| spec.role == Role::Router).collect(),
            decisions,
            tensors: adapter
                .tensors
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
                .collect(),
            adapted,
            others,
            parameters: adapter.config.target_parameters.iter().cloned().collect(),
            ranks: Vec::new(),
            changed: false,
        })
    }

    /// Whether any matrix of a stacked parameter is touched.
    fn is_adapted(&self, stacked: &Stacked<'_>) -> bool {
        stacked.members().any(|spec| self.decisions[module(spec)] != Decision::Frozen)
    }

    /// The rank and the scaling of all matrices of a stacked parameter in its adapted layers; nothing if there are none.
    fn one_scale(&self, leaf_name: &str, layers: &[Stacked<'_>]) -> Result<Option<Scale>> {
        let mut decisions = layers.iter().flat_map(Stacked::members).map(|spec| self.decisions[module(spec)]);
        let refuse = |problem: &str| {
            Err(Error::Layout {
                path: leaf_name.to_owned(),
                place: self.adapter.place.clone(),
                problem: problem.to_owned(),
            })
        };
        let Some(first) = decisions.next() else { return Ok(None) };
        if self.adapter.config.use_dora {
            return refuse("has magnitudes (DoRA), for which that layout has no place");
        }
        let Decision::Adapted(scale) = first else {
            return refuse("is adapted in some of its matrices only, and that layout adapts all or none");
        };
        if decisions.any(|decision| decision != first) {
            return refuse(
                "has matrices that are not adapted, or of other ranks or scalings, and that layout has one for all",
            );
        }
        Ok(Some(scale))
    }

    /// A router goes with the experts: as a module in the one layout, as a parameter in the other.
    fn move_routers(&mut self, layout: ExpertLayout) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let routers = std::mem::take(&mut self.routers);
        let all = routers.iter().all(|spec| self.adapted.contains(module(spec)));
        for spec in routers {
            let path = module(spec);
            let Some(other) = alias(spec.role, path) else { continue };
            let parameter = format!("{}.weight", if all { leaf(&other) } else { &other });
            let (from, to) = match layout {
                ExpertLayout::Flat if self.adapted.remove(path) => {
                    self.others.insert(path.to_owned());
                    self.parameters.insert(parameter);
                    (path.to_owned(), other)
                }
                ExpertLayout::PerExpert if self.rules.parameter(&format!("{other}.weight"))?.is_some() => {
                    self.others.remove(path);
                    self.adapted.insert(path.to_owned());
                    self.parameters.retain(|name| leaf(parent(name)) != leaf(&other));
                    (other, path.to_owned())
                }
                _ => continue,
            };
            for factor in [Factor::A, Factor::B] {
                if let Some(tensor) = self.tensors.remove(&key(&from, files::leaf(factor))) {
                    self.tensors.insert(key(&to, files::leaf(factor)), tensor);
                }
            }
        }
        Ok(())
    }

    /// What alpha is multiplied by where the rank is, so that the scaling stays.
    fn growth(&self, parts: i64) -> f64 {
        if self.adapter.config.use_rslora { (parts as f64).sqrt() } else { parts as f64 }
    }

    fn finish(mut self) -> Result<AdapterWeights> {
        if !self.changed {
            return Ok(self.adapter.share());
        }
        let old = &self.adapter.config;
        let leaves: BTreeSet<&str> = self.adapted.iter().map(|path| leaf(path)).collect();
        // A name that would also mean a module that is not adapted is written out in full.
        let ambiguous = self.others.iter().any(|path| leaves.contains(leaf(path)));
        let target_modules = if ambiguous {
            TargetModules::list(self.adapted.iter().cloned())
        } else {
            TargetModules::list(leaves)
        };
        let kept = |patterns: Vec<String>| -> Result<BTreeSet<String>> {
            let mut kept = BTreeSet::new();
            for text in patterns {
                let mut met = false;
                for path in self.adapted.iter().chain(&self.parameters) {
                    met |= pattern_matches("rank_pattern", &text, path)?;
                }
                if met {
                    kept.insert(text);
                }
            }
            Ok(kept)
        };
        let ranks = kept(old.rank_pattern.iter().map(|(text, _)| text.clone()).collect())?;
        let alphas = kept(old.alpha_pattern.iter().map(|(text, _)| text.clone()).collect())?;
        let mut config = LoraConfig {
            target_modules,
            target_parameters: self.parameters.iter().cloned().collect(),
            exclude_modules: None,
            layers_to_transform: Vec::new(),
            layers_pattern: Vec::new(),
            rank_pattern: old.rank_pattern.iter().filter(|(text, _)| ranks.contains(text)).cloned().collect(),
            alpha_pattern: old
                .alpha_pattern
                .iter()
                .filter(|(text, _)| alphas.contains(text))
                .cloned()
                .collect(),
            ..old.clone()
        };
        self.ranks.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        for (name, rank, alpha) in self.ranks {
            let pattern = format!(".*\\.{name}");
            if rank != config.r && !ranks.contains(&pattern) {
                config.rank_pattern.push((pattern.clone(), rank));
            }
            if alpha != config.lora_alpha && !alphas.contains(&pattern) {
                config.alpha_pattern.push((pattern, alpha));
            }
        }
        config.check(&self.adapter.place)?;
        let AdapterWeights { base, place, .. } = self.adapter;
        // The other layout's factors have no halves any more.
        let (base, place, began) = (base.clone(), place.clone(), None);
        Ok(AdapterWeights { config, tensors: self.tensors, base, began, place })
    }
}

fn module(spec: &WeightSpec) -> &str {
    parent(&spec.name)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

fn leaf(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

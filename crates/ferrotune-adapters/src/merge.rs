//! Adding an adapter to a checkpoint, one tensor at a time.

use std::collections::{BTreeMap, BTreeSet};

use ferrotune_nn::{
    Role, WeightSource, WeightSpec, checkpoint::CheckpointWriter, decoder::IGNORED_TENSORS, weights::Layouts,
};
use tch::{Kind, Tensor};

use crate::{
    AdapterWeights, Bias, Error, Result,
    dora::scaled,
    factors::{Factor, Factors},
    files::{self, Taker, key},
    target::{Decision, Rules, Scale, alias},
};

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Tensors that something was added to (or subtracted from).
    pub changed: usize,
    /// Tensors that the adapter replaced.
    pub replaced: usize,
    /// Tensors copied as they were.
    pub copied: usize,
}

/// Writes the checkpoint `source` with `adapter` added: `W + s · B A`, with DoRA scaled to its magnitudes, computed in 32
/// bits and rounded once to the stored type. `specs` are the model's weights; the result has their names, so experts come
/// out one matrix each.
///
/// At most one tensor of the base is in memory beside what the writer holds for its shard.
///
/// # Errors
/// [`Error::UnusedTensors`], [`Error::MissingTensor`] and [`Error::WrongShape`] if the adapter was made for another
/// model; [`Error::BiasWithoutBase`]; what reading and writing give.
pub fn merge(
    source: &dyn WeightSource,
    specs: &[WeightSpec],
    adapter: &AdapterWeights,
    writer: &mut CheckpointWriter,
) -> Result<Merged> {
    run(source, specs, adapter, 1.0, writer)
}

/// The inverse of [`merge`], up to the rounding of the stored type.
///
/// # Errors
/// Those of [`merge`], and [`Error::Replaced`] and [`Error::Scaled`] where the adapter replaced a tensor or scaled its
/// rows.
pub fn unmerge(
    source: &dyn WeightSource,
    specs: &[WeightSpec],
    adapter: &AdapterWeights,
    writer: &mut CheckpointWriter,
) -> Result<Merged> {
    run(source, specs, adapter, -1.0, writer)
}

fn run(
    source: &dyn WeightSource,
    specs: &[WeightSpec],
    adapter: &AdapterWeights,
    sign: f64,
    writer: &mut CheckpointWriter,
) -> Result<Merged> {
    let source = Layouts::new(source, specs, IGNORED_TENSORS)?;
    let mut deltas = Deltas::new(specs, adapter)?;
    let mut merged = Merged::default();
    for spec in specs {
        check_shape(&source, spec)?;
        let change = deltas.of(spec)?;
        let stored = source.read(&spec.name)?;
        let (kind, wide) = (stored.kind(), wide(stored.kind()));
        let tensor = match (&change.replaced, &change.added) {
            (None, None) => {
                merged.copied += 1;
                stored
            }
            (Some(_), _) if sign < 0.0 => return Err(Error::Replaced { path: spec.name.clone() }),
            (replaced, added) => {
                merged.replaced += usize::from(replaced.is_some());
                merged.changed += usize::from(replaced.is_none());
                let mut tensor = replaced.as_ref().unwrap_or(&stored).f_to_kind(wide)?;
                if let Some(added) = added {
                    tensor = tensor.f_add(&added.f_to_kind(wide)?.f_mul_scalar(sign)?)?;
                }
                match &change.magnitude {
                    Some(_) if sign < 0.0 => return Err(Error::Scaled { path: spec.name.clone() }),
                    Some(magnitude) => tensor = scaled(&tensor, magnitude)?,
                    None => {}
                }
                tensor.f_to_kind(kind)?
            }
        };
        writer.push(&spec.name, &tensor)?;
    }
    deltas.finish()?;
    Ok(merged)
}

pub(crate) fn check_shape(source: &dyn WeightSource, spec: &WeightSpec) -> Result<()> {
    let place = || source.place();
    match source.shape(&spec.name) {
        Some(found) if found == spec.shape => Ok(()),
        Some(found) => Err(ferrotune_nn::Error::WrongShape {
            name: spec.name.clone(),
            place: place(),
            found,
            expected: spec.shape.clone(),
        }
        .into()),
        None => Err(ferrotune_nn::Error::MissingTensor { name: spec.name.clone(), place: place() }.into()),
    }
}

/// The type in which sums are formed.
fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

/// What an adapter does to one tensor.
#[derive(Default)]
struct Change {
    replaced: Option<Tensor>,
    added: Option<Tensor>,
    /// What the norms of the sum's rows become (DoRA).
    magnitude: Option<Tensor>,
}

/// An adapter's changes, by the weights of a model.
struct Deltas<'a> {
    adapter: &'a AdapterWeights,
    rules: Rules,
    taker: Taker,
    decisions: BTreeMap<String, Decision>,
    stacked: BTreeMap<String, StackedShape>,
    biases: BTreeSet<String>,
}

#[derive(Clone, Copy, Default)]
struct StackedShape {
    experts: i64,
    out_features: i64,
    in_features: i64,
}

impl<'a> Deltas<'a> {
    fn new(specs: &[WeightSpec], adapter: &'a AdapterWeights) -> Result<Self> {
        adapter.require_plain()?;
        let mut stacked: BTreeMap<String, StackedShape> = BTreeMap::new();
        for spec in specs {
            let Some(alias) = &spec.alias else { continue };
            let Some((index, rows)) = &alias.slice else { continue };
            let shape = stacked.entry(alias.name.clone()).or_default();
            shape.experts = shape.experts.max(index + 1);
            shape.out_features = shape.out_features.max(rows.end);
            shape.in_features = spec.shape[1];
        }
        Ok(Self {
            adapter,
            rules: Rules::new(&adapter.config)?,
            taker: Taker::new(adapter),
            decisions: BTreeMap::new(),
            stacked,
            biases: specs
                .iter()
                .filter_map(|spec| spec.name.strip_suffix(".bias"))
                .map(str::to_owned)
                .collect(),
        })
    }

    fn of(&mut self, spec: &WeightSpec) -> Result<Change> {
        let (module, leaf) = spec.name.rsplit_once('.').unwrap_or(("", &spec.name));
        let decision = match self.decisions.get(module) {
            Some(decision) => *decision,
            None => self.rules.module(spec.role, module)?,
        };
        self.decisions.insert(module.to_owned(), decision);
        // The names of a module in files, and of its weight as a parameter, as the builder knows them.
        let alias = alias(spec.role, module);
        let (scale, names): (_, Vec<String>) = match decision {
            Decision::Adapted(scale) => {
                (Some(scale), std::iter::once(module.to_owned()).chain(alias).collect())
            }
            _ => {
                let names: Vec<String> = alias.into_iter().chain([module.to_owned()]).collect();
                let mut scale = None;
                for name in
                    names.iter().filter(|_| !matches!(spec.role, Role::Expert | Role::Embedding | Role::Norm))
                {
                    scale = scale.or(self.rules.parameter(&format!("{name}.weight"))?);
                }
                (scale, names)
            }
        };
        let keys = |leaf: &str| names.iter().map(|name| key(name, leaf)).collect::<Vec<_>>();
        if decision == Decision::Saved {
            return Ok(Change {
                replaced: Some(self.taker.take(&keys(leaf), &spec.shape)?),
                ..Change::default()
            });
        }
        let mut change = Change::default();
        if leaf == "bias" {
            let bias = self.adapter.config.bias;
            if bias == Bias::All || bias == Bias::LoraOnly && scale.is_some() {
                let keys = [keys("base_layer.bias"), keys("bias")].concat();
                change.replaced = Some(self.taker.take(&keys, &spec.shape)?);
            }
            if let (Some(scale), true) = (scale, self.adapter.config.lora_bias) {
                let bias = self.taker.take(&keys("lora_B.bias"), &spec.shape)?;
                change.added = Some(bias.f_to_kind(wide(bias.kind()))?.f_mul_scalar(scale.scaling)?);
            }
            return Ok(change);
        }
        if let Some(scale) = scale {
            if self.adapter.config.lora_bias && !self.biases.contains(module) {
                return Err(Error::BiasWithoutBase { path: module.to_owned() });
            }
            let a = self.taker.take(&keys(files::leaf(Factor::A)), &[scale.rank, spec.shape[1]])?;
            let b = self.taker.take(&keys(files::leaf(Factor::B)), &[spec.shape[0], scale.rank])?;
            change.added = Some(product(&a, &b, scale)?);
            if self.adapter.config.use_dora {
                change.magnitude = Some(self.taker.take(&keys(files::MAGNITUDE), &spec.shape[..1])?);
            }
        }
        if let Some(added) = self.of_stacked(spec)? {
            change.added = Some(match change.added {
                Some(other) => other.f_add(&added)?,
                None => added,
            });
        }
        Ok(change)
    }

    /// What is added to one expert's matrix because the stacked parameter that holds it is targeted.
    fn of_stacked(&mut self, spec: &WeightSpec) -> Result<Option<Tensor>> {
        let Some((name, (expert, rows))) =
            spec.alias.as_ref().and_then(|a| Some((&a.name, a.slice.as_ref()?)))
        else {
            return Ok(None);
        };
        let Some(scale) = self.rules.parameter(name)? else { return Ok(None) };
        let StackedShape { experts, out_features, in_features } = self.stacked[name];
        let a = self.taker.take_flat(name, Factor::A, [experts, scale.rank, in_features])?;
        let b = self.taker.take_flat(name, Factor::B, [experts, out_features, scale.rank])?;
        let b = b.f_select(0, *expert)?.f_narrow(0, rows.start, rows.end - rows.start)?;
        Ok(Some(product(&a.f_select(0, *expert)?, &b, scale)?))
    }

    fn finish(&self) -> Result<()> {
        self.rules.finish(true)?;
        self.taker.finish()
    }
}

fn product(a: &Tensor, b: &Tensor, scale: Scale) -> Result<Tensor> {
    let kind = wide(a.kind());
    let (a, b) = (a.f_to_kind(kind)?.into(), b.f_to_kind(kind)?.into());
    Factors { a, b, bias: None, scaling: scale.scaling }.weight()
}

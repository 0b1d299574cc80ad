//! Adding an adapter to a checkpoint, one tensor at a time.

use std::collections::{BTreeMap, BTreeSet};

use ferrotune_nn::{
    Role, WeightSource, WeightSpec, checkpoint::CheckpointWriter, decoder::IGNORED_TENSORS, weights::Layouts,
};
use tch::{Kind, Tensor};

use crate::{
    AdapterWeights, Bias, Error, Quantization, QuantizedTensor, Result,
    bitsandbytes::{is_quantized, quantize_weight},
    dora::scaled,
    factors::{Factor, Factors},
    files::{self, Taker, key},
    init::{Derived, Taken},
    target::{Decision, Rules, Scale, alias},
};

/// What adapters are added to, and what comes out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MergeOptions {
    /// What the adapters are added to.
    pub base: MergeBase,
    /// The type of the merged weights; nothing for the type in which each is stored, or was before it was quantized.
    pub kind: Option<Kind>,
}

/// What adapters are added to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MergeBase {
    /// The weights as the checkpoint has them; those that it holds in 4 bits, decoded.
    #[default]
    AsStored,
    /// The weights as [`Nf4`](crate::Nf4) with these settings holds them, decoded: what an adapter was trained over in
    /// QLoRA. Those that the checkpoint holds in 4 bits are taken as they are, as that storage takes them. One adapter alone that
    /// took a part out of the base when it began is added to the quantized rest, over which it trained; several, or one that does
    /// not say so, to the quantized weights.
    Quantized(Quantization),
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Tensors that something was added to (or subtracted from).
    pub changed: usize,
    /// Tensors that an adapter replaced.
    pub replaced: usize,
    /// Tensors that no adapter changed.
    pub copied: usize,
    /// Of all of them, those whose base came out of 4 bits.
    pub dequantized: usize,
}

/// Writes the checkpoint `source` with `adapters` added: `W + s · B A`, with DoRA scaled to its magnitudes, computed in 32
/// bits and rounded once. What several adapters change adds up. `specs` are the model's weights; the result has their names,
/// so experts come out one matrix each.
///
/// At most one tensor of the base is in memory.
///
/// # Errors
/// [`Error::UnusedTensors`], [`Error::MissingTensor`] and [`Error::WrongShape`] if an adapter was made for another
/// model; [`Error::BiasWithoutBase`]; [`Error::ReplacedTwice`]; what quantizing, reading and writing give.
pub fn merge(
    source: &dyn WeightSource,
    specs: &[WeightSpec],
    adapters: &[&AdapterWeights],
    options: &MergeOptions,
    writer: &mut CheckpointWriter,
) -> Result<Merged> {
    run(source, specs, adapters, options, 1.0, writer)
}

/// The inverse of [`merge`] of one adapter onto stored weights, up to the rounding of the stored type.
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
    run(source, specs, &[adapter], &MergeOptions::default(), -1.0, writer)
}

fn run(
    source: &dyn WeightSource,
    specs: &[WeightSpec],
    adapters: &[&AdapterWeights],
    options: &MergeOptions,
    sign: f64,
    writer: &mut CheckpointWriter,
) -> Result<Merged> {
    let source = Layouts::new(source, specs, IGNORED_TENSORS)?;
    let mut deltas =
        adapters.iter().map(|adapter| Deltas::new(specs, adapter)).collect::<Result<Vec<_>>>()?;
    let quantizes = matches!(options.base, MergeBase::Quantized(_));
    let over_rest = quantizes && matches!(adapters, [adapter] if adapter.began.is_some());
    let mut merged = Merged::default();
    for spec in specs {
        check_shape(&source, spec)?;
        let over_rest = over_rest && is_quantized(spec) && source.encoded(&spec.name)?.is_none();
        let changes =
            deltas.iter_mut().map(|deltas| deltas.of(spec, over_rest)).collect::<Result<Vec<_>>>()?;
        let changes: Vec<Change> = changes.into_iter().filter(Change::is_some).collect();
        let taken = changes.iter().find_map(|change| change.taken.as_ref());
        let base = Base::read(&source, spec, options.base, taken)?;
        merged.dequantized += usize::from(base.dequantized);
        let replaced = changes.iter().any(|change| change.replaced.is_some());
        merged.replaced += usize::from(replaced);
        merged.changed += usize::from(!replaced && !changes.is_empty());
        merged.copied += usize::from(changes.is_empty());
        let tensor =
            if changes.is_empty() { base.tensor } else { changed(&base.tensor, &changes, sign, spec)? };
        writer.push(&spec.name, &tensor.f_to_kind(options.kind.unwrap_or(base.kind))?)?;
    }
    deltas.iter().try_for_each(Deltas::finish)?;
    Ok(merged)
}

/// A weight that adapters are added to.
struct Base {
    tensor: Tensor,
    /// The type in which it is stored, or was before it was quantized.
    kind: Kind,
    dequantized: bool,
}

impl Base {
    /// Reads it, less what is `taken` out of it before it is quantized.
    fn read(source: &Layouts<'_>, spec: &WeightSpec, base: MergeBase, taken: Option<&Taken>) -> Result<Self> {
        let quantized = match (source.encoded(&spec.name)?, base) {
            (Some(encoded), _) => {
                let quantized =
                    QuantizedTensor::from_encoded(&encoded).map_err(|error| Error::Quantized {
                        name: spec.name.clone(),
                        place: source.place(),
                        source: Box::new(error),
                    })?;
                Some((quantized.kind(), quantized))
            }
            (None, MergeBase::Quantized(settings)) if is_quantized(spec) => {
                let weight = source.read(&spec.name)?;
                let rest = match taken {
                    None => weight.shallow_clone(),
                    Some(taken) => taken.out_of(&weight)?,
                };
                Some((weight.kind(), quantize_weight(spec, || source.place(), &rest, &settings)?))
            }
            _ => None,
        };
        Ok(match quantized {
            // In 32 bits, so that the sum is what is rounded.
            Some((kind, quantized)) => {
                Self { tensor: quantized.dequantize(Kind::Float)?, kind, dequantized: true }
            }
            None => {
                let tensor = source.read(&spec.name)?;
                Self { kind: tensor.kind(), tensor, dequantized: false }
            }
        })
    }
}

/// A tensor with everything that adapters do to it, in the type in which sums are formed.
fn changed(base: &Tensor, changes: &[Change], sign: f64, spec: &WeightSpec) -> Result<Tensor> {
    let wide = wide(base.kind());
    let mut replacements = changes.iter().filter_map(|change| change.replaced.as_ref());
    let (replaced, another) = (replacements.next(), replacements.next());
    if another.is_some() {
        return Err(Error::ReplacedTwice { path: spec.name.clone() });
    }
    if sign < 0.0 && replaced.is_some() {
        return Err(Error::Replaced { path: spec.name.clone() });
    }
    let start = replaced.unwrap_or(base).f_to_kind(wide)?;
    let mut sum = start.shallow_clone();
    for change in changes {
        let added = match &change.added {
            None => None,
            Some(added) => Some(added.f_to_kind(wide)?.f_mul_scalar(sign)?),
        };
        match (&change.magnitude, added) {
            (Some(_), _) if sign < 0.0 => return Err(Error::Scaled { path: spec.name.clone() }),
            (Some(magnitude), Some(added)) => {
                let alone = scaled(&start.f_add(&added)?, magnitude)?;
                sum = if changes.len() == 1 { alone } else { sum.f_add(&alone.f_sub(&start)?)? };
            }
            (_, Some(added)) => sum = sum.f_add(&added)?,
            (_, None) => {}
        }
    }
    Ok(sum)
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
    /// What was taken out of the base for it.
    taken: Option<Taken>,
    /// What the norms of the sum's rows become (DoRA).
    magnitude: Option<Tensor>,
}

impl Change {
    fn is_some(&self) -> bool {
        self.replaced.is_some() || self.added.is_some()
    }
}

/// An adapter's changes, by the weights of a model.
struct Deltas<'a> {
    adapter: &'a AdapterWeights,
    rules: Rules,
    /// Those of the settings with which it began, if it took a part out of its base.
    began: Option<Rules>,
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
            began: adapter.began.as_ref().map(Rules::new).transpose()?,
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

    /// With `over_rest` what trained is told apart from what its base lost.
    fn of(&mut self, spec: &WeightSpec, over_rest: bool) -> Result<Change> {
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
            let rest = match &mut self.began {
                Some(began) if over_rest => began.module(spec.role, module)?,
                _ => Decision::Frozen,
            };
            change.added = Some(match rest {
                Decision::Adapted(scale) => {
                    let Derived { a, b, taken } = Derived::of_halves(&a, &b, scale.scaling)?;
                    change.taken = taken;
                    product(&a, &b, scale)?
                }
                _ => product(&a, &b, scale)?,
            });
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

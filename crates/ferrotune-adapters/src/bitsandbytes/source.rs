//! A folder with 4-bit weights, seen as the dense weights that they stand for.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use ferrotune_nf4::{BlockSize, Codebook, DYNAMIC_MAP, NESTED_BLOCK_SIZE, check_nested_map, packed_len};
use ferrotune_nn::{Encoded, Result as ModelResult, Role, WeightSource, WeightSpec, checkpoint::Checkpoint};
use safetensors::Dtype;
use tch::{Kind, Tensor};

use super::QuantizationConfig;
use crate::{
    Error, Result,
    nf4::{BlockScales, QuantState, QuantizedTensor},
};

/// What stands beside a 4-bit weight, besides its state.
const PARTS: [&str; 4] = ["absmax", "quant_map", "nested_absmax", "nested_quant_map"];

/// How the name of a weight's state goes on behind the weight's.
const STATE: &str = ".quant_state.";

/// The scales of bitsandbytes' 8-bit weights.
const EIGHT_BIT: &str = ".SCB";

/// A checkpoint whose 4-bit tensors show as the weights that they stand for; all others pass through.
///
/// A weight is decoded when it is read, from its own bytes alone; a storage that keeps 4-bit weights takes them as they are
/// stored, through [`encoded`](WeightSource::encoded). Experts that are stacked in one tensor show as one matrix each.
#[derive(Debug)]
pub struct Decoded {
    checkpoint: Checkpoint,
    packed: BTreeMap<String, Packed>,
    views: BTreeMap<String, View>,
    /// What is stored and shown in another way.
    hidden: BTreeSet<String>,
}

/// A stored 4-bit tensor, as its state and the files' headers describe it.
#[derive(Debug)]
struct Packed {
    state: QuantState,
    /// The name of the state's tensor, behind the weight's.
    state_part: String,
    codebook: Codebook,
    block_size: BlockSize,
    kind: Kind,
}

/// A weight inside a stored tensor.
#[derive(Debug)]
struct View {
    stored: String,
    shape: Vec<i64>,
    /// Its first weight.
    start: usize,
}

impl Decoded {
    /// A view of `checkpoint`, whose `config.json` says `config` of its weights; `specs` are the model's.
    ///
    /// Only what the headers and the states say is looked at; maps and scales are checked when a weight is read.
    ///
    /// # Errors
    /// [`Error::Stored`] for a 4-bit tensor that lacks a part, has one of another length or type, is damaged, or is of a part
    /// of the model that must not be quantized; [`Error::Announced`] where `config` and the tensors contradict each other.
    pub fn new(
        checkpoint: Checkpoint,
        config: Option<&QuantizationConfig>,
        specs: &[WeightSpec],
    ) -> Result<Self> {
        let mut decoded =
            Self { checkpoint, packed: BTreeMap::new(), views: BTreeMap::new(), hidden: BTreeSet::new() };
        let names = decoded.checkpoint.names();
        for name in &names {
            if let Some(dot) = name.find(STATE) {
                decoded.add(&name[..dot], &name[dot + 1..])?;
            }
        }
        for name in &names {
            decoded.check_unclaimed(name)?;
        }
        for stored in decoded.packed.keys().cloned().collect::<Vec<_>>() {
            decoded.place_in_model(&stored, specs)?;
        }
        let place = decoded.place();
        match (config, decoded.packed.keys().next()) {
            (None, Some(first)) => Err(Error::Announced {
                place,
                problem: format!("holds 4-bit tensors, among them `{first}`, and has no"),
                remedy: "take the config.json that belongs to these weights",
            }),
            (Some(_), None) => Err(Error::Announced {
                place,
                problem: "holds no 4-bit tensor and has a".to_owned(),
                remedy: "take it out of config.json if the weights are meant to be dense",
            }),
            _ => Ok(decoded),
        }
    }

    /// Whether any weight is stored in 4 bits.
    #[must_use]
    pub fn is_quantized(&self) -> bool {
        !self.packed.is_empty()
    }

    /// Takes in the 4-bit tensor `name`, described by the tensor `{name}.{state_part}`.
    fn add(&mut self, name: &str, state_part: &str) -> Result<()> {
        let wrong = |problem: String| self.wrong(name, problem);
        let state_name = format!("{name}.{state_part}");
        if self.checkpoint.dtype(&state_name) != Some(Dtype::U8) || !QuantState::is_named(state_part) {
            return Err(wrong(format!("has a `{state_part}` that is not one of bitsandbytes' 4-bit types")));
        }
        let state = QuantState::parse(state_part, &self.checkpoint.read(&state_name)?)
            .map_err(|error| wrong(format!("has a damaged state: {error}")))?;
        if !state_part.ends_with(&format!("__{}", state.quant_type)) {
            let found = &state.quant_type;
            return Err(wrong(format!(
                "has the state `{state_part}`, which says that its type is `{found}`"
            )));
        }
        let (Some(codebook), Some(kind)) = (state.codebook(), state.kind()) else {
            let QuantState { quant_type, dtype, .. } = &state;
            return Err(wrong(format!(
                "is of type `{quant_type}` for `{dtype}`, which this format does not have"
            )));
        };
        let block_size =
            BlockSize::new(state.blocksize).map_err(|error| wrong(format!("cannot be decoded: {error}")))?;
        let weights = state.shape.iter().try_fold(1i64, |weights, &size| weights.checked_mul(size));
        if state.shape.is_empty()
            || state.shape.iter().any(|&size| !(1..=i64::from(i32::MAX)).contains(&size))
            || weights.is_none()
        {
            return Err(wrong(format!("says that its shape is {:?}", state.shape)));
        }
        let packed = Packed { state_part: state_part.to_owned(), codebook, block_size, kind, state };
        self.check_parts(name, &packed)?;
        self.hidden.insert(state_name);
        self.hidden.extend(PARTS.iter().map(|part| format!("{name}.{part}")));
        if self.packed.insert(name.to_owned(), packed).is_some() {
            return Err(self.wrong(name, "has two states, and which counts cannot be known".to_owned()));
        }
        Ok(())
    }

    /// Whether the tensors beside a weight are there and as long as its shape asks for.
    fn check_parts(&self, name: &str, packed: &Packed) -> Result<()> {
        let (weights, blocks) = (packed.weights(), packed.block_size.blocks(packed.weights()));
        let nested = packed.nested();
        let scales = if nested { Dtype::U8 } else { Dtype::F32 };
        let mut expected = vec![("absmax", scales, blocks), ("quant_map", Dtype::F32, 16)];
        if nested {
            let problem = match (packed.state.nested_blocksize, packed.state.nested_offset) {
                (Some(NESTED_BLOCK_SIZE), Some(_)) => None,
                (Some(NESTED_BLOCK_SIZE), None) => {
                    Some("has scales in 8 bits and a state without their `nested_offset`".to_owned())
                }
                (None, _) => {
                    Some("has scales in 8 bits and a state without their `nested_blocksize`".to_owned())
                }
                (Some(found), _) => Some(format!(
                    "says that its scales are in blocks of {found} (`nested_blocksize`), expected {NESTED_BLOCK_SIZE}"
                )),
            };
            if let Some(problem) = problem {
                return Err(self.wrong(name, problem));
            }
            expected.push(("nested_absmax", Dtype::F32, blocks.div_ceil(NESTED_BLOCK_SIZE)));
            expected.push(("nested_quant_map", Dtype::F32, 256));
        } else if let Some(part) = PARTS[2..].iter().find(|part| self.has(name, part)) {
            return Err(self.wrong(name, format!("has a `{part}` and a state without `nested_offset`")));
        }
        let (Some(stored), Some(dtype)) = (self.checkpoint.stored_bytes(name), self.checkpoint.dtype(name))
        else {
            return Err(self.wrong(name, format!("is missing, and its `{}` is there", packed.state_part)));
        };
        let bytes = packed_len(weights).next_multiple_of((dtype.bitsize() / 8).max(1)) as u64;
        if stored != bytes {
            let shape = &packed.state.shape;
            return Err(
                self.wrong(name, format!("has {stored} bytes, expected {bytes} for the shape {shape:?}"))
            );
        }
        for (part, dtype, length) in expected {
            let part_name = format!("{name}.{part}");
            let (Some(shape), Some(found)) =
                (self.checkpoint.shape(&part_name), self.checkpoint.dtype(&part_name))
            else {
                return Err(self.wrong(name, format!("has no `{part}` beside it")));
            };
            let entries: i64 = shape.iter().product();
            if found != dtype || entries != length as i64 {
                return Err(self.wrong(
                    name,
                    format!("has beside it a `{part}` of {entries} entries stored as {found:?}, expected {length} as {dtype:?}"),
                ));
            }
        }
        Ok(())
    }

    fn has(&self, name: &str, part: &str) -> bool {
        self.checkpoint.dtype(&format!("{name}.{part}")).is_some()
    }

    /// Refuses what looks like a part of a quantized weight and belongs to none.
    fn check_unclaimed(&self, name: &str) -> Result<()> {
        if let Some(module) = name.strip_suffix(EIGHT_BIT) {
            let problem = "is stored in 8 bits, which are not read; take the model's 16-bit folder";
            return Err(self.wrong(&format!("{module}.weight"), problem.to_owned()));
        }
        let part = PARTS.iter().find_map(|part| name.strip_suffix(part)?.strip_suffix('.'));
        match part {
            Some(weight) if !self.hidden.contains(name) => {
                let problem =
                    "has scales or a map and no `quant_state.bitsandbytes__nf4` or `__fp4` beside it";
                Err(self.wrong(weight, problem.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Finds what a stored tensor is in the model, and by which names it shows.
    fn place_in_model(&mut self, stored: &str, specs: &[WeightSpec]) -> Result<()> {
        let packed = &self.packed[stored];
        let mut views = Vec::new();
        for spec in specs {
            let slice = match &spec.alias {
                _ if spec.name == stored => None,
                Some(alias) if alias.name == stored => alias.slice.as_ref(),
                _ => continue,
            };
            self.check_role(stored, packed, spec.role)?;
            let Some((index, rows)) = slice else { continue };
            let [experts, height, row] = packed.state.shape[..] else {
                return Err(self.wrong(
                    stored,
                    format!("has shape {:?}, expected three dimensions", packed.state.shape),
                ));
            };
            if *index >= experts || rows.end > height || row != spec.shape[1] {
                let (found, expected) = (&packed.state.shape, &spec.shape);
                return Err(self.wrong(
                    stored,
                    format!(
                        "has shape {found:?}, in which `{}` of shape {expected:?} has no place",
                        spec.name
                    ),
                ));
            }
            let start = ((index * height + rows.start) * row) as usize;
            views.push((
                spec.name.clone(),
                View { stored: stored.to_owned(), shape: spec.shape.clone(), start },
            ));
        }
        if views.is_empty() {
            let shape = packed.state.shape.clone();
            views.push((stored.to_owned(), View { stored: stored.to_owned(), shape, start: 0 }));
        } else {
            self.hidden.insert(stored.to_owned());
        }
        self.views.extend(views);
        Ok(())
    }

    fn check_role(&self, stored: &str, packed: &Packed, role: Role) -> Result<()> {
        let (name, place) = (stored.to_owned(), self.place());
        let role = match role {
            Role::Attention | Role::Mlp => return Ok(()),
            Role::Expert => {
                let (columns, block_size) =
                    (packed.state.shape.last().copied().unwrap_or(0), packed.block_size.get());
                return if (columns as usize).is_multiple_of(block_size) {
                    Ok(())
                } else {
                    Err(Error::BlockAcrossRows { name, place, columns, block_size })
                };
            }
            Role::Embedding => "token embedding",
            Role::Norm => "normalization",
            Role::Router => "router",
            Role::Head => "head",
        };
        Err(Error::QuantizedRole { name, place, role })
    }

    fn wrong(&self, name: &str, problem: String) -> Error {
        Error::Stored { name: name.to_owned(), place: self.place(), problem }
    }

    /// What decoding gave, as an error of the source.
    fn undecodable(&self, name: &str, error: Error) -> ferrotune_nn::Error {
        match error {
            Error::Model(error) => error,
            error => {
                let (name, place) = (name.to_owned(), self.place());
                ferrotune_nn::Error::Undecodable { name, place, source: Box::new(error) }
            }
        }
    }

    /// Whether the maps of a stored tensor are its format's.
    fn check_maps(&self, stored: &str, packed: &Packed) -> Result<()> {
        let map = |part: &str| -> Result<Vec<f32>> {
            let tensor = self.checkpoint.read(&format!("{stored}.{part}"))?;
            Ok(Vec::try_from(tensor.f_view([-1])?)?)
        };
        packed.codebook.check_map(&map("quant_map")?)?;
        if packed.nested() {
            check_nested_map(&map("nested_quant_map")?)?;
        }
        Ok(())
    }

    /// The blocks that hold the weights `range` of a stored tensor, and how many weights they have before it.
    fn blocks(&self, stored: &str, range: Range<usize>) -> Result<(QuantizedTensor, usize)> {
        let packed = &self.packed[stored];
        self.check_maps(stored, packed)?;
        let size = packed.block_size.get();
        // Scales in eight bits share scales of their own, so blocks come by 256 of them.
        let step = if packed.nested() { NESTED_BLOCK_SIZE } else { 1 };
        let first = range.start / size / step * step;
        let last = range.end.div_ceil(size);
        let (from, until) = (first * size, (last * size).min(packed.weights()));
        let codes = self.checkpoint.read_bytes(stored, (from / 2) as u64..until.div_ceil(2) as u64)?;
        let absmax = self.part(stored, "absmax", first..last)?.into();
        let scales = if packed.nested() {
            let nested = self.part(stored, "nested_absmax", first / step..last.div_ceil(step))?.into();
            BlockScales::Nested { codes: absmax, absmax: nested, offset: packed.offset() }
        } else {
            BlockScales::Plain(absmax)
        };
        let codes = Tensor::f_from_slice(&codes)?.into();
        let shape = vec![(until - from) as i64, 1];
        let tensor = QuantizedTensor::from_parts(
            shape,
            packed.kind,
            packed.codebook,
            packed.block_size,
            codes,
            scales,
        )?;
        Ok((tensor, range.start - from))
    }

    /// Decodes rows of a weight.
    fn decode(&self, view: &View, rows: Range<i64>) -> Result<Tensor> {
        let mut shape = view.shape.clone();
        let row: i64 = shape[1..].iter().product();
        if rows.start < 0 || rows.start > rows.end || rows.end > shape[0] {
            let found = format!("{rows:?} of `{}` with shape {shape:?}", view.stored);
            let expected = "rows that the tensor has";
            return Err(ferrotune_nn::Error::Argument { argument: "rows", found, expected }.into());
        }
        shape[0] = rows.end - rows.start;
        let (start, length) = (view.start + (rows.start * row) as usize, (shape[0] * row) as usize);
        let (blocks, before) = self.blocks(&view.stored, start..start + length)?;
        let weights = blocks.rows(before as i64..(before + length) as i64, blocks.kind())?;
        Ok(weights.f_view(&shape[..])?)
    }

    /// A weight's bytes as they are stored. Those of a slice keep its weights to the last bit, and its scales too where
    /// 256 of them begin with it; elsewhere its scales come in 32 bits.
    fn stored_form(&self, view: &View) -> Result<Encoded> {
        let packed = &self.packed[&view.stored];
        let length = view.shape.iter().product::<i64>() as usize;
        if length < packed.weights() {
            return self.slice(view, packed, length)?.to_encoded();
        }
        let codes = self.checkpoint.read_bytes(&view.stored, 0..packed_len(length) as u64)?;
        let parts = PARTS.iter().copied().filter(|part| self.has(&view.stored, part));
        let read = |part: &str| -> Result<(String, Tensor)> {
            Ok((part.to_owned(), self.checkpoint.read(&format!("{}.{part}", view.stored))?))
        };
        let beside = parts.chain([packed.state_part.as_str()]).map(read).collect::<Result<_>>()?;
        Ok(Encoded {
            shape: view.shape.clone(),
            codes: Tensor::f_from_slice(&codes)?.f_view([-1, 1])?,
            beside,
        })
    }

    /// A weight inside a stacked tensor as a tensor of its own. It begins and ends where blocks do.
    fn slice(&self, view: &View, packed: &Packed, length: usize) -> Result<QuantizedTensor> {
        let Packed { kind, codebook, block_size, .. } = *packed;
        let size = block_size.get();
        let (first, last) = (view.start / size, (view.start + length) / size);
        let codes = self
            .checkpoint
            .read_bytes(&view.stored, (view.start / 2) as u64..((view.start + length) / 2) as u64)?;
        let absmax = self.part(&view.stored, "absmax", first..last)?;
        self.check_maps(&view.stored, packed)?;
        let scales = if packed.nested() {
            let groups = first / NESTED_BLOCK_SIZE..last.div_ceil(NESTED_BLOCK_SIZE);
            let (nested, offset) = (self.part(&view.stored, "nested_absmax", groups)?, packed.offset());
            if first.is_multiple_of(NESTED_BLOCK_SIZE) {
                BlockScales::Nested { codes: absmax.into(), absmax: nested.into(), offset }
            } else {
                let (codes, nested) = (Vec::<u8>::try_from(absmax)?, Vec::<f32>::try_from(nested)?);
                let before = first % NESTED_BLOCK_SIZE;
                let scale = |(place, code): (usize, &u8)| {
                    // Rounded after the product and after the sum, as everywhere.
                    DYNAMIC_MAP[usize::from(*code)] * nested[(before + place) / NESTED_BLOCK_SIZE] + offset
                };
                let decoded: Vec<f32> = codes.iter().enumerate().map(scale).collect();
                BlockScales::Plain(Tensor::f_from_slice(&decoded)?.into())
            }
        } else {
            BlockScales::Plain(absmax.into())
        };
        let codes = Tensor::f_from_slice(&codes)?.into();
        QuantizedTensor::from_parts(view.shape.clone(), kind, codebook, block_size, codes, scales)
    }

    /// Entries of what stands beside a stored tensor.
    fn part(&self, stored: &str, part: &str, range: Range<usize>) -> Result<Tensor> {
        let rows = range.start as i64..range.end as i64;
        Ok(self.checkpoint.read_rows(&format!("{stored}.{part}"), rows)?.f_view([-1])?)
    }
}

impl Packed {
    fn weights(&self) -> usize {
        self.state.shape.iter().product::<i64>() as usize
    }

    fn nested(&self) -> bool {
        self.state.nested_offset.is_some() || self.state.nested_blocksize.is_some()
    }

    fn offset(&self) -> f32 {
        self.state.nested_offset.unwrap_or_default() as f32
    }
}

impl WeightSource for Decoded {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        match self.views.get(name) {
            Some(view) => Some(view.shape.clone()),
            None if self.hidden.contains(name) => None,
            None => self.checkpoint.shape(name),
        }
    }

    fn read(&self, name: &str) -> ModelResult<Tensor> {
        match self.views.get(name) {
            Some(view) => self.decode(view, 0..view.shape[0]).map_err(|error| self.undecodable(name, error)),
            None => self.checkpoint.read(name),
        }
    }

    fn read_rows(&self, name: &str, rows: Range<i64>) -> ModelResult<Tensor> {
        match self.views.get(name) {
            Some(view) => self.decode(view, rows).map_err(|error| self.undecodable(name, error)),
            None => self.checkpoint.read_rows(name, rows),
        }
    }

    fn encoded(&self, name: &str) -> ModelResult<Option<Encoded>> {
        let Some(view) = self.views.get(name) else { return Ok(None) };
        self.stored_form(view).map(Some).map_err(|error| self.undecodable(name, error))
    }

    fn names(&self) -> Vec<String> {
        let plain = self.checkpoint.names().into_iter().filter(|name| !self.hidden.contains(name));
        plain.chain(self.views.keys().cloned()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn place(&self) -> String {
        self.checkpoint.place()
    }
}

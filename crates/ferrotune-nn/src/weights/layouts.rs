//! What weights a model has, and a view of any source that has them, by whichever names.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    ops::Range,
};

use tch::{Kind, Tensor};

use super::{Encoded, WeightSource};
use crate::{Error, Result, Role, checkpoint::dtype_of};

/// One weight of a model, as pure data: what a checkpoint of this configuration holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSpec {
    /// Its name in the layout that everything reads (for experts: one matrix per expert).
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Where the other known layout keeps it, if there is one.
    pub alias: Option<Alias>,
}

/// A place inside a larger tensor of another layout: `tensor[index, rows]`, or the whole of `tensor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The other layout's name.
    pub name: String,
    /// The index in its first dimension and the rows below that; nothing for the whole tensor under another name.
    pub slice: Option<(i64, Range<i64>)>,
}

/// A view of a source in the layout of a model's [`WeightSpec`]s, whichever of the known layouts the source has.
pub struct Layouts<'s> {
    source: &'s dyn WeightSource,
    aliases: BTreeMap<String, Alias>,
}

impl<'s> Layouts<'s> {
    /// A view of `source` through `specs`.
    ///
    /// # Errors
    /// [`Error::UnexpectedTensors`] if the source has tensors that no spec gives a place to, except those whose name ends
    /// in one of `ignored`; [`Error::TwoValues`] if it holds a weight in both layouts and they differ.
    pub fn new(source: &'s dyn WeightSource, specs: &[WeightSpec], ignored: &[&str]) -> Result<Self> {
        let aliases: BTreeMap<_, _> =
            specs.iter().filter_map(|spec| Some((spec.name.clone(), spec.alias.clone()?))).collect();
        let known: HashSet<&str> = specs
            .iter()
            .flat_map(|spec| [Some(spec.name.as_str()), spec.alias.as_ref().map(|alias| alias.name.as_str())])
            .flatten()
            .collect();
        let unexpected: Vec<_> = source
            .names()
            .into_iter()
            .filter(|name| !known.contains(name.as_str()) && !ignored.iter().any(|last| name.ends_with(last)))
            .collect();
        if let Some(first) = unexpected.first() {
            return Err(Error::UnexpectedTensors {
                place: source.place(),
                count: unexpected.len(),
                first: first.clone(),
            });
        }
        let layouts = Self { source, aliases };
        for (name, alias) in &layouts.aliases {
            let (Some(shape), Some(other)) = (source.shape(name), layouts.alias_shape(alias)) else {
                continue;
            };
            if shape != other || !same_values(&source.read(name)?, &layouts.read_alias(alias)?)? {
                let (first, second) = (name.clone(), alias.name.clone());
                return Err(Error::TwoValues { place: source.place(), first, second });
            }
        }
        Ok(layouts)
    }

    fn alias_shape(&self, Alias { name, slice }: &Alias) -> Option<Vec<i64>> {
        let shape = self.source.shape(name)?;
        match slice {
            None => Some(shape),
            Some((index, rows)) if shape.len() == 3 && *index < shape[0] && rows.end <= shape[1] => {
                Some(vec![rows.end - rows.start, shape[2]])
            }
            // A stacked tensor of the wrong shape: its own shape is what the error should show.
            Some(_) => Some(shape),
        }
    }

    fn read_alias(&self, Alias { name, slice }: &Alias) -> Result<Tensor> {
        Ok(match slice {
            None => self.source.read(name)?,
            Some((index, rows)) => self.source.read_stacked(name, *index, rows.clone())?,
        })
    }

    fn alias(&self, name: &str) -> Option<&Alias> {
        if self.source.shape(name).is_some() { None } else { self.aliases.get(name) }
    }
}

impl WeightSource for Layouts<'_> {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        match self.alias(name) {
            None => self.source.shape(name),
            Some(alias) => self.alias_shape(alias),
        }
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let tensor = match self.alias(name) {
            None => self.source.read(name)?,
            Some(alias) => self.read_alias(alias)?,
        };
        // Whole numbers are a quantized format's codes; read as weights they would be a model of noise.
        if !tensor.is_floating_point() {
            let kind = tensor.kind();
            let found = dtype_of(kind).map_or_else(|| format!("{kind:?}"), |dtype| format!("{dtype:?}"));
            return Err(Error::WrongType { name: name.to_owned(), place: self.place(), found });
        }
        match first_not_finite(&tensor)? {
            None => Ok(tensor),
            Some((index, found)) => {
                Err(Error::NotFinite { name: name.to_owned(), place: self.place(), index, found })
            }
        }
    }

    /// Nothing for a slice of a stacked tensor: its codes are not those of a tensor of its own.
    fn encoded(&self, name: &str) -> Result<Option<Encoded>> {
        match self.alias(name) {
            None => self.source.encoded(name),
            Some(Alias { name, slice: None }) => self.source.encoded(name),
            Some(_) => Ok(None),
        }
    }

    fn names(&self) -> Vec<String> {
        self.source.names()
    }

    fn place(&self) -> String {
        self.source.place()
    }
}

impl fmt::Debug for Layouts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layouts({})", self.source.place())
    }
}

/// The index, counted row by row, and the value of the first entry that is NaN or infinite.
///
/// Looks at some rows at a time, so that it takes next to no memory beside the tensor.
fn first_not_finite(tensor: &Tensor) -> Result<Option<(i64, f64)>> {
    /// Numbers that are looked at together: 256 KiB in 32 bits, which stay in a core's cache.
    const TOGETHER: i64 = 1 << 16;
    let shape = tensor.size();
    let rows = shape.first().copied().unwrap_or(0);
    let row = shape.iter().skip(1).product::<i64>().max(1);
    let step = (TOGETHER / row).max(1);
    let mut start = 0;
    while start < rows {
        let part = tensor.f_narrow(0, start, step.min(rows - start))?;
        // A sum is not finite if an entry is not, and seldom otherwise: one cheap pass over what is sound.
        if !part.f_sum(part.kind())?.f_double_value(&[])?.is_finite() {
            let broken = part.f_isfinite()?.f_logical_not()?.f_flatten(0, -1)?;
            if broken.f_any()?.f_int64_value(&[])? != 0 {
                let index = broken.f_to_kind(Kind::Int)?.f_argmax(0, false)?.f_int64_value(&[])?;
                let found = part.f_flatten(0, -1)?.f_double_value(&[index])?;
                return Ok(Some((start * row + index, found)));
            }
        }
        start += step;
    }
    Ok(None)
}

/// Whether two tensors of one shape have one type and the same numbers.
fn same_values(a: &Tensor, b: &Tensor) -> Result<bool> {
    Ok(a.kind() == b.kind() && a.f_equal(b)?)
}

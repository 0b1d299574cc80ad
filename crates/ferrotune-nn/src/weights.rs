//! Named tensors from somewhere, and a cursor that walks them as a model is built.

use std::{collections::BTreeMap, fmt, ops::Range};

use tch::{Device, Kind, Tensor};

use crate::{Error, Result, Role, checkpoint::dtype_of};

/// A weight as a quantized checkpoint holds it: codes, and what it takes to decode them.
///
/// This crate knows no encoding; a [`Storage`](crate::Storage) that keeps the same one takes the bytes as they are.
#[derive(Debug)]
pub struct Encoded {
    /// The shape of the decoded weight.
    pub shape: Vec<i64>,
    /// What the weight's own name holds, as it is stored.
    pub codes: Tensor,
    /// What is stored beside it, by what follows the weight's name and a dot: `absmax`, `quant_map`.
    pub beside: BTreeMap<String, Tensor>,
}

/// Named tensors; implementors provide all methods that have no default.
///
/// A source that decodes shows decoded weights in [`shape`](Self::shape) and [`read`](Self::read), and leaves out of
/// [`names`](Self::names) what is stored beside them.
pub trait WeightSource: Send + Sync {
    /// The shape of a tensor, or nothing if there is none of that name.
    fn shape(&self, name: &str) -> Option<Vec<i64>>;

    /// A tensor on the CPU in the type in which it is stored, or into which it is decoded.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], and what reading gives.
    fn read(&self, name: &str) -> Result<Tensor>;

    /// A range of a tensor's first dimension. Sources that can read part of a tensor do.
    fn read_rows(&self, name: &str, rows: Range<i64>) -> Result<Tensor> {
        Ok(self.read(name)?.f_narrow(0, rows.start, rows.end - rows.start)?)
    }

    /// Rows of one matrix of a stacked tensor `[matrices, rows, columns]`. Sources that can read part of a tensor do.
    fn read_stacked(&self, name: &str, index: i64, rows: Range<i64>) -> Result<Tensor> {
        let matrix = self.read_rows(name, index..index + 1)?.f_select(0, 0)?;
        Ok(matrix.f_narrow(0, rows.start, rows.end - rows.start)?)
    }

    /// The weight in the encoding in which it is stored, on the CPU; nothing for one that is stored as it is.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for a part that the encoding needs, and what reading gives.
    fn encoded(&self, _name: &str) -> Result<Option<Encoded>> {
        Ok(None)
    }

    /// Every name, sorted.
    fn names(&self) -> Vec<String>;

    /// What messages call this source: `` `/models/llama` ``.
    fn place(&self) -> String;
}

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
        let known: std::collections::HashSet<&str> = specs
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

/// A cheap cursor over a source: `weights.at("model").at("layers").at(3).at("mlp")`.
#[derive(Clone)]
pub struct Weights<'s> {
    source: &'s dyn WeightSource,
    path: String,
    device: Device,
    kind: Kind,
}

impl<'s> Weights<'s> {
    /// A cursor at the root; tensors arrive on `device` in `kind`.
    #[must_use]
    pub fn new(source: &'s dyn WeightSource, device: Device, kind: Kind) -> Self {
        Self { source, path: String::new(), device, kind }
    }

    /// The cursor one segment (or several, with dots) further down.
    #[must_use]
    pub fn at(&self, segment: impl fmt::Display) -> Self {
        let path =
            if self.path.is_empty() { segment.to_string() } else { format!("{}.{segment}", self.path) };
        Self { path, ..self.clone() }
    }

    /// The module path: `model.layers.3.mlp`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where tensors arrive.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// The type in which tensors arrive.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether `{path}.{leaf}` exists.
    #[must_use]
    pub fn contains(&self, leaf: &str) -> bool {
        self.source.shape(&format!("{}.{leaf}", self.path)).is_some()
    }

    /// The tensor `{path}.{leaf}`, on this cursor's device and in its type.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::WrongShape`], and what reading gives.
    pub fn tensor(&self, leaf: &str, shape: &[i64]) -> Result<Tensor> {
        let name = self.checked(leaf, shape)?;
        Ok(self.source.read(&name)?.f_to_device(self.device)?.f_to_kind(self.kind)?)
    }

    /// The tensor `{path}.{leaf}` on the CPU in the type in which it is stored, for what makes something else of it.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn stored(&self, leaf: &str, shape: &[i64]) -> Result<Tensor> {
        let name = self.checked(leaf, shape)?;
        self.source.read(&name)
    }

    /// `{path}.{leaf}` in the encoding in which it is stored; nothing if it is stored as it is.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::WrongShape`] for a decoded weight of another shape, and what reading gives.
    pub fn encoded(&self, leaf: &str, shape: &[i64]) -> Result<Option<Encoded>> {
        let name = self.checked(leaf, shape)?;
        self.source.encoded(&name)
    }

    /// Where tensors come from.
    #[must_use]
    pub fn source(&self) -> &'s dyn WeightSource {
        self.source
    }

    /// The cursor at the same place of another source, such as a view of this one's.
    #[must_use]
    pub fn with_source<'t>(&self, source: &'t dyn WeightSource) -> Weights<'t> {
        Weights { source, path: self.path.clone(), device: self.device, kind: self.kind }
    }

    /// What messages call the source: `` `/models/llama` ``.
    #[must_use]
    pub fn place(&self) -> String {
        self.source.place()
    }

    /// The full name of `{path}.{leaf}`, if it exists and has this shape.
    fn checked(&self, leaf: &str, shape: &[i64]) -> Result<String> {
        let name = format!("{}.{leaf}", self.path);
        let place = || self.source.place();
        match self.source.shape(&name) {
            None => Err(Error::MissingTensor { name, place: place() }),
            Some(found) if found != shape => {
                Err(Error::WrongShape { name, place: place(), found, expected: shape.to_vec() })
            }
            Some(_) => Ok(name),
        }
    }
}

impl fmt::Debug for Weights<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({} of {})", self.path, self.source.place())
    }
}

impl fmt::Debug for Layouts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layouts({})", self.source.place())
    }
}

/// Freshly initialised weights of a configuration: normal with a standard deviation for matrices, ones for norms.
///
/// Values follow libtorch's default generator on the CPU, in the order in which a model asks for them, so seeding it
/// and building the model gives the same weights each time.
#[derive(Clone, Debug)]
pub struct Initialized {
    specs: BTreeMap<String, (Role, Vec<i64>)>,
    standard_deviation: f64,
}

impl Initialized {
    /// Weights for `specs`. Configurations call the standard deviation `initializer_range`; 0.02 is usual.
    #[must_use]
    pub fn new(specs: &[WeightSpec], standard_deviation: f64) -> Self {
        let specs = specs.iter().map(|spec| (spec.name.clone(), (spec.role, spec.shape.clone()))).collect();
        Self { specs, standard_deviation }
    }
}

impl WeightSource for Initialized {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.specs.get(name).map(|(_, shape)| shape.clone())
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let Some((role, shape)) = self.specs.get(name) else {
            return Err(Error::MissingTensor { name: name.to_owned(), place: self.place() });
        };
        let options = (Kind::Float, Device::Cpu);
        Ok(match (role, shape.len()) {
            (Role::Norm, _) => Tensor::f_ones(shape, options)?,
            (_, 1) => Tensor::f_zeros(shape, options)?, // a bias
            _ => Tensor::f_empty(shape, options)?.f_normal_(0.0, self.standard_deviation)?,
        })
    }

    fn names(&self) -> Vec<String> {
        self.specs.keys().cloned().collect()
    }

    fn place(&self) -> String {
        "fresh weights".to_owned()
    }
}

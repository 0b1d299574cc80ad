//! Named tensors from somewhere, and a cursor that walks them as a model is built.

mod layouts;

use std::{collections::BTreeMap, fmt, ops::Range};

use tch::{Device, Kind, Tensor};

use crate::{Error, Result, Role};

pub use layouts::{Alias, Layouts, WeightSpec};

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

//! The contract between models, storage formats and adapters.
//!
//! ```text
//! model ──asks──► ProjectionBuilder ──asks──► Storage ──reads──► Weights
//!   ▲                    │                       │
//!   └──── Projection ◄───┘ ◄────── Matrix ◄──────┘
//! ```
//!
//! A model describes each place where it needs a matrix as a [`Site`] and receives a [`Projection`]. A [`Storage`]
//! turns the site's weights into a frozen [`Matrix`]. What an adapter adds is its own business: it implements
//! [`ProjectionBuilder`] over any storage.

mod choice;
mod dense;
mod frozen;
mod grouped;
mod trainable;

use std::{fmt::Debug, ops::Range, sync::Arc};

use ferrotune_torch::SharedTensor;
use tch::Tensor;

use crate::{Result, Weights};

use choice::Alternatives;
pub use choice::{Choice, ChosenGroup, ChosenProjection};
pub use dense::Dense;
pub use frozen::{Frozen, FrozenGroup, FrozenProjection, differentiable_product};
pub use grouped::{LoopedGroup, RowGroups};
pub use trainable::{Trainable, TrainableProjection};

/// What a weight is for. Storage formats and target rules decide by it, never by the spelling of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embeddings `[vocabulary, hidden]`.
    Embedding,
    /// A normalization's scale `[hidden]`.
    Norm,
    /// A projection of an attention block.
    Attention,
    /// A projection of a dense MLP.
    Mlp,
    /// One matrix of one expert.
    Expert,
    /// The matrix that scores experts. Never quantized: a small error here sends tokens elsewhere.
    Router,
    /// The output head `[vocabulary, hidden]`. Never quantized.
    Head,
}

/// Rows and columns of a weight matrix, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Rows, which is the width of what the projection returns.
    pub out_features: i64,
    /// Columns, which is the width of what it is given.
    pub in_features: i64,
}

impl Dims {
    /// Dimensions in the order of the stored shape.
    #[must_use]
    pub fn new(out_features: i64, in_features: i64) -> Self {
        Self { out_features, in_features }
    }

    /// As the shape of the stored matrix.
    #[must_use]
    pub fn shape(self) -> [i64; 2] {
        [self.out_features, self.in_features]
    }
}

/// A place in a model where a matrix is applied.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// What it is for.
    pub role: Role,
    /// Its dimensions.
    pub dims: Dims,
    /// Whether the checkpoint holds a `bias` of `[out_features]` beside the `weight`.
    pub bias: bool,
}

impl Site {
    /// A site without bias.
    #[must_use]
    pub fn new(role: Role, dims: Dims) -> Self {
        Self { role, dims, bias: false }
    }

    /// The same site, with a bias if `bias` says so.
    #[must_use]
    pub fn with_bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }
}

/// One of several matrices of an expert that are applied to the same input; their outputs stand side by side.
#[derive(Clone, Debug)]
pub struct Part {
    /// The module's name under `experts.N`, such as `w1`.
    pub name: &'static str,
    /// Its output width.
    pub out_features: i64,
}

/// A place where each expert applies matrices of its own to the rows routed to it.
///
/// The weights of expert `e` and part `p` stand at `{at}.{e}.{p}.weight` (`at` is the experts' module), each
/// `[out_features, in_features]`.
#[derive(Clone, Debug)]
pub struct GroupedSite {
    /// Number of experts.
    pub experts: i64,
    /// Input width.
    pub in_features: i64,
    /// The matrices of one expert, in output order.
    pub parts: Vec<Part>,
    /// The name of all experts' parts as one stacked parameter `[experts, out, in]`, relative to the block that
    /// holds the experts: `mlp.experts.gate_up_proj`. PEFT's `target_parameters` use it.
    pub stacked_name: &'static str,
}

impl GroupedSite {
    /// Output width: the parts' widths added.
    #[must_use]
    pub fn out_features(&self) -> i64 {
        self.parts.iter().map(|part| part.out_features).sum()
    }
}

/// Whether a pass trains or evaluates; dropout acts only in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Dropout is active.
    Train,
    /// Nothing random happens.
    #[default]
    Eval,
}

/// Whether a block keeps what its backward needs or computes it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// Everything that backward needs is kept.
    #[default]
    Nothing,
    /// Only each block's input is kept; backward runs the block's forward again with the same random numbers.
    Blocks,
}

/// How one pass through the model is to be done. An argument instead of state inside modules, so that a forgotten
/// switch back to evaluation cannot happen.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Pass {
    /// Training or evaluation.
    pub mode: Mode,
    /// What backward computes again.
    pub recompute: Recompute,
}

impl Pass {
    /// A training pass.
    #[must_use]
    pub fn train() -> Self {
        Self { mode: Mode::Train, ..Self::default() }
    }

    /// An evaluation pass.
    #[must_use]
    pub fn eval() -> Self {
        Self::default()
    }

    /// The same pass with another choice of what is recomputed.
    #[must_use]
    pub fn with_recompute(self, recompute: Recompute) -> Self {
        Self { recompute, ..self }
    }
}

/// A frozen `[out, in]` matrix in some storage; implementors provide all methods.
///
/// Products need not be differentiable by themselves: [`differentiable_product`] gives them a backward made of
/// [`product_transposed`](Self::product_transposed), so no weight gradient can exist.
pub trait Matrix: Send + Sync + Debug {
    /// Rows and columns.
    fn dims(&self) -> Dims;

    /// `x Wᵀ (+ bias)`: `[.., in]` to `[.., out]`, in the type of `x`. The bias is added before rounding.
    fn product(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor>;

    /// `g W`: `[.., out]` to `[.., in]`, the gradient with respect to the input.
    fn product_transposed(&self, g: &Tensor) -> Result<Tensor>;

    /// The rows of `range` as a dense tensor `[range, in]`: for merging, norms and export.
    fn rows(&self, range: Range<i64>) -> Result<Tensor>;
}

/// The frozen matrices of all experts at one [`GroupedSite`]; implementors provide all methods.
///
/// The work of both products follows the rows that are there: an expert without rows costs nothing.
pub trait GroupedMatrix: Send + Sync + Debug {
    /// `[rows, in]`, sorted by expert, to `[rows, out]`.
    fn product(&self, x: &Tensor, groups: &RowGroups) -> Result<Tensor>;

    /// `[rows, out]` to `[rows, in]`, the gradient with respect to the input.
    fn product_transposed(&self, g: &Tensor, groups: &RowGroups) -> Result<Tensor>;

    /// One expert's stacked parts as a dense tensor `[out, in]`.
    fn expert(&self, expert: i64) -> Result<Tensor>;
}

/// Turns the weights of a site into a frozen matrix; implementors provide [`matrix`](Self::matrix) and
/// [`grouped_matrix`](Self::grouped_matrix), and [`rounded`](Self::rounded) if they round.
pub trait Storage {
    /// The matrix at `at`.
    fn matrix(&mut self, site: &Site, at: &Weights<'_>) -> Result<Arc<dyn Matrix>>;

    /// All experts' matrices below `at`.
    fn grouped_matrix(&mut self, site: &GroupedSite, at: &Weights<'_>) -> Result<Arc<dyn GroupedMatrix>>;

    /// What a weight of this role becomes by being kept here, in 32 bits; nothing where it stays what it is. For
    /// initializations that make up for the difference.
    fn rounded(&self, _role: Role, _weight: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

impl Storage for Box<dyn Storage> {
    fn matrix(&mut self, site: &Site, at: &Weights<'_>) -> Result<Arc<dyn Matrix>> {
        (**self).matrix(site, at)
    }

    fn grouped_matrix(&mut self, site: &GroupedSite, at: &Weights<'_>) -> Result<Arc<dyn GroupedMatrix>> {
        (**self).grouped_matrix(site, at)
    }

    fn rounded(&self, role: Role, weight: &Tensor) -> Result<Option<Tensor>> {
        (**self).rounded(role, weight)
    }
}

/// What a model applies: a matrix with whatever was put on it.
pub trait Projection: Send + Sync + Debug {
    /// `[.., in]` to `[.., out]`, in the type of `x`.
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor>;
}

/// Several projections of one input.
pub trait Joint: Send + Sync + Debug {
    /// `[.., in]` to one `[.., out]` per site, in the order in which they were asked for.
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Vec<Tensor>>;
}

/// The projections of all experts at one [`GroupedSite`].
pub trait Grouped: Send + Sync + Debug {
    /// `[rows, in]`, sorted by expert, to `[rows, out]`, the parts' outputs side by side.
    fn forward(&self, x: &Tensor, groups: &RowGroups, pass: &Pass) -> Result<Tensor>;
}

/// A tensor that a model uses directly: an embedding, a norm's scale.
#[derive(Clone, Debug)]
pub struct Parameter {
    tensors: Alternatives<SharedTensor>,
    choice: Choice,
}

impl Parameter {
    /// Wraps a tensor; whether it trains is its own `requires_grad`.
    pub fn new(tensor: impl Into<SharedTensor>) -> Self {
        let tensors = Alternatives { first: tensor.into(), others: Vec::new() };
        Self { tensors, choice: Choice::default() }
    }

    /// Several, of which `choice` says by its index which one is in use.
    #[must_use]
    pub fn chosen(first: Self, others: Vec<Self>, choice: Choice) -> Self {
        let others = others.into_iter().map(|other| other.tensors.first).collect();
        Self { tensors: Alternatives { first: first.tensors.first, others }, choice }
    }

    /// The tensor.
    pub fn tensor(&self) -> &Tensor {
        let chosen: &SharedTensor = self.choice.of(&self.tensors);
        chosen
    }
}

/// Decides what stands where a model needs a weight; implementors provide
/// [`parameter`](Self::parameter) and [`projection`](Self::projection).
///
/// `at` points at the module, so `at.path()` is the name that target rules match and `at.tensor("weight", ..)` reads.
pub trait ProjectionBuilder {
    /// A tensor used directly: `{at}.weight` of the given shape. Frozen unless the builder decides otherwise.
    fn parameter(&mut self, role: Role, shape: &[i64], at: &Weights<'_>) -> Result<Parameter>;

    /// The projection at `at`.
    fn projection(&mut self, site: &Site, at: &Weights<'_>) -> Result<Box<dyn Projection>>;

    /// Projections of one input, such as q, k, v. By default one after the other.
    fn joint(&mut self, sites: &[(Site, &str)], at: &Weights<'_>) -> Result<Box<dyn Joint>> {
        let projections =
            sites.iter().map(|(site, name)| self.projection(site, &at.at(name))).collect::<Result<_>>()?;
        Ok(Box::new(Separate(projections)))
    }

    /// The projections of all experts below `at`. By default a projection per expert and part.
    fn grouped(&mut self, site: &GroupedSite, at: &Weights<'_>) -> Result<Box<dyn Grouped>> {
        Ok(Box::new(LoopedGroup::build(self, site, at)?))
    }
}

/// Projections applied one after the other.
#[derive(Debug)]
struct Separate(Vec<Box<dyn Projection>>);

impl Joint for Separate {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Vec<Tensor>> {
        self.0.iter().map(|projection| projection.forward(x, pass)).collect()
    }
}

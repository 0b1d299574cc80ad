//! The builder: it decides at every place of a model what stands there.

mod draft;
mod groups;
mod origin;
mod projections;

use ferrotune_nn::{
    Frozen, Grouped, GroupedSite, Parameter, Projection, ProjectionBuilder, Result as ModelResult, Role,
    Site, Storage, Weights,
};
use tch::Kind;

use crate::{AdaptedSite, AdapterWeights, LoraAdapter, LoraConfig, Result};

pub(crate) use draft::Draft;

/// Builds models with LoRA on frozen weights in any storage.
///
/// What trains is kept in 32 bits whatever the model's type: the added product is computed in it and the sum with the
/// base's output is rounded once.
///
/// ```no_run
/// use ferrotune_adapters::{Lora, LoraConfig};
/// use ferrotune_nn::{Dense, ProjectionBuilder};
///
/// let mut lora = Lora::new(LoraConfig { r: 64, lora_alpha: 16.0, ..LoraConfig::default() }, Dense)?;
/// # fn load(_: &mut dyn ProjectionBuilder) {}
/// load(&mut lora); // a model's constructor
/// let adapter = lora.finish()?;
/// adapter.save("adapter".as_ref())?;
/// # Ok::<(), ferrotune_adapters::Error>(())
/// ```
#[derive(Debug)]
pub struct Lora<S> {
    base: Frozen<S>,
    draft: Draft,
}

impl<S: Storage> Lora<S> {
    /// A new adapter over base weights kept by `storage`. Fresh values follow libtorch's default generator on the CPU.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config), [`Error::Unsupported`](crate::Error::Unsupported) and
    /// [`Error::Pattern`](crate::Error::Pattern).
    pub fn new(config: LoraConfig, storage: S) -> Result<Self> {
        Ok(Self { base: Frozen::new(storage), draft: Draft::fresh(config)? })
    }

    /// An adapter with the values of one that was read, to use it or to train it further.
    ///
    /// Where a file of ours says that its adapter took a part out of the base when it began, the base loses that part again
    /// and the adapter goes onto the rest, as it was trained: over NF4, too, the numbers are those of training. That takes the
    /// weights themselves; over a checkpoint that is in 4 bits already give [`AdapterWeights::plain`].
    ///
    /// # Errors
    /// [`Error::Pattern`](crate::Error::Pattern). Tensors that do not fit the model are errors while it is built, and so is
    /// [`Error::QuantizedOrigin`](crate::Error::QuantizedOrigin); tensors that nobody asked for are one of
    /// [`finish`](Self::finish).
    pub fn load(weights: &AdapterWeights, storage: S) -> Result<Self> {
        let draft = match &weights.began {
            Some(began) => Draft::resumed(began.clone(), weights)?,
            None => Draft::of(weights)?,
        };
        Ok(Self { base: Frozen::new(storage), draft })
    }

    /// The adapter of an interrupted run that began with `config`, from what it saved, over the base that it trained on.
    ///
    /// For configurations that leave the base as it is this is [`load`](Self::load). PiSSA, OLoRA and LoftQ took a part
    /// out of the base: it stands in the second half of the saved factors, so the base becomes what it was bit for bit, and
    /// the first half trains on.
    ///
    /// # Errors
    /// Those of [`new`](Self::new). Tensors that do not fit the model are errors while it is built.
    pub fn resume(config: LoraConfig, weights: &AdapterWeights, storage: S) -> Result<Self> {
        Ok(Self { base: Frozen::new(storage), draft: Draft::resumed(config, weights)? })
    }

    /// Keeps what trains in another type.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.draft.kind = kind;
        self
    }

    /// What matched so far.
    #[must_use]
    pub fn sites(&self) -> &[AdaptedSite] {
        &self.draft.sites
    }

    /// The adapter, after the model was built.
    ///
    /// # Errors
    /// [`Error::NoMatch`](crate::Error::NoMatch) if something that was asked for matched nothing,
    /// [`Error::UnusedTensors`](crate::Error::UnusedTensors) if the file has tensors that the model gave no place to,
    /// [`Error::TiedEmbedding`](crate::Error::TiedEmbedding).
    pub fn finish(self) -> Result<LoraAdapter> {
        self.draft.finish()
    }

    fn builder(&mut self) -> Building<'_, S> {
        Building { base: &mut self.base, draft: &mut self.draft }
    }
}

impl<S: Storage> ProjectionBuilder for Lora<S> {
    fn parameter(&mut self, role: Role, shape: &[i64], at: &Weights<'_>) -> ModelResult<Parameter> {
        self.builder().parameter(role, shape, at)
    }

    fn projection(&mut self, site: &Site, at: &Weights<'_>) -> ModelResult<Box<dyn Projection>> {
        self.builder().projection(site, at)
    }

    fn grouped(&mut self, site: &GroupedSite, at: &Weights<'_>) -> ModelResult<Box<dyn Grouped>> {
        self.builder().grouped(site, at)
    }
}

/// One adapter being built over a base.
#[derive(Debug)]
pub(crate) struct Building<'a, S> {
    pub(crate) base: &'a mut Frozen<S>,
    pub(crate) draft: &'a mut Draft,
}

impl<S: Storage> ProjectionBuilder for Building<'_, S> {
    fn parameter(&mut self, role: Role, shape: &[i64], at: &Weights<'_>) -> ModelResult<Parameter> {
        match self.draft.trained_parameter(role, shape, at).map_err(|error| error.at(at.path()))? {
            Some(trained) => Ok(trained),
            None => self.base.parameter(role, shape, at),
        }
    }

    fn projection(&mut self, site: &Site, at: &Weights<'_>) -> ModelResult<Box<dyn Projection>> {
        self.draft.build_projection(self.base, site, at).map_err(|error| error.at(at.path()))
    }

    fn grouped(&mut self, site: &GroupedSite, at: &Weights<'_>) -> ModelResult<Box<dyn Grouped>> {
        self.draft.build_group(self.base, site, at).map_err(|error| error.at(at.path()))
    }
}

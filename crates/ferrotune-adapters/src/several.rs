//! Several adapters on one base, by name; one of them, or none, acts at a time.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use ferrotune_nn::{
    Frozen, Grouped, GroupedMatrix, GroupedSite, Matrix, Parameter, Projection, ProjectionBuilder,
    Result as ModelResult, Role, Site, Storage, Weights,
    seam::{Choice, ChosenGroup, ChosenProjection},
};

use tch::Tensor;

use crate::{
    AdapterWeights, BaseRecord, Error, LoraAdapter, LoraConfig, Result,
    lora::{Building, Draft},
};

/// The name that PEFT gives to the only adapter of a model, and under which one is saved into the folder itself.
pub const DEFAULT_ADAPTER: &str = "default";

/// Builds a model with several adapters, each with a configuration of its own, over one base.
///
/// The base is loaded once, whatever the number of adapters; each adds its own tensors. The first one acts after
/// building, as in PEFT; [`AdapterSwitch`] takes another.
///
/// ```no_run
/// use ferrotune_adapters::{AdapterWeights, Adapters};
/// use ferrotune_nn::{Dense, ProjectionBuilder};
///
/// let mut adapters = Adapters::new(Dense)
///     .with_adapter("german", &AdapterWeights::open("german".as_ref())?)?
///     .with_adapter("sql", &AdapterWeights::open("sql".as_ref())?)?;
/// # fn load(_: &mut dyn ProjectionBuilder) {}
/// load(&mut adapters); // a model's constructor
/// let adapters = adapters.finish()?;
/// adapters.switch().activate("sql")?;
/// # Ok::<(), ferrotune_adapters::Error>(())
/// ```
#[derive(Debug)]
pub struct Adapters<S> {
    base: Frozen<Remembering<S>>,
    drafts: Vec<(String, Draft)>,
    choice: Choice,
}

impl<S: Storage> Adapters<S> {
    /// No adapter yet, over base weights kept by `storage`.
    #[must_use]
    pub fn new(storage: S) -> Self {
        let base = Frozen::new(Remembering { storage, matrices: BTreeMap::new(), groups: BTreeMap::new() });
        Self { base, drafts: Vec::new(), choice: Choice::default() }
    }

    /// Also the adapter `weights`, under `name`. One that took a part out of a base of its own when it began goes onto this base as
    /// it is, as [`AdapterWeights::plain`].
    ///
    /// # Errors
    /// [`Error::AdapterName`], those of [`Lora::load`](crate::Lora::load), and [`Error::Unsupported`] for an adapter that
    /// changes the base for itself.
    pub fn with_adapter(self, name: &str, weights: &AdapterWeights) -> Result<Self> {
        weights.require_plain()?;
        self.with(name, Draft::of(weights)?)
    }

    /// Also a new adapter, under `name`.
    ///
    /// # Errors
    /// [`Error::AdapterName`], those of [`Lora::new`](crate::Lora::new), and [`Error::Unsupported`] for an adapter that
    /// would change the base for itself.
    pub fn with_new(self, name: &str, config: LoraConfig) -> Result<Self> {
        config.require_plain("the LoRA configuration")?;
        self.with(name, Draft::fresh(config)?)
    }

    fn with(mut self, name: &str, draft: Draft) -> Result<Self> {
        // What PEFT refuses, and what could not be a folder's name.
        let problem = if name.is_empty() {
            "is empty"
        } else if name.contains(['.', '/', '\\']) {
            "has a dot or a slash, and names a folder when it is saved"
        } else if self.drafts.iter().any(|(other, _)| other == name) {
            "is taken by another adapter of this model"
        } else {
            self.drafts.push((name.to_owned(), draft));
            return Ok(self);
        };
        Err(Error::AdapterName { name: name.to_owned(), problem })
    }

    /// The adapters, after the model was built.
    ///
    /// # Errors
    /// Those of [`Lora::finish`](crate::Lora::finish), for each of them.
    pub fn finish(self) -> Result<NamedAdapters> {
        let names: Arc<[String]> = self.drafts.iter().map(|(name, _)| name.clone()).collect();
        let adapters = self.drafts.into_iter().map(|(_, draft)| draft.finish()).collect::<Result<_>>()?;
        let switch = AdapterSwitch { names, choice: self.choice };
        if !switch.names.is_empty() {
            switch.choice.set(1);
        }
        Ok(NamedAdapters { adapters, switch })
    }
}

impl<S: Storage> ProjectionBuilder for Adapters<S> {
    fn parameter(&mut self, role: Role, shape: &[i64], at: &Weights<'_>) -> ModelResult<Parameter> {
        let base = self.base.parameter(role, shape, at)?;
        let of = |(_, draft): &mut (String, Draft)| {
            let trained = draft.trained_parameter(role, shape, at).map_err(|error| error.at(at.path()))?;
            Ok(trained.unwrap_or_else(|| base.clone()))
        };
        let others = self.drafts.iter_mut().map(of).collect::<ModelResult<Vec<_>>>()?;
        Ok(Parameter::chosen(base, others, self.choice.clone()))
    }

    fn projection(&mut self, site: &Site, at: &Weights<'_>) -> ModelResult<Box<dyn Projection>> {
        let first = Box::new(self.base.frozen_projection(site, at)?);
        let mut others = Vec::with_capacity(self.drafts.len());
        for (_, draft) in &mut self.drafts {
            others.push(Building { base: &mut self.base, draft }.projection(site, at)?);
        }
        Ok(Box::new(ChosenProjection::new(first, others, self.choice.clone())))
    }

    fn grouped(&mut self, site: &GroupedSite, at: &Weights<'_>) -> ModelResult<Box<dyn Grouped>> {
        let first = Box::new(self.base.frozen_group(site, at)?);
        let mut others = Vec::with_capacity(self.drafts.len());
        for (_, draft) in &mut self.drafts {
            others.push(Building { base: &mut self.base, draft }.grouped(site, at)?);
        }
        Ok(Box::new(ChosenGroup::new(first, others, self.choice.clone())))
    }
}

/// A storage that makes each matrix once, for all adapters that ask for it.
#[derive(Debug)]
struct Remembering<S> {
    storage: S,
    matrices: BTreeMap<String, Arc<dyn Matrix>>,
    /// By the experts' module and which of its stacked parameters.
    groups: BTreeMap<(String, &'static str), Arc<dyn GroupedMatrix>>,
}

impl<S: Storage> Storage for Remembering<S> {
    fn matrix(&mut self, site: &Site, at: &Weights<'_>) -> ModelResult<Arc<dyn Matrix>> {
        if let Some(known) = self.matrices.get(at.path()) {
            return Ok(Arc::clone(known));
        }
        let matrix = self.storage.matrix(site, at)?;
        self.matrices.insert(at.path().to_owned(), Arc::clone(&matrix));
        Ok(matrix)
    }

    fn grouped_matrix(
        &mut self,
        site: &GroupedSite,
        at: &Weights<'_>,
    ) -> ModelResult<Arc<dyn GroupedMatrix>> {
        let key = (at.path().to_owned(), site.stacked_name);
        if let Some(known) = self.groups.get(&key) {
            return Ok(Arc::clone(known));
        }
        let group = self.storage.grouped_matrix(site, at)?;
        self.groups.insert(key, Arc::clone(&group));
        Ok(group)
    }

    fn rounded(&self, role: Role, weight: &Tensor) -> ModelResult<Option<Tensor>> {
        self.storage.rounded(role, weight)
    }
}

/// The adapters of a model that was built with [`Adapters`].
#[derive(Clone, Debug)]
pub struct NamedAdapters {
    adapters: Vec<LoraAdapter>,
    switch: AdapterSwitch,
}

impl NamedAdapters {
    /// What decides which adapter acts.
    #[must_use]
    pub fn switch(&self) -> &AdapterSwitch {
        &self.switch
    }

    /// The adapter of that name, to train or to save it.
    ///
    /// # Errors
    /// [`Error::NoSuchAdapter`].
    pub fn adapter(&self, name: &str) -> Result<&LoraAdapter> {
        Ok(&self.adapters[self.switch.index(name)?])
    }

    /// Records which base they stand on, for each of them.
    pub fn record_base(&mut self, base: &BaseRecord) {
        self.adapters.iter_mut().for_each(|adapter| adapter.record_base(base.clone()));
    }

    /// Writes all of them as PEFT lays several out: `default` into `folder` itself, every other one into a folder of its
    /// name below it.
    ///
    /// # Errors
    /// Those of [`AdapterWeights::save`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        for (name, adapter) in self.switch.names.iter().zip(&self.adapters) {
            if name == DEFAULT_ADAPTER {
                adapter.save(folder)?;
            }
        }
        for (name, adapter) in self.switch.names.iter().zip(&self.adapters) {
            if name != DEFAULT_ADAPTER {
                std::fs::create_dir_all(folder)
                    .map_err(|source| ferrotune_nn::Error::Io { path: folder.to_owned(), source })?;
                adapter.save(&folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// Which of a model's adapters acts. Clones act on the same model, from any thread.
///
/// Nothing is copied or computed. A pass that is under way in another thread goes on with the new choice from its next
/// linear map on, and a backward pass that computes blocks again uses the present one: switch between passes.
#[derive(Clone, Debug)]
pub struct AdapterSwitch {
    names: Arc<[String]>,
    choice: Choice,
}

impl AdapterSwitch {
    /// Every adapter's name, in the order in which they were given.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The adapter that acts; nothing if the model is its base.
    #[must_use]
    pub fn active(&self) -> Option<&str> {
        self.names.get(self.choice.index().checked_sub(1)?).map(String::as_str)
    }

    /// Lets `name` act, and no other one.
    ///
    /// # Errors
    /// [`Error::NoSuchAdapter`]; then the choice stays as it was.
    pub fn activate(&self, name: &str) -> Result<()> {
        self.choice.set(self.index(name)? + 1);
        Ok(())
    }

    /// Makes the model its base.
    pub fn deactivate(&self) {
        self.choice.set(0);
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.names.iter().position(|other| other == name).ok_or_else(|| Error::NoSuchAdapter {
            name: name.to_owned(),
            available: self.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        })
    }
}

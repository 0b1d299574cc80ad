//! The entry point: what a run consists of.

use std::{collections::BTreeMap, fmt, path::Path};

use ferrotune_core::BoxError;
use ferrotune_nn::{CausalLm, Parameters};

use crate::{
    Dataset, Error, Listener, Result, Resume, TrainerState, TrainingConfig, TrainingSummary,
    evaluate::validation_batches, session::Session,
};

/// Writes what a checkpoint should hold for others (an adapter, a model) into the folder it is given.
pub type Export<'a> = dyn Fn(&Path) -> Result<(), BoxError> + 'a;

/// A run that is over.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Finished {
    /// Its figures.
    pub summary: TrainingSummary,
    /// Its loss history.
    pub state: TrainerState,
}

/// A run to be: a model, its trainable tensors, samples, settings, and who listens.
pub struct Trainer<'a> {
    pub(crate) config: TrainingConfig,
    pub(crate) model: &'a dyn CausalLm,
    pub(crate) parameters: &'a Parameters,
    pub(crate) training: Dataset<'a>,
    pub(crate) validation: Option<Dataset<'a>>,
    pub(crate) output: Option<&'a Path>,
    pub(crate) export: Option<&'a Export<'a>>,
    pub(crate) identity: BTreeMap<String, String>,
    pub(crate) listeners: Vec<&'a mut dyn Listener>,
}

impl<'a> Trainer<'a> {
    /// A run without validation, output folder and listeners.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::NothingTrains`], and [`Error::Sample`] or [`Error::NothingSupervised`] for samples
    /// that do not fit the model.
    pub fn new(
        config: TrainingConfig,
        model: &'a dyn CausalLm,
        parameters: &'a Parameters,
        training: Dataset<'a>,
    ) -> Result<Self> {
        config.validate()?;
        if parameters.is_empty() {
            return Err(Error::NothingTrains);
        }
        training.check("training", model)?;
        Ok(Self {
            config,
            model,
            parameters,
            training,
            validation: None,
            output: None,
            export: None,
            identity: BTreeMap::new(),
            listeners: Vec::new(),
        })
    }

    /// The same run with samples to evaluate on; the batches of their plan's epoch 0 hold each exactly once.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::PlanShape`].
    pub fn with_validation(self, validation: Dataset<'a>) -> Result<Self> {
        validation.check("validation", self.model)?;
        validation_batches(&validation)?;
        Ok(Self { validation: Some(validation), ..self })
    }

    /// The same run with checkpoints and `trainer_state.json` in a folder;
    /// [`prepare_output`](crate::prepare_output) makes it ready.
    #[must_use]
    pub fn with_output(self, folder: &'a Path) -> Self {
        Self { output: Some(folder), ..self }
    }

    /// The same run with something of the caller's in each checkpoint.
    #[must_use]
    pub fn with_export(self, export: &'a Export<'a>) -> Self {
        Self { export: Some(export), ..self }
    }

    /// The same run with a fact that the trainer cannot see and that a resumed run must share, such as the digest of
    /// the base model: a checkpoint with another `value` under `key` is refused.
    #[must_use]
    pub fn with_identity(mut self, key: &str, value: &str) -> Self {
        self.identity.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The same run with one more listener.
    #[must_use]
    pub fn with_listener(mut self, listener: &'a mut dyn Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Trains to the end.
    ///
    /// A run from the beginning seeds the device's generators with the configuration's seed. The trainable tensors then
    /// hold the result; with an output folder its last checkpoint does too, and `trainer_state.json` stands beside it.
    ///
    /// # Errors
    /// [`Error::UndefinedGradient`], [`Error::NonFiniteLoss`] and [`Error::NonFiniteGradient`] name what broke the step;
    /// [`Error::OtherRun`] what keeps a checkpoint from being resumed; [`Error::OutputExists`] if the folder holds
    /// checkpoints and none is to be resumed.
    pub fn run(self, resume: Resume) -> Result<Finished> {
        Session::begin(self, resume)?.finish()
    }
}

impl fmt::Debug for Trainer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("config", &self.config)
            .field("training", &self.training)
            .field("validation", &self.validation)
            .field("output", &self.output)
            .field("listeners", &self.listeners.len())
            .finish_non_exhaustive()
    }
}

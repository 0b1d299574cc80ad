//! A head of its own for models whose head is their embedding.

use std::{fmt, ops::Range};

use ferrotune_nn::{Encoded, Error as ModelError, Result as ModelResult, Role, WeightSource, WeightSpec};
use tch::Tensor;

use crate::{
    LoraConfig, Result,
    target::{Decision, Rules},
};

/// A view of a tied checkpoint as the untied one with the same values.
///
/// Where an adapter trains the head or the embedding of a tied model, PEFT trains the one and leaves the other as it
/// was. That is the untied model: read the weights through this, with `tie_word_embeddings` false in the configuration,
/// which then also belongs beside a merged checkpoint.
pub struct Untied<'s> {
    source: &'s dyn WeightSource,
    head: String,
    embedding: String,
}

impl<'s> Untied<'s> {
    /// A view of `source` in which the head of `specs`, the weights of the untied configuration, is its embedding.
    ///
    /// # Errors
    /// [`Error::MissingTensor`](ferrotune_nn::Error::MissingTensor) if the specs have no head or no embedding,
    /// [`Error::TwoValues`](ferrotune_nn::Error::TwoValues) if `source` holds both and they differ.
    pub fn new(source: &'s dyn WeightSource, specs: &[WeightSpec]) -> Result<Self> {
        let named = |role, what: &str| match specs.iter().find(|spec| spec.role == role) {
            Some(spec) => Ok(spec.name.clone()),
            None => Err(ModelError::MissingTensor { name: what.to_owned(), place: "the model".to_owned() }),
        };
        let (head, embedding) = (named(Role::Head, "head")?, named(Role::Embedding, "embedding")?);
        if let (Some(one), Some(other)) = (source.shape(&embedding), source.shape(&head))
            && (one != other || !source.read(&embedding)?.f_equal(&source.read(&head)?)?)
        {
            return Err(
                ModelError::TwoValues { place: source.place(), first: embedding, second: head }.into()
            );
        }
        Ok(Self { source, head, embedding })
    }

    /// Where a tensor is stored. Tied checkpoints hold the embedding, the head, or both with one value.
    fn stored<'n>(&'n self, name: &'n str) -> &'n str {
        if name != self.head && name != self.embedding {
            name
        } else if self.source.shape(&self.embedding).is_some() {
            &self.embedding
        } else {
            &self.head
        }
    }
}

impl WeightSource for Untied<'_> {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.source.shape(self.stored(name))
    }

    fn read(&self, name: &str) -> ModelResult<Tensor> {
        self.source.read(self.stored(name))
    }

    fn read_rows(&self, name: &str, rows: Range<i64>) -> ModelResult<Tensor> {
        self.source.read_rows(self.stored(name), rows)
    }

    fn read_stacked(&self, name: &str, index: i64, rows: Range<i64>) -> ModelResult<Tensor> {
        self.source.read_stacked(self.stored(name), index, rows)
    }

    fn encoded(&self, name: &str) -> ModelResult<Option<Encoded>> {
        self.source.encoded(self.stored(name))
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.source.names();
        for name in [&self.embedding, &self.head] {
            if let Err(place) = names.binary_search(name) {
                names.insert(place, name.clone());
            }
        }
        names
    }

    fn place(&self) -> String {
        self.source.place()
    }
}

impl fmt::Debug for Untied<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Untied({})", self.source.place())
    }
}

impl LoraConfig {
    /// Whether this adapter changes the head or the embedding of a model, so that a tied one must be read [`Untied`].
    /// `specs` are the weights of the untied configuration.
    ///
    /// # Errors
    /// [`Error::Pattern`](crate::Error::Pattern) and [`Error::NotAdaptable`](crate::Error::NotAdaptable).
    pub fn unties(&self, specs: &[WeightSpec]) -> Result<bool> {
        let mut rules = Rules::new(self)?;
        for spec in specs.iter().filter(|spec| matches!(spec.role, Role::Head | Role::Embedding)) {
            let module = spec.name.strip_suffix(".weight").unwrap_or(&spec.name);
            if rules.module(spec.role, module)? != Decision::Frozen || rules.parameter(&spec.name)?.is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

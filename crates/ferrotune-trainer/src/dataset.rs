//! What a run reads: samples, the plan of their batches, and their names for messages.

use std::fmt;

use ferrotune_core::{BoxError, Sample, digest};
use ferrotune_nn::CausalLm;
use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// Which samples stand together in which batch of an epoch; implementors provide the one method.
///
/// It must be a pure function of the epoch: a resumed run asks again and goes on at its place. Every epoch must have as
/// many batches as the first. Functions `Fn(u64) -> Result<Vec<Vec<usize>>, BoxError>` are plans.
pub trait BatchPlan {
    /// The batches of an epoch (counted from 0) in order, each a list of positions in the samples.
    ///
    /// # Errors
    /// Any.
    fn batches(&self, epoch: u64) -> Result<Vec<Vec<usize>>, BoxError>;
}

impl<F: Fn(u64) -> Result<Vec<Vec<usize>>, BoxError>> BatchPlan for F {
    fn batches(&self, epoch: u64) -> Result<Vec<Vec<usize>>, BoxError> {
        self(epoch)
    }
}

/// Samples with the plan of their batches.
#[derive(Clone, Copy)]
pub struct Dataset<'a> {
    samples: &'a [Sample],
    plan: &'a dyn BatchPlan,
    names: Option<&'a dyn Fn(usize) -> String>,
}

impl<'a> Dataset<'a> {
    /// Samples that messages call by their position.
    #[must_use]
    pub fn new(samples: &'a [Sample], plan: &'a dyn BatchPlan) -> Self {
        Self { samples, plan, names: None }
    }

    /// The same samples, called by `names(position)` in messages.
    #[must_use]
    pub fn with_names(self, names: &'a dyn Fn(usize) -> String) -> Self {
        Self { names: Some(names), ..self }
    }

    /// The samples.
    #[must_use]
    pub fn samples(&self) -> &'a [Sample] {
        self.samples
    }

    /// The names of some samples, joined by commas.
    pub(crate) fn names(&self, positions: impl IntoIterator<Item = usize>) -> String {
        let name =
            |position: usize| self.names.map_or_else(|| format!("#{position}"), |names| names(position));
        positions.into_iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// Checks that the model can read every sample and that something is supervised.
    pub(crate) fn check(&self, set: &'static str, model: &dyn CausalLm) -> Result<()> {
        let vocabulary = model.vocabulary_size();
        for (position, sample) in self.samples.iter().enumerate() {
            let fail = |problem: String, expected: String| {
                Err(Error::Sample { set, record: self.names([position]), problem, expected })
            };
            if sample.is_empty() {
                return fail("has no tokens".to_owned(), "at least one".to_owned());
            }
            if sample.supervised.len() != sample.ids.len() {
                let found = format!("has {} supervision marks", sample.supervised.len());
                return fail(found, format!("one for each of its {} tokens", sample.ids.len()));
            }
            if sample.len() as i64 > model.max_positions() {
                let found = format!("has {} tokens", sample.len());
                return fail(found, format!("at most the model's {} positions", model.max_positions()));
            }
            if let Some(id) = sample.ids.iter().find(|&&id| i64::from(id) >= vocabulary) {
                return fail(
                    format!("has token id {id}"),
                    format!("less than the vocabulary's {vocabulary}"),
                );
            }
        }
        if self.samples.iter().all(|sample| sample.supervised_tokens() == 0) {
            return Err(Error::NothingSupervised { set, samples: self.samples.len() });
        }
        Ok(())
    }

    /// The batches of an epoch, checked against the samples.
    pub(crate) fn batches(&self, set: &'static str, epoch: u64) -> Result<Vec<Vec<usize>>> {
        let batches = self.plan.batches(epoch).map_err(|source| Error::Plan { set, epoch, source })?;
        let fail = |problem: String, expected: String| Error::PlanShape { set, epoch, problem, expected };
        if batches.is_empty() {
            return Err(fail("are none".to_owned(), "at least one".to_owned()));
        }
        if batches.iter().any(Vec::is_empty) {
            return Err(fail("contain an empty one".to_owned(), "at least one sample in each".to_owned()));
        }
        if let Some(position) = batches.iter().flatten().find(|&&position| position >= self.samples.len()) {
            let expected = format!("positions below {}", self.samples.len());
            return Err(fail(format!("name sample {position}"), expected));
        }
        Ok(batches)
    }

    /// What identifies the samples: a digest of every id and mark, in order.
    pub(crate) fn digest(&self) -> String {
        let mut all = String::with_capacity(64 * self.samples.len());
        let mut bytes = Vec::new();
        for sample in self.samples {
            bytes.clear();
            bytes.extend(sample.ids.iter().flat_map(|id| id.to_le_bytes()));
            bytes.extend(sample.supervised.iter().map(|&is| u8::from(is)));
            all.push_str(&digest::of_bytes(&bytes));
        }
        digest::of_bytes(all.as_bytes())
    }
}

impl fmt::Debug for Dataset<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset").field("samples", &self.samples.len()).finish_non_exhaustive()
    }
}

/// What identifies the batches of an epoch.
pub(crate) fn plan_digest(batches: &[Vec<usize>]) -> String {
    let mut bytes = Vec::new();
    for batch in batches {
        bytes.extend((batch.len() as u64).to_le_bytes());
        bytes.extend(batch.iter().flat_map(|&position| (position as u64).to_le_bytes()));
    }
    digest::of_bytes(&bytes)
}

/// Some samples side by side as tensors, padded on the right.
#[derive(Debug)]
pub(crate) struct Laid {
    /// `[b, t]` of 64-bit integers.
    pub(crate) ids: Tensor,
    /// `[b, t]` of booleans.
    pub(crate) supervised: Tensor,
    /// True lengths, `[b]`.
    pub(crate) lengths: Vec<i64>,
}

impl Laid {
    pub(crate) fn new(samples: &[Sample], batch: &[usize], device: Device) -> Result<Self> {
        let lengths: Vec<i64> = batch.iter().map(|&position| samples[position].len() as i64).collect();
        let columns = lengths.iter().copied().max().unwrap_or(0) as usize;
        let mut ids = vec![0i64; batch.len() * columns];
        let mut supervised = vec![0u8; batch.len() * columns];
        for (row, &position) in batch.iter().enumerate() {
            let sample = &samples[position];
            for (at, (&id, &is)) in sample.ids.iter().zip(&sample.supervised).enumerate() {
                ids[row * columns + at] = i64::from(id);
                supervised[row * columns + at] = u8::from(is);
            }
        }
        let shape = [batch.len() as i64, columns as i64];
        let marks = Tensor::from_slice(&supervised).f_reshape(shape)?.f_to_kind(Kind::Bool)?;
        Ok(Self {
            ids: Tensor::from_slice(&ids).f_reshape(shape)?.f_to_device(device)?,
            supervised: marks.f_to_device(device)?,
            lengths,
        })
    }
}

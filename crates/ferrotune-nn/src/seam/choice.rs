//! One model, several sets of weights beside its base, one of them in use.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tch::Tensor;

use super::{Grouped, Pass, Projection, RowGroups};
use crate::Result;

/// Which of several alternatives is in use at every place that offers them; the first at the beginning. Clones share it.
///
/// Any thread may set it at any time; a pass that is under way then goes on with the other alternative from its next
/// place on, so passes that must be of one piece end before.
#[derive(Clone, Debug, Default)]
pub struct Choice(Arc<AtomicUsize>);

impl Choice {
    /// The index of the alternative in use.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// Takes another alternative from now on.
    pub fn set(&self, index: usize) {
        self.0.store(index, Ordering::Release);
    }

    /// The one of `alternatives` in use; the first where there is none of that index.
    pub(super) fn of<'a, T>(&self, alternatives: &'a Alternatives<T>) -> &'a T {
        match self.index().checked_sub(1) {
            None => &alternatives.first,
            Some(index) => alternatives.others.get(index).unwrap_or(&alternatives.first),
        }
    }
}

/// At least one of something.
#[derive(Clone, Debug)]
pub(super) struct Alternatives<T> {
    pub(super) first: T,
    pub(super) others: Vec<T>,
}

/// Projections of which one is in use.
#[derive(Debug)]
pub struct ChosenProjection {
    alternatives: Alternatives<Box<dyn Projection>>,
    choice: Choice,
}

impl ChosenProjection {
    /// `first` and `others` in the order of `choice`'s indices.
    #[must_use]
    pub fn new(first: Box<dyn Projection>, others: Vec<Box<dyn Projection>>, choice: Choice) -> Self {
        Self { alternatives: Alternatives { first, others }, choice }
    }
}

impl Projection for ChosenProjection {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.choice.of(&self.alternatives).forward(x, pass)
    }
}

/// Projections of experts, likewise.
#[derive(Debug)]
pub struct ChosenGroup {
    alternatives: Alternatives<Box<dyn Grouped>>,
    choice: Choice,
}

impl ChosenGroup {
    /// `first` and `others` in the order of `choice`'s indices.
    #[must_use]
    pub fn new(first: Box<dyn Grouped>, others: Vec<Box<dyn Grouped>>, choice: Choice) -> Self {
        Self { alternatives: Alternatives { first, others }, choice }
    }
}

impl Grouped for ChosenGroup {
    fn forward(&self, x: &Tensor, groups: &RowGroups, pass: &Pass) -> Result<Tensor> {
        self.choice.of(&self.alternatives).forward(x, groups, pass)
    }
}

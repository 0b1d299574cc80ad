//! The trainable tensors of a model, in a fixed order.

use ferrotune_torch::SharedTensor;

/// Whether weight decay applies to a tensor. Norm weights and biases are exempt, as in the reference trainers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Decays when the optimizer's weight decay is not 0.
    Applies,
    /// Never decays.
    Exempt,
}

/// Whether a step may leave a tensor without a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// Every step must give one; an undefined gradient means that the graph is cut, and is an error.
    EveryStep,
    /// Only steps that route a token here give one: an expert's weights.
    WhenRouted,
}

/// A trainable tensor.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Unique name: module path and what it is there, such as `model.layers.0.self_attn.q_proj.lora_A`.
    pub name: String,
    /// The leaf tensor; its gradient accumulates in place.
    pub tensor: SharedTensor,
    /// Weight decay.
    pub decay: Decay,
    /// When it gets a gradient.
    pub gradient: Gradient,
}

/// All trainable tensors of a model, each once, in the order in which the model asked for them.
///
/// Optimizers, checkpoints and reductions across devices read this and nothing else, and rely on the order.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    trained: Vec<Trained>,
}

impl Parameters {
    /// Adds a tensor and returns its handle.
    pub fn push(&mut self, trained: Trained) {
        debug_assert!(self.trained.iter().all(|other| other.name != trained.name), "{} twice", trained.name);
        self.trained.push(trained);
    }

    /// Adds all of `other`, after those already here.
    pub fn extend(&mut self, other: Self) {
        other.trained.into_iter().for_each(|trained| self.push(trained));
    }

    /// The tensors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Trained> {
        self.trained.iter()
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.trained.len()
    }

    /// Whether nothing trains.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trained.is_empty()
    }

    /// Number of trainable scalars.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.trained.iter().map(|trained| trained.tensor.numel() as u64).sum()
    }
}

impl<'a> IntoIterator for &'a Parameters {
    type Item = &'a Trained;
    type IntoIter = std::slice::Iter<'a, Trained>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

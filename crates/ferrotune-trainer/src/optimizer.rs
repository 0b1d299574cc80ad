//! AdamW over a model's trainable tensors.

use ferrotune_nn::{Decay, Parameters, Trained};
use ferrotune_torch::{AdamW, fused_adamw};
use tch::{Kind, Tensor};

use crate::{ParameterGroup, Result, TrainingConfig};

/// The trainable tensors' moments, and the step over all of them.
///
/// As `torch.optim.AdamW` does, a tensor without a gradient is left alone, its count of steps included.
#[derive(Debug)]
pub(crate) struct Optimizer {
    pub(crate) moments: Vec<Moments>,
    groups: Vec<Group>,
    options: AdamW,
}

/// What AdamW keeps for one tensor.
#[derive(Debug)]
pub(crate) struct Moments {
    pub(crate) exp_avg: Tensor,
    pub(crate) exp_avg_sq: Tensor,
    /// `[1]`, 32 bits: how many steps this tensor has taken.
    pub(crate) steps: Tensor,
}

/// Tensors with one decay and one type: what a single fused call takes.
#[derive(Debug)]
struct Group {
    decay: Decay,
    kind: Kind,
    members: Vec<usize>,
    elements: u64,
}

impl Optimizer {
    pub(crate) fn new(parameters: &Parameters, config: &TrainingConfig) -> Result<Self> {
        let moments = parameters
            .iter()
            .map(|Trained { tensor, .. }| {
                Ok(Moments {
                    exp_avg: Tensor::f_zeros(tensor.size(), (tensor.kind(), tensor.device()))?,
                    exp_avg_sq: Tensor::f_zeros(tensor.size(), (tensor.kind(), tensor.device()))?,
                    steps: Tensor::f_zeros([1], (Kind::Float, tensor.device()))?,
                })
            })
            .collect::<Result<_>>()?;
        let mut groups: Vec<Group> = Vec::new();
        for (index, trained) in parameters.iter().enumerate() {
            let (decay, kind) = (trained.decay, trained.tensor.kind());
            let elements = trained.tensor.numel() as u64;
            match groups.iter_mut().find(|group| (group.decay, group.kind) == (decay, kind)) {
                Some(group) => {
                    group.members.push(index);
                    group.elements += elements;
                }
                None => groups.push(Group { decay, kind, members: vec![index], elements }),
            }
        }
        let options = AdamW {
            lr: 0.0,
            beta1: config.adam_beta1,
            beta2: config.adam_beta2,
            eps: config.adam_epsilon,
            weight_decay: config.weight_decay,
        };
        Ok(Self { moments, groups, options })
    }

    /// The groups, for a table that a user can check.
    pub(crate) fn groups(&self) -> Vec<ParameterGroup> {
        let group = |group: &Group| ParameterGroup {
            name: if group.decay == Decay::Applies { "decay" } else { "no decay" },
            weight_decay: self.weight_decay(group.decay),
            tensors: group.members.len(),
            elements: group.elements,
        };
        self.groups.iter().map(group).collect()
    }

    /// One step of every tensor that has a gradient.
    pub(crate) fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &[Option<Tensor>],
        learning_rate: f64,
    ) -> Result<()> {
        let tensors: Vec<&Trained> = parameters.iter().collect();
        for group in &self.groups {
            let mut lists: [Vec<Tensor>; 5] = Default::default();
            for &member in &group.members {
                let Some(gradient) = &gradients[member] else { continue };
                let Moments { exp_avg, exp_avg_sq, steps } = &self.moments[member];
                let row = [&*tensors[member].tensor, gradient, exp_avg, exp_avg_sq, steps];
                for (list, tensor) in lists.iter_mut().zip(row) {
                    list.push(tensor.shallow_clone());
                }
            }
            let [params, grads, exp_avgs, exp_avg_sqs, steps] = &lists;
            let options =
                AdamW { lr: learning_rate, weight_decay: self.weight_decay(group.decay), ..self.options };
            fused_adamw(params, grads, exp_avgs, exp_avg_sqs, steps, &options)?;
        }
        Ok(())
    }

    fn weight_decay(&self, decay: Decay) -> f64 {
        if decay == Decay::Applies { self.options.weight_decay } else { 0.0 }
    }
}

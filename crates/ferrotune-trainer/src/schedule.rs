//! The learning rate of each step.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate goes on after it has risen from 0 over the warm-up steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// It stays. With warm-up this is transformers' `constant_with_warmup`, without it is `constant`.
    Constant,
    /// It falls in a straight line to 0 after the last step.
    #[default]
    Linear,
    /// It falls along half a cosine to 0 after the last step.
    Cosine,
}

/// The learning rate as a function of the step; nothing to save and nothing to resume.
///
/// Equal at every step to what transformers' `get_scheduler` gives, which also means that the first step of a run with
/// warm-up has a learning rate of 0.
///
/// ```
/// use ferrotune_trainer::{Schedule, Scheduler};
///
/// let schedule = Schedule { scheduler: Scheduler::Linear, learning_rate: 1e-3, warmup: 2, total: 6 };
/// assert_eq!(schedule.at(0), 0.0);
/// assert_eq!(schedule.at(1), 5e-4);
/// assert_eq!(schedule.at(2), 1e-3);
/// assert_eq!(schedule.at(4), 5e-4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub scheduler: Scheduler,
    /// The rate after warm-up.
    pub learning_rate: f64,
    /// Number of warm-up steps.
    pub warmup: u64,
    /// Number of all steps, warm-up included.
    pub total: u64,
}

impl Schedule {
    /// The learning rate of a step, counted from 0.
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        self.learning_rate * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let falling = self.total.saturating_sub(self.warmup).max(1) as f64;
        match self.scheduler {
            Scheduler::Constant => 1.0,
            Scheduler::Linear => self.total.saturating_sub(step) as f64 / falling,
            Scheduler::Cosine => {
                let progress = (step - self.warmup) as f64 / falling;
                (0.5 * (1.0 + (PI * progress).cos())).max(0.0)
            }
        }
    }
}

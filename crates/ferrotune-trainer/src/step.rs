//! One optimizer step: forward and backward over the micro-batches of a window, clipping, update.

use ferrotune_nn::{
    CausalLm, Parameters, Pass, Tokens,
    loss::{Labelled, causal_lm_loss},
};
use ferrotune_torch::backward;
use tch::{Kind, Tensor};

use crate::{Dataset, Error, Result, dataset::Laid, gradients, optimizer::Optimizer};

/// What a step measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) loss: f64,
    pub(crate) auxiliary_loss: Option<f64>,
    pub(crate) grad_norm: f64,
    pub(crate) samples: u64,
    pub(crate) tokens: u64,
    pub(crate) supervised_tokens: u64,
}

/// How steps are taken.
#[derive(Debug)]
pub(crate) struct Stepper<'a> {
    pub(crate) model: &'a dyn CausalLm,
    pub(crate) parameters: &'a Parameters,
    pub(crate) dataset: Dataset<'a>,
    pub(crate) pass: Pass,
    pub(crate) max_grad_norm: f64,
}

impl Stepper<'_> {
    /// Takes step number `step` (counted from 1) on the micro-batches of `window`.
    ///
    /// The objective is the negative log-likelihood of all supervised tokens of the window divided by their number, plus
    /// the auxiliary losses weighted by their micro-batches' shares of its tokens. Both divisors are known beforehand, so
    /// any split of the same samples into micro-batches gives the same gradient up to rounding.
    ///
    /// The host waits for the device once, between clipping and the update, to read the losses and the norm together: a
    /// loss or a norm that is no finite number then stops the run before it reaches a weight.
    pub(crate) fn step(
        &self,
        step: u64,
        window: &[Vec<usize>],
        optimizer: &mut Optimizer,
        learning_rate: f64,
    ) -> Result<Measured> {
        let samples = || window.iter().flatten().map(|&position| &self.dataset.samples()[position]);
        let tokens = samples().map(|sample| sample.len() as u64).sum::<u64>();
        let supervised_tokens = samples().map(|sample| sample.supervised_tokens() as u64).sum::<u64>();

        let mut scalars = Vec::with_capacity(2 * window.len() + 1);
        let mut weights = Vec::new();
        for batch in window {
            let laid = Laid::new(self.dataset.samples(), batch, self.model.device())?;
            let share = laid.lengths.iter().sum::<i64>() as f64 / tokens as f64;
            let labelled =
                Labelled { tokens: Tokens::padded(&laid.ids, &laid.lengths), supervised: &laid.supervised };
            let parts = causal_lm_loss(self.model, &labelled, &self.pass)?;
            let likelihood = &parts.negative_log_likelihood;
            let mut loss = likelihood.f_mul_scalar(1.0 / supervised_tokens.max(1) as f64)?;
            if let Some(auxiliary) = &parts.auxiliary_loss {
                loss = loss.f_add(&auxiliary.f_mul_scalar(share)?)?;
                weights.push(share);
            }
            // Without a path to any trainable tensor there is no backward pass; `gather` says which tensor misses it.
            if loss.requires_grad() {
                backward(&[(&loss, None)])?;
            }
            for scalar in std::iter::once(likelihood).chain(&parts.auxiliary_loss) {
                scalars.push(scalar.f_detach()?.f_to_kind(Kind::Double)?);
            }
        }

        let gradients = gradients::gather(self.parameters, step)?;
        let norm = gradients::global_norm(&gradients)?;
        scalars.push(norm.f_to_kind(Kind::Double)?);
        let scalars = Vec::<f64>::try_from(&Tensor::f_stack(&scalars, 0)?)?;
        let (grad_norm, losses) = (scalars[scalars.len() - 1], &scalars[..scalars.len() - 1]);
        let per_batch = losses.len() / window.len();
        if let Some(place) = losses.iter().position(|loss| !loss.is_finite()) {
            let records = self.dataset.names(window[place / per_batch].iter().copied());
            return Err(Error::NonFiniteLoss { step, found: losses[place], records });
        }
        if !grad_norm.is_finite() {
            let tensor = gradients::first_non_finite(self.parameters, &gradients)?;
            let records = self.dataset.names(window.iter().flatten().copied());
            return Err(Error::NonFiniteGradient { tensor, step, records });
        }
        gradients::clip(&gradients, &norm, grad_norm, self.max_grad_norm)?;
        optimizer.step(self.parameters, &gradients, learning_rate)?;
        gradients::zero(self.parameters)?;

        let total: f64 = losses.iter().step_by(per_batch).sum();
        let auxiliary = losses.iter().skip(1).step_by(per_batch).zip(&weights);
        Ok(Measured {
            loss: total / supervised_tokens.max(1) as f64,
            auxiliary_loss: (per_batch == 2).then(|| auxiliary.map(|(loss, weight)| loss * weight).sum()),
            grad_norm,
            samples: window.iter().map(|batch| batch.len() as u64).sum(),
            tokens,
            supervised_tokens,
        })
    }
}

//! The loss of a model over samples, without training on them.

use std::time::Instant;

use ferrotune_nn::{
    CausalLm, Pass, Tokens,
    loss::{Labelled, causal_lm_loss},
};
use ferrotune_torch::{generator, with_grad};
use tch::{Kind, Tensor};

use crate::{
    Dataset, Error, Result,
    dataset::{Laid, plan_digest},
};

/// The loss over all samples of a set.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// Mean negative log-likelihood per supervised token (natural logarithm), over all samples together. This is the
    /// principal number: it does not depend on the batches.
    pub loss: f64,
    /// `exp(loss)`; infinite where that overflows.
    pub perplexity: f64,
    /// The mean over samples of their batch's mean loss, which is what transformers' trainer calls `eval_loss`. It
    /// depends on the batches. Batches that supervise nothing are left out.
    pub sample_weighted_loss: f64,
    /// Samples read.
    pub samples: usize,
    /// Batches read.
    pub batches: usize,
    /// Tokens read, padding excluded.
    pub tokens: u64,
    /// Tokens that the loss is a mean over.
    pub supervised_tokens: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// Evaluates a model on the batches of the dataset's epoch 0, which must hold each sample exactly once.
///
/// Nothing random happens, and the generators are put back as they were. `progress` is told how many batches are done
/// and how many there are.
///
/// # Errors
/// [`Error::Sample`] and [`Error::PlanShape`] for data that does not fit, [`Error::NonFiniteLoss`] with the names of
/// the records, what the model and `progress` give.
pub fn evaluate(
    model: &dyn CausalLm,
    dataset: &Dataset<'_>,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Evaluation> {
    dataset.check("validation", model)?;
    evaluate_at(model, dataset, 0, progress)
}

/// The same for samples that were checked, as part of a run at `step`.
pub(crate) fn evaluate_at(
    model: &dyn CausalLm,
    dataset: &Dataset<'_>,
    step: u64,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Evaluation> {
    let batches = validation_batches(dataset)?;
    let device = model.device();
    let generator = generator::state(device)?;
    let evaluation = with_grad(false, || losses(model, dataset, &batches, step, progress));
    generator::set_state(device, &generator)?;
    evaluation
}

/// The batches of a validation set, each sample exactly once.
pub(crate) fn validation_batches(dataset: &Dataset<'_>) -> Result<Vec<Vec<usize>>> {
    let batches = dataset.batches("validation", 0)?;
    let mut seen = vec![0u32; dataset.samples().len()];
    batches.iter().flatten().for_each(|&position| seen[position] += 1);
    match seen.iter().position(|&times| times != 1) {
        None => Ok(batches),
        Some(position) => Err(Error::PlanShape {
            set: "validation",
            epoch: 0,
            problem: format!("hold sample {position} {} times", seen[position]),
            expected: "each sample exactly once".to_owned(),
        }),
    }
}

/// What identifies a validation set with its batches.
pub(crate) fn validation_digest(dataset: &Dataset<'_>) -> Result<String> {
    Ok(format!("{}-{}", dataset.digest(), plan_digest(&validation_batches(dataset)?)))
}

fn losses(
    model: &dyn CausalLm,
    dataset: &Dataset<'_>,
    batches: &[Vec<usize>],
    step: u64,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Evaluation> {
    let start = Instant::now();
    let device = model.device();
    let mut sums = Vec::with_capacity(batches.len());
    let (mut tokens, mut counts) = (0, Vec::with_capacity(batches.len()));
    for (done, batch) in batches.iter().enumerate() {
        let laid = Laid::new(dataset.samples(), batch, device)?;
        let tokens_of_batch = Tokens::padded(&laid.ids, &laid.lengths);
        let labelled = Labelled { tokens: tokens_of_batch, supervised: &laid.supervised };
        let parts = causal_lm_loss(model, &labelled, &Pass::eval())?;
        sums.push(parts.negative_log_likelihood.f_to_kind(Kind::Double)?);
        counts.push(parts.supervised_tokens as u64);
        tokens += laid.lengths.iter().sum::<i64>() as u64;
        progress(done + 1, batches.len())?;
    }
    // One wait for the device at the end, not one per batch.
    let sums = Vec::<f64>::try_from(&Tensor::f_stack(&sums, 0)?)?;
    if let Some(batch) = sums.iter().position(|sum| !sum.is_finite()) {
        let records = dataset.names(batches[batch].iter().copied());
        return Err(Error::NonFiniteLoss { step, found: sums[batch], records });
    }
    let supervised_tokens: u64 = counts.iter().sum();
    let loss = sums.iter().sum::<f64>() / supervised_tokens as f64;
    let (mut weighted, mut rows) = (0.0, 0);
    for ((sum, &count), batch) in sums.iter().zip(&counts).zip(batches).filter(|((_, count), _)| **count > 0)
    {
        weighted += sum / count as f64 * batch.len() as f64;
        rows += batch.len();
    }
    Ok(Evaluation {
        loss,
        perplexity: loss.exp(),
        sample_weighted_loss: weighted / rows as f64,
        samples: dataset.samples().len(),
        batches: batches.len(),
        tokens,
        supervised_tokens,
        seconds: start.elapsed().as_secs_f64(),
    })
}

//! The causal language-model loss: the one place where labels are shifted.

use tch::{Kind, Reduction, Tensor};

use crate::{CausalLm, Hidden, Pass, Result, Tokens};

/// A batch with the ids whose prediction counts.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// What the model reads.
    pub tokens: Tokens<'a>,
    /// `[batch, sequence]` of booleans: whether predicting the id *at* this position counts. Column 0 is ignored,
    /// since nothing precedes it; padding must be false.
    pub supervised: &'a Tensor,
}

/// The loss of a batch, in parts that can be added over batches.
#[derive(Debug)]
pub struct BatchLoss {
    /// Sum of the negative log-likelihoods (natural logarithm) of the supervised ids, 32 bits, differentiable.
    pub negative_log_likelihood: Tensor,
    /// How many ids were supervised.
    pub supervised_tokens: i64,
    /// The model's own auxiliary loss, see [`Hidden::auxiliary_loss`].
    pub auxiliary_loss: Option<Tensor>,
}

/// Sums the negative log-likelihood over the supervised ids of a batch.
///
/// States of unsupervised positions are dropped before the head, so the logits in memory are
/// `[supervised tokens, vocabulary]`. A batch that supervises nothing gives a zero that is still connected to the
/// graph, so that every trainable tensor gets a gradient.
///
/// ```
/// use ferrotune_nn::{CausalLm, Pass, Result, Tokens, loss::{Labelled, causal_lm_loss}};
/// use tch::Tensor;
///
/// /// The mean loss of rows padded on the right, of which `supervised` says what is to be learnt.
/// fn mean(model: &dyn CausalLm, ids: &Tensor, lengths: &[i64], supervised: &Tensor) -> Result<f64> {
///     let batch = Labelled { tokens: Tokens::padded(ids, lengths), supervised };
///     let loss = causal_lm_loss(model, &batch, &Pass::eval())?;
///     Ok(loss.negative_log_likelihood.double_value(&[]) / loss.supervised_tokens as f64)
/// }
/// ```
///
/// # Errors
/// What the model gives; libtorch's own for shapes that do not fit one another.
pub fn causal_lm_loss(model: &dyn CausalLm, batch: &Labelled<'_>, pass: &Pass) -> Result<BatchLoss> {
    let Hidden { states, auxiliary_loss } = model.hidden(&batch.tokens, None, pass)?;
    let sequence = batch.tokens.ids.size()[1];
    let targets = batch.tokens.ids.f_narrow(1, 1, sequence - 1)?; // [b, t - 1]
    let supervised = batch.supervised.f_narrow(1, 1, sequence - 1)?; // [b, t - 1]
    let predicting = states.f_narrow(1, 0, sequence - 1)?; // [b, t - 1, hidden]
    let places = supervised.f_reshape([-1])?.f_nonzero()?.f_squeeze_dim(1)?; // [n]
    let supervised_tokens = places.size()[0];
    let chosen = predicting.f_reshape([-1, states.size()[2]])?.f_index_select(0, &places)?; // [n, hidden]
    let logits = model.logits(&chosen, pass)?.f_to_kind(Kind::Float)?; // [n, vocabulary]
    let negative_log_likelihood = if supervised_tokens == 0 {
        // The head has no rows here, and is still part of the graph.
        states.f_sum(Kind::Float)?.f_add(&logits.f_sum(Kind::Float)?)?.f_mul_scalar(0.0)?
    } else {
        let targets = targets.f_reshape([-1])?.f_index_select(0, &places)?; // [n]
        logits.f_cross_entropy_loss::<Tensor>(&targets, None, Reduction::Sum, -100, 0.0)?
    };
    Ok(BatchLoss { negative_log_likelihood, supervised_tokens, auxiliary_loss })
}

/// Log-probabilities of each id given those before it, `[batch, sequence - 1]` in 32 bits: entry `[b, i]` is that of
/// `ids[b, i + 1]`. Also whether each is the most probable id at its place.
///
/// The last id of a row is predicted and never read, so a row may be one id longer than the model's positions.
pub fn token_log_likelihoods(model: &dyn CausalLm, tokens: &Tokens<'_>) -> Result<(Tensor, Tensor)> {
    let pass = Pass::eval();
    let sequence = tokens.ids.size()[1];
    let read = tokens.ids.f_narrow(1, 0, sequence - 1)?; // [b, t - 1]
    let lengths: Option<Vec<i64>> =
        tokens.lengths.map(|lengths| lengths.iter().map(|&length| length.min(sequence - 1)).collect());
    let hidden = model.hidden(&Tokens { ids: &read, lengths: lengths.as_deref() }, None, &pass)?;
    let targets = tokens.ids.f_narrow(1, 1, sequence - 1)?; // [b, t - 1]
    let logits = model.logits(&hidden.states, &pass)?; // [b, t - 1, vocabulary]
    let log_probabilities = logits.f_log_softmax(-1, Kind::Float)?;
    let chosen = log_probabilities.f_gather(-1, &targets.f_unsqueeze(-1)?, false)?.f_squeeze_dim(-1)?;
    let greedy = logits.f_argmax(-1, false)?.f_eq_tensor(&targets)?;
    Ok((chosen, greedy))
}

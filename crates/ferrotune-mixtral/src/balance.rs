//! The router's balancing loss (Switch Transformer, equations 4 to 6, as transformers writes it).

use ferrotune_nn::Result;
use tch::{Kind, Tensor};

/// Which balancing loss a model adds, if any.
///
/// Padding never counts in either form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuxiliaryLoss {
    /// None.
    Off,
    /// The loss of all layers' routing taken together, as transformers computes it. Imbalances of different layers can
    /// cancel.
    #[default]
    Concatenated,
    /// The mean of each layer's loss.
    PerLayer,
}

/// The loss of one or several layers' router logits, each `[tokens, experts]`, before its coefficient; 32 bits.
///
/// `experts · Σₑ f_e · P_e`, where `f_e` is how many of the tokens' choices fell on expert e, per token, and `P_e` the
/// mean probability that the router gave it. 1 would be perfect balance for one choice per token; `top_k` for several.
pub(crate) fn auxiliary_loss(
    form: AuxiliaryLoss,
    router_logits: &[Tensor],
    top_k: i64,
    mask: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    Ok(match form {
        AuxiliaryLoss::Off => None,
        AuxiliaryLoss::Concatenated => Some(balance(router_logits, top_k, mask)?),
        AuxiliaryLoss::PerLayer => {
            let losses: Vec<Tensor> = router_logits
                .iter()
                .map(|layer| balance(std::slice::from_ref(layer), top_k, mask))
                .collect::<Result<_>>()?;
            Some(Tensor::f_stack(&losses, 0)?.f_mean(Kind::Float)?)
        }
    })
}

fn balance(layers: &[Tensor], top_k: i64, mask: Option<&Tensor>) -> Result<Tensor> {
    let experts = layers[0].size()[1];
    let weight = match mask {
        Some(mask) => mask.f_reshape([-1, 1])?.f_to_kind(Kind::Float)?, // [tokens, 1]
        None => layers[0].f_new_ones([layers[0].size()[0], 1], (Kind::Float, layers[0].device()))?,
    };
    let counted = weight.f_sum(Kind::Float)?.f_mul_scalar(layers.len() as f64)?;
    let options = (Kind::Float, layers[0].device());
    let mut chosen = Tensor::f_zeros([experts], options)?;
    let mut probability = Tensor::f_zeros([experts], options)?;
    for logits in layers {
        let probabilities = logits.f_softmax(-1, logits.kind())?; // [tokens, experts]
        let choices = probabilities.f_topk(top_k, -1, true, true)?.1; // [tokens, top_k]
        let weights = weight.f_expand_as(&choices)?.f_reshape([-1])?; // [tokens · top_k]
        chosen = chosen.f_scatter_add(0, &choices.f_reshape([-1])?, &weights)?;
        let probabilities = probabilities.f_to_kind(Kind::Float)?.f_mul(&weight)?;
        probability = probability.f_add(&probabilities.f_sum_dim_intlist(0, false, Kind::Float)?)?;
    }
    let product = chosen.f_div(&counted)?.f_mul(&probability.f_div(&counted)?)?;
    Ok(product.f_sum(Kind::Float)?.f_mul_scalar(experts as f64)?)
}

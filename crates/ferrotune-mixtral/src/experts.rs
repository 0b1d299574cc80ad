//! The sparse mixture of experts: a router, and experts that see only the tokens sent to them.

use ferrotune_nn::{
    Dims, Grouped, GroupedSite, Part, Pass, Projection, ProjectionBuilder, Result, Role, RowGroups, Site,
    Weights, blocks::swiglu,
};
use tch::{Kind, Tensor};

use crate::Config;

/// The block that stands where a dense model has its MLP.
#[derive(Debug)]
pub(crate) struct SparseMoe {
    gate: Box<dyn Projection>,
    gate_up: Box<dyn Grouped>,
    down: Box<dyn Grouped>,
    experts: i64,
    top_k: i64,
}

impl SparseMoe {
    /// Asks for the router `gate` and for `experts.N.{w1,w3}` and `experts.N.w2` at `at`.
    pub(crate) fn build(
        config: &Config,
        at: &Weights<'_>,
        builder: &mut dyn ProjectionBuilder,
    ) -> Result<Self> {
        let (hidden, inner, experts) =
            (config.hidden_size, config.intermediate_size, config.num_local_experts);
        let part = |name, out_features| Part { name, out_features };
        let gate_up = GroupedSite {
            experts,
            in_features: hidden,
            parts: vec![part("w1", inner), part("w3", inner)],
            stacked_name: "mlp.experts.gate_up_proj",
        };
        let down = GroupedSite {
            experts,
            in_features: inner,
            parts: vec![part("w2", hidden)],
            stacked_name: "mlp.experts.down_proj",
        };
        Ok(Self {
            gate: builder.projection(&Site::new(Role::Router, Dims::new(experts, hidden)), &at.at("gate"))?,
            gate_up: builder.grouped(&gate_up, &at.at("experts"))?,
            down: builder.grouped(&down, &at.at("experts"))?,
            experts,
            top_k: config.num_experts_per_tok,
        })
    }

    /// `[b, t, hidden]` to the same, and the router's logits `[b · t, experts]`.
    ///
    /// The order of the router's steps is the reference's: probabilities over all experts in 32 bits, then the top k,
    /// then their renormalization.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        let shape = x.size();
        let hidden = shape[2];
        let rows = x.f_reshape([-1, hidden])?; // [n, hidden]
        let router_logits = self.gate.forward(&rows, pass)?; // [n, experts]
        let probabilities = router_logits.f_softmax(-1, Kind::Float)?;
        let (weights, choices) = probabilities.f_topk(self.top_k, -1, true, true)?; // [n, k]
        let weights = weights.f_div(&weights.f_sum_dim_intlist(-1, true, Kind::Float)?)?;

        // Rows sorted by expert. A stable sort keeps the result independent of how ties would fall.
        let (sorted, order) = choices.f_reshape([-1])?.f_sort_stable(true, 0, false)?; // [n · k]
        let counts = sorted.f_bincount::<Tensor>(None, self.experts)?;
        let groups = RowGroups::from_counts(&counts)?;
        let routed = rows.f_index_select(0, &order.f_floor_divide_scalar(self.top_k)?)?; // [n · k, hidden]

        let gate_up = self.gate_up.forward(&routed, &groups, pass)?; // [n · k, 2 · inner]
        let inner = gate_up.size()[1] / 2;
        let activated = swiglu(&gate_up.f_narrow(1, 0, inner)?, &gate_up.f_narrow(1, inner, inner)?)?;
        let outputs = self.down.forward(&activated, &groups, pass)?; // [n · k, hidden]

        // Back to the order of the tokens: position i of the sorted rows came from order[i].
        let back = order.f_argsort(0, false)?;
        let outputs = outputs.f_index_select(0, &back)?.f_view([-1, self.top_k, hidden])?; // [n, k, hidden]
        let mixed = outputs.f_mul(&weights.f_unsqueeze(-1)?)?.f_sum_dim_intlist(1, false, Kind::Float)?; // [n, hidden]
        Ok((mixed.f_to_kind(x.kind())?.f_view(shape.as_slice())?, router_logits))
    }
}

//! The gated MLP of the LLaMA family.

use tch::Tensor;

use crate::{Dims, Joint, Pass, Projection, ProjectionBuilder, Result, Role, Site, Weights};

/// `down(silu(gate(x)) · up(x))`.
#[derive(Debug)]
pub struct GatedMlp {
    gate_up: Box<dyn Joint>,
    down_proj: Box<dyn Projection>,
}

impl GatedMlp {
    /// Asks for `gate_proj`, `up_proj` and `down_proj` at `at`.
    pub fn build(
        hidden_size: i64,
        intermediate_size: i64,
        bias: bool,
        at: &Weights<'_>,
        builder: &mut dyn ProjectionBuilder,
    ) -> Result<Self> {
        let wide = Site::new(Role::Mlp, Dims::new(intermediate_size, hidden_size)).with_bias(bias);
        let narrow = Site::new(Role::Mlp, Dims::new(hidden_size, intermediate_size)).with_bias(bias);
        Ok(Self {
            gate_up: builder.joint(&[(wide, "gate_proj"), (wide, "up_proj")], at)?,
            down_proj: builder.projection(&narrow, &at.at("down_proj"))?,
        })
    }

    /// `[.., hidden]` to `[.., hidden]`.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let gate_up = self.gate_up.forward(x, pass)?;
        self.down_proj.forward(&swiglu(&gate_up[0], &gate_up[1])?, pass)
    }
}

/// `silu(gate) · up`, rounded after each of the two steps.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    Ok(gate.f_silu()?.f_mul(up)?)
}

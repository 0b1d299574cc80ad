//! The model, from token ids to logits.

use std::sync::Arc;

use ferrotune_nn::{
    CausalLm, Dims, Hidden, KvCache, Parameter, Pass, ProjectionBuilder, Result, Role, Site, Tokens,
    WeightSource, Weights,
    blocks::{Attention, AttentionContext, RmsNorm, Rope},
    decoder::{self, Head},
    recompute::{Block, run_block},
    weights::Layouts,
};
use tch::{Device, Kind, Tensor};

use crate::{AuxiliaryLoss, Config, balance::auxiliary_loss, experts::SparseMoe};

/// A Mixtral language model.
#[derive(Debug)]
pub struct Mixtral {
    config: Config,
    auxiliary_loss: AuxiliaryLoss,
    rope: Rope,
    embed_tokens: Parameter,
    layers: Vec<Arc<DecoderLayer>>,
    norm: RmsNorm,
    head: Head,
    device: Device,
    kind: Kind,
}

impl Mixtral {
    /// Builds the model, reading weights from `source` (in either layout) onto `device` in `kind`.
    ///
    /// # Errors
    /// A missing, misshapen or unexpected tensor, by name; what the builder refuses.
    pub fn load(
        config: Config,
        auxiliary_loss: AuxiliaryLoss,
        source: &dyn WeightSource,
        device: Device,
        kind: Kind,
        builder: &mut dyn ProjectionBuilder,
    ) -> Result<Self> {
        let layouts = Layouts::new(source, &config.weights(), decoder::IGNORED_TENSORS)?;
        let root = Weights::new(&layouts, device, kind);
        let model = root.at("model");
        let hidden = config.hidden_size;
        let embed_tokens =
            builder.parameter(Role::Embedding, &[config.vocab_size, hidden], &model.at("embed_tokens"))?;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| Ok(Arc::new(DecoderLayer::build(&config, &model.at("layers").at(layer), builder)?)))
            .collect::<Result<_>>()?;
        let norm =
            RmsNorm::new(builder.parameter(Role::Norm, &[hidden], &model.at("norm"))?, config.rms_norm_eps);
        let head = if config.tie_word_embeddings {
            Head::Tied(embed_tokens.clone())
        } else {
            let site = Site::new(Role::Head, Dims::new(config.vocab_size, hidden));
            Head::Projection(builder.projection(&site, &root.at("lm_head"))?)
        };
        let rope = Rope::new(config.rope.clone());
        Ok(Self { config, auxiliary_loss, rope, embed_tokens, layers, norm, head, device, kind })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl CausalLm for Mixtral {
    fn hidden(&self, tokens: &Tokens<'_>, mut cache: Option<&mut KvCache>, pass: &Pass) -> Result<Hidden> {
        let start = decoder::start(tokens, cache.as_deref(), self.max_positions())?;
        let count = tokens.ids.size()[1];
        let window = self.config.sliding_window;
        let context =
            Arc::new(AttentionContext::new(&self.rope, start, count, window, self.kind, self.device)?);
        let mut x = decoder::embed(self.embed_tokens.tensor(), tokens.ids, self.kind)?; // [b, t, hidden]
        let mut router_logits = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let mut outputs = match cache.as_deref_mut() {
                Some(cache) => layer.forward(&x, &context, Some((cache, index)), pass)?,
                None => run_block(layer, &x, &context, pass)?,
            };
            router_logits.extend(outputs.pop());
            x = outputs.swap_remove(0);
        }
        if let Some(cache) = cache {
            cache.advance(count);
        }
        let mask = tokens.mask()?;
        let top_k = self.config.num_experts_per_tok;
        let auxiliary_loss = auxiliary_loss(self.auxiliary_loss, &router_logits, top_k, mask.as_ref())?
            .map(|loss| loss.f_mul_scalar(self.config.router_aux_loss_coef))
            .transpose()?;
        Ok(Hidden { states: self.norm.forward(&x)?, auxiliary_loss })
    }

    fn logits(&self, states: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.head.forward(states, pass)
    }

    fn new_cache(&self, batch: i64, capacity: i64) -> Result<KvCache> {
        let Config { num_key_value_heads, head_dim, .. } = self.config;
        KvCache::new(
            self.layers.len(),
            batch,
            num_key_value_heads,
            capacity,
            head_dim,
            self.kind,
            self.device,
        )
    }

    fn max_positions(&self) -> i64 {
        self.config.rope.max_positions()
    }

    fn vocabulary_size(&self) -> i64 {
        self.config.vocab_size
    }

    fn device(&self) -> Device {
        self.device
    }

    fn kind(&self) -> Kind {
        self.kind
    }
}

/// One block: attention and experts, each normalized before and added to what came in.
#[derive(Debug)]
struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    block_sparse_moe: SparseMoe,
}

impl DecoderLayer {
    fn build(config: &Config, at: &Weights<'_>, builder: &mut dyn ProjectionBuilder) -> Result<Self> {
        let norm = |name, builder: &mut dyn ProjectionBuilder| -> Result<RmsNorm> {
            let weight = builder.parameter(Role::Norm, &[config.hidden_size], &at.at(name))?;
            Ok(RmsNorm::new(weight, config.rms_norm_eps))
        };
        let input_layernorm = norm("input_layernorm", builder)?;
        let self_attn = Attention::build(config.attention(), &at.at("self_attn"), builder)?;
        let post_attention_layernorm = norm("post_attention_layernorm", builder)?;
        let block_sparse_moe = SparseMoe::build(config, &at.at("block_sparse_moe"), builder)?;
        Ok(Self { input_layernorm, self_attn, post_attention_layernorm, block_sparse_moe })
    }

    /// The states, and the router's logits.
    fn forward(
        &self,
        x: &Tensor,
        context: &AttentionContext,
        cache: Option<(&mut KvCache, usize)>,
        pass: &Pass,
    ) -> Result<Vec<Tensor>> {
        let attended = self.self_attn.forward(&self.input_layernorm.forward(x)?, context, cache, pass)?;
        let x = x.f_add(&attended)?; // [b, t, hidden]
        let (mixed, router_logits) =
            self.block_sparse_moe.forward(&self.post_attention_layernorm.forward(&x)?, pass)?;
        Ok(vec![x.f_add(&mixed)?, router_logits])
    }
}

impl Block for DecoderLayer {
    type Context = AttentionContext;

    fn forward(&self, x: &Tensor, context: &AttentionContext, pass: &Pass) -> Result<Vec<Tensor>> {
        self.forward(x, context, None, pass)
    }
}

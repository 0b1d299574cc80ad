//! The model, from token ids to logits.

use std::sync::Arc;

use ferrotune_nn::{
    CausalLm, Dims, Hidden, KvCache, Parameter, Pass, ProjectionBuilder, Result, Role, Site, Tokens,
    WeightSource, Weights,
    blocks::{Attention, AttentionContext, GatedMlp, RmsNorm, Rope},
    decoder::{self, Head},
    recompute::{Block, run_block},
    weights::Layouts,
};
use tch::{Device, Kind, Tensor};

use crate::Config;

/// A LLaMA 2 or Mistral language model.
#[derive(Debug)]
pub struct Llama2 {
    config: Config,
    rope: Rope,
    embed_tokens: Parameter,
    layers: Vec<Arc<DecoderLayer>>,
    norm: RmsNorm,
    head: Head,
    device: Device,
    kind: Kind,
}

impl Llama2 {
    /// Builds the model, reading weights from `source` onto `device` in `kind`.
    ///
    /// # Errors
    /// A missing, misshapen or unexpected tensor, by name; what the builder refuses.
    pub fn load(
        config: Config,
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
        Ok(Self {
            rope: Rope::new(config.rope.clone()),
            config,
            embed_tokens,
            layers,
            norm,
            head,
            device,
            kind,
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl CausalLm for Llama2 {
    fn hidden(&self, tokens: &Tokens<'_>, mut cache: Option<&mut KvCache>, pass: &Pass) -> Result<Hidden> {
        let start = decoder::start(tokens, cache.as_deref(), self.max_positions())?;
        let count = tokens.ids.size()[1];
        let window = self.config.sliding_window;
        let context =
            Arc::new(AttentionContext::new(&self.rope, start, count, window, self.kind, self.device)?);
        let mut x = decoder::embed(self.embed_tokens.tensor(), tokens.ids, self.kind)?; // [b, t, hidden]
        for (index, layer) in self.layers.iter().enumerate() {
            x = match cache.as_deref_mut() {
                Some(cache) => layer.forward(&x, &context, Some((cache, index)), pass)?,
                None => run_block(layer, &x, &context, pass)?.swap_remove(0),
            };
        }
        if let Some(cache) = cache {
            cache.advance(count);
        }
        Ok(Hidden { states: self.norm.forward(&x)?, auxiliary_loss: None })
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

/// One block: attention and MLP, each normalized before and added to what came in.
#[derive(Debug)]
struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: GatedMlp,
}

impl DecoderLayer {
    fn build(config: &Config, at: &Weights<'_>, builder: &mut dyn ProjectionBuilder) -> Result<Self> {
        let Config { hidden_size, intermediate_size, rms_norm_eps, mlp_bias, .. } = *config;
        let norm = |name, builder: &mut dyn ProjectionBuilder| -> Result<RmsNorm> {
            Ok(RmsNorm::new(builder.parameter(Role::Norm, &[hidden_size], &at.at(name))?, rms_norm_eps))
        };
        let input_layernorm = norm("input_layernorm", builder)?;
        let self_attn = Attention::build(config.attention(), &at.at("self_attn"), builder)?;
        let post_attention_layernorm = norm("post_attention_layernorm", builder)?;
        let mlp = GatedMlp::build(hidden_size, intermediate_size, mlp_bias, &at.at("mlp"), builder)?;
        Ok(Self { input_layernorm, self_attn, post_attention_layernorm, mlp })
    }

    fn forward(
        &self,
        x: &Tensor,
        context: &AttentionContext,
        cache: Option<(&mut KvCache, usize)>,
        pass: &Pass,
    ) -> Result<Tensor> {
        let attended = self.self_attn.forward(&self.input_layernorm.forward(x)?, context, cache, pass)?;
        let x = x.f_add(&attended)?; // [b, t, hidden]
        let mapped = self.mlp.forward(&self.post_attention_layernorm.forward(&x)?, pass)?;
        Ok(x.f_add(&mapped)?)
    }
}

impl Block for DecoderLayer {
    type Context = AttentionContext;

    fn forward(&self, x: &Tensor, context: &AttentionContext, pass: &Pass) -> Result<Vec<Tensor>> {
        Ok(vec![self.forward(x, context, None, pass)?])
    }
}

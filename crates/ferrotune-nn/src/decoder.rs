//! What every decoder-only model does around its blocks.

use tch::{Kind, Tensor};

use crate::{Error, KvCache, Parameter, Pass, Projection, Result, Role, Tokens, WeightSpec, weights::Alias};

/// Tensors that released checkpoints hold and no model reads: rotary frequencies are computed.
pub const IGNORED_TENSORS: &[&str] = &["rotary_emb.inv_freq"];

/// The token embeddings of a decoder. Where the head is tied to them, files may hold the one tensor under either name,
/// or under both.
#[must_use]
pub fn embedding_spec(vocab_size: i64, hidden_size: i64, tie_word_embeddings: bool) -> WeightSpec {
    WeightSpec {
        name: "model.embed_tokens.weight".to_owned(),
        role: Role::Embedding,
        shape: vec![vocab_size, hidden_size],
        alias: tie_word_embeddings.then(|| Alias { name: "lm_head.weight".to_owned(), slice: None }),
    }
}

/// The position of the first of `tokens`, after checking that all fit.
///
/// # Errors
/// [`Error::TooLong`], [`Error::Argument`].
pub fn start(tokens: &Tokens<'_>, cache: Option<&KvCache>, max_positions: i64) -> Result<i64> {
    let start = cache.map_or(0, KvCache::length);
    let count = tokens.ids.size()[1];
    if start + count > max_positions {
        return Err(Error::TooLong { found: start + count, limit: max_positions });
    }
    if let (Some(_), Some(lengths)) = (cache, tokens.lengths)
        && lengths.iter().any(|&length| length != count)
    {
        let expected = "rows of one length when a cache is used";
        return Err(Error::Argument { argument: "lengths", found: format!("{lengths:?}"), expected });
    }
    Ok(start)
}

/// Rows of the embedding for `ids`: `[b, t]` to `[b, t, hidden]` in `kind`.
pub fn embed(weight: &Tensor, ids: &Tensor, kind: Kind) -> Result<Tensor> {
    Ok(Tensor::f_embedding(weight, ids, -1, false, false)?.f_to_kind(kind)?)
}

/// What turns states into logits.
#[derive(Debug)]
pub enum Head {
    /// The embedding itself.
    Tied(Parameter),
    /// A projection of its own.
    Projection(Box<dyn Projection>),
}

impl Head {
    /// `[.., hidden]` to `[.., vocabulary]`.
    pub fn forward(&self, states: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self {
            Self::Tied(embedding) => {
                Ok(states.f_linear::<Tensor>(&embedding.tensor().f_to_kind(states.kind())?, None)?)
            }
            Self::Projection(projection) => projection.forward(states, pass),
        }
    }
}

//! What training, scoring and generation need of a causal language model.

use std::fmt::Debug;

use tch::{Device, Kind, Tensor};

use crate::{Error, Pass, Result};

/// Token ids as a model reads them: rows padded on the right.
///
/// Under a causal mask nothing to the left of a position can see padding on its right, so lengths matter only where a
/// result is averaged over tokens: the router's auxiliary loss, and the loss itself.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// `[batch, sequence]`, 64-bit integers. Padding may be any valid id.
    pub ids: &'a Tensor,
    /// The true length of each row, or nothing if every row is full.
    pub lengths: Option<&'a [i64]>,
}

impl<'a> Tokens<'a> {
    /// Rows without padding.
    #[must_use]
    pub fn full(ids: &'a Tensor) -> Self {
        Self { ids, lengths: None }
    }

    /// Rows padded on the right, with their true lengths.
    #[must_use]
    pub fn padded(ids: &'a Tensor, lengths: &'a [i64]) -> Self {
        Self { ids, lengths: Some(lengths) }
    }

    /// `[batch, sequence]` of booleans, true at real tokens; nothing if all are real.
    pub fn mask(&self) -> Result<Option<Tensor>> {
        let Some(lengths) = self.lengths else { return Ok(None) };
        let sequence = self.ids.size()[1];
        if lengths.iter().all(|&length| length == sequence) {
            return Ok(None);
        }
        let device = self.ids.device();
        let lengths = Tensor::from_slice(lengths).f_to_device(device)?.f_unsqueeze(1)?; // [b, 1]
        let places = Tensor::f_arange(sequence, (Kind::Int64, device))?.f_unsqueeze(0)?; // [1, t]
        Ok(Some(places.f_lt_tensor(&lengths)?)) // [b, t]
    }
}

/// What the trunk of a model gives.
#[derive(Debug)]
pub struct Hidden {
    /// Final normalized states, `[batch, sequence, hidden]`.
    pub states: Tensor,
    /// A loss that the model's own parts ask for, already multiplied by its coefficient: the balance of a router. A
    /// mean over this batch's real tokens; the trainer adds it without knowing what it is.
    pub auxiliary_loss: Option<Tensor>,
}

/// A decoder-only language model, cut between trunk and head so that a loss can take the head a piece at a time.
///
/// Implementors provide all methods. Dropout and recomputation follow the [`Pass`].
pub trait CausalLm: Debug + Send + Sync {
    /// Final hidden states of `tokens`, which continue what `cache` holds.
    ///
    /// # Errors
    /// [`Error::TooLong`] beyond the model's positions; [`Error::Argument`] if rows of unequal length continue a cache.
    fn hidden(&self, tokens: &Tokens<'_>, cache: Option<&mut KvCache>, pass: &Pass) -> Result<Hidden>;

    /// Scores of the next token: `[.., hidden]` to `[.., vocabulary]`, in the compute type.
    fn logits(&self, states: &Tensor, pass: &Pass) -> Result<Tensor>;

    /// An empty cache for `batch` rows of at most `capacity` tokens.
    fn new_cache(&self, batch: i64, capacity: i64) -> Result<KvCache>;

    /// The most tokens that a sequence may have.
    fn max_positions(&self) -> i64;

    /// Number of token ids.
    fn vocabulary_size(&self) -> i64;

    /// Where the weights are.
    fn device(&self) -> Device;

    /// The compute type.
    fn kind(&self) -> Kind;
}

/// Keys and values of the tokens read so far, per layer.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<[Tensor; 2]>, // keys, values: [b, kv_heads, capacity, head_dim]
    length: i64,
    capacity: i64,
}

impl KvCache {
    /// An empty cache.
    pub fn new(
        layers: usize,
        batch: i64,
        kv_heads: i64,
        capacity: i64,
        head_dim: i64,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let empty = || Tensor::f_zeros([batch, kv_heads, capacity, head_dim], (kind, device));
        let layers = (0..layers).map(|_| Ok([empty()?, empty()?])).collect::<Result<_>>()?;
        Ok(Self { layers, length: 0, capacity })
    }

    /// Tokens held.
    #[must_use]
    pub fn length(&self) -> i64 {
        self.length
    }

    /// Makes room for `count` further tokens, to be called once per pass after all layers appended.
    pub fn advance(&mut self, count: i64) {
        self.length += count;
    }

    /// Stores a layer's keys and values `[b, kv_heads, t, head_dim]` after those held, and returns all so far.
    ///
    /// # Errors
    /// [`Error::TooLong`] beyond the capacity.
    pub fn append(&mut self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<[Tensor; 2]> {
        let count = keys.size()[2];
        let end = self.length + count;
        let held = self.layers.get(layer).map(|[keys, _]| keys.size()[0]);
        if held != Some(keys.size()[0]) {
            let found = format!("made for {held:?} rows in layer {layer}");
            return Err(Error::Argument {
                argument: "cache",
                found,
                expected: "a cache of this model and batch",
            });
        }
        if end > self.capacity {
            return Err(Error::TooLong { found: end, limit: self.capacity });
        }
        let store = |held: &Tensor, new: &Tensor| -> Result<Tensor> {
            held.f_narrow(2, self.length, count)?.f_copy_(new)?;
            Ok(held.f_narrow(2, 0, end)?)
        };
        let [held_keys, held_values] = &self.layers[layer];
        Ok([store(held_keys, keys)?, store(held_values, values)?])
    }
}

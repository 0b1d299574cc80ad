use crate::BoxError;

/// Turns sentences into vectors; implementors provide [`embed`](Self::embed), [`dimension`](Self::dimension) and
/// [`name`](Self::name).
pub trait Embedder: Send + Sync {
    /// One vector of length [`dimension`](Self::dimension) for each text, in order.
    ///
    /// The result for a text must not depend on the texts beside it, so that scores are the same for any batching.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, BoxError>;

    /// The length of every vector.
    fn dimension(&self) -> usize;

    /// What a report calls this encoder, with a hash of its weights where there is one.
    fn name(&self) -> String;
}

/// The tokens of a text with their vectors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenVectors {
    /// Token ids, marks of begin and end included.
    pub ids: Vec<u32>,
    /// A vector for each token, one after the other: `[tokens, dimension]`.
    pub vectors: Vec<f32>,
    /// Whether the text is longer than the encoder reads, and lost its end.
    pub is_truncated: bool,
}

/// Gives every token of a text its contextual vector; implementors provide all methods.
pub trait TokenEmbedder: Send + Sync {
    /// Tokens and vectors of each text, in order.
    ///
    /// The result for a text must not depend on the texts beside it, so that scores are the same for any batching.
    fn embed_tokens(&self, texts: &[&str]) -> Result<Vec<TokenVectors>, BoxError>;

    /// The ids of the marks that begin and end every text.
    fn mark_ids(&self) -> [u32; 2];

    /// The length of every vector.
    fn dimension(&self) -> usize;

    /// What a report calls this encoder: model, layer, hash of the weights.
    fn name(&self) -> String;
}

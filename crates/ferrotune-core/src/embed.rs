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

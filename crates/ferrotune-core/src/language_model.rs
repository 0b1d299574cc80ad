use crate::BoxError;

/// A request for the log-likelihood of `text` after `context`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// What the model reads first; empty for an unconditional likelihood (the model then reads BOS alone).
    pub context: String,
    /// The text whose tokens are scored.
    pub text: String,
}

/// The log-likelihood of a continuation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// Sum of natural-log probabilities over the scored tokens.
    pub log_likelihood: f64,
    /// How many tokens were scored.
    pub tokens: usize,
    /// Whether every scored token is the model's most probable one at its place.
    pub is_greedy: bool,
    /// How many tokens were dropped from the beginning of the context to fit the model's positions.
    pub dropped: usize,
}

/// When generation ends and how a token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationLimits {
    /// The most tokens to generate.
    pub max_new_tokens: usize,
    /// Texts that end the generation. The returned text is cut at the first occurrence of each in turn.
    pub stop: Vec<String>,
    /// 0 is greedy; above 0 divides the logits before sampling.
    pub temperature: f64,
    /// Above temperature 0, draws only from the most probable tokens whose probabilities add up to this; 1 keeps all.
    pub top_p: f64,
    /// Seeds sampling; unused when greedy. With it and its place among the prompts, an answer's draws are fixed.
    pub seed: u64,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model produced its end-of-sequence token.
    EndOfSequence,
    /// One of [`GenerationLimits::stop`] appeared.
    StopText,
    /// [`GenerationLimits::max_new_tokens`] or the model's positions were used up.
    Length,
}

/// A generated answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The new text, without prompt, special tokens and stop text.
    pub text: String,
    /// How many tokens were generated.
    pub tokens: usize,
    /// Why it ended.
    pub stop: StopReason,
    /// How many tokens were dropped from the beginning of the prompt to leave room for the answer.
    pub dropped: usize,
}

/// What evaluation asks of a language model; implementors provide both methods.
///
/// Results must not depend on how requests are batched beyond floating-point rounding, and come in request order. What
/// is too long for the model loses its beginning and says so in `dropped`, which callers count.
pub trait LanguageModel {
    /// The log-likelihood of each continuation after its context.
    fn log_likelihoods(&mut self, requests: &[Continuation]) -> Result<Vec<Likelihood>, BoxError>;

    /// One answer for each prompt. Prompts are complete: a template has been applied, BOS is added by the model.
    fn generate(
        &mut self,
        prompts: &[String],
        limits: &GenerationLimits,
    ) -> Result<Vec<Generation>, BoxError>;
}

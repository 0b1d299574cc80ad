//! Generation of text, one id at a time, over any [`CausalLm`].

mod choose;

use choose::{Draws, choose};
use tch::{Kind, Tensor};

use crate::{CausalLm, Error, Pass, Result, Tokens};

/// How ids are chosen and when generation ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable id; above 0 divides the logits before drawing.
    pub temperature: f64,
    /// Draws only from the most probable ids whose probabilities add up to this; 1 keeps all.
    pub top_p: f64,
    /// Draws only from this many most probable ids; 0 keeps all.
    pub top_k: i64,
    /// Divides (or multiplies, below 0) the logits of ids that already occurred; 1 changes nothing (Keskar et al.,
    /// 2019, section 4.1).
    pub repetition_penalty: f64,
    /// The most ids to generate.
    pub max_new_tokens: i64,
    /// Ids that end a row.
    pub eos: Vec<i64>,
    /// Above temperature 0, what is drawn follows from this, the row's stream and its logits alone.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
            max_new_tokens: 256,
            eos: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    fn validate(&self) -> Result<()> {
        let check = |good: bool, argument, found: String, expected| {
            if good { Ok(()) } else { Err(Error::Argument { argument, found, expected }) }
        };
        let Self { temperature, top_p, top_k, repetition_penalty, max_new_tokens, .. } = self;
        check(
            temperature.is_finite() && *temperature >= 0.0,
            "temperature",
            temperature.to_string(),
            "0 or above",
        )?;
        check(*top_p > 0.0 && *top_p <= 1.0, "top_p", top_p.to_string(), "above 0, at most 1")?;
        check(*top_k >= 0, "top_k", top_k.to_string(), "0 or above")?;
        let penalty = *repetition_penalty;
        check(penalty.is_finite() && penalty > 0.0, "repetition_penalty", penalty.to_string(), "above 0")?;
        check(*max_new_tokens >= 0, "max_new_tokens", max_new_tokens.to_string(), "0 or above")
    }
}

/// The ids that one row goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// At least one id, BOS included.
    pub ids: Vec<i64>,
    /// Which of the seed's streams of random numbers the row draws from. A row that keeps its stream draws the same
    /// whatever it is continued together with; rows of one prompt need different ones to differ.
    pub stream: u64,
}

/// The new ids of a row, without the id that ended it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continued {
    /// New ids.
    pub ids: Vec<i64>,
    /// Whether an end id came, rather than the limit.
    pub ended: bool,
}

/// Continues prompts of one length together, the row at place `i` drawing from stream `i`.
///
/// Generation ends early where the model's positions end. libtorch's generators are neither read nor moved, so nothing
/// else in the process changes what is drawn.
///
/// # Errors
/// [`Error::Argument`] for prompts that are empty or of unequal length, [`Error::TooLong`], [`Error::UnknownToken`],
/// [`Error::Logits`] where the model gives no finite largest logit.
///
/// ```
/// use ferrotune_nn::{CausalLm, Result, generate::{Sampling, generate}};
///
/// /// Three answers to one prompt, each from a stream of its own.
/// fn answers(model: &dyn CausalLm, prompt: &[i64], eos: i64) -> Result<Vec<Vec<i64>>> {
///     let sampling = Sampling { temperature: 0.7, top_p: 0.9, eos: vec![eos], seed: 42, ..Sampling::default() };
///     let rows = vec![prompt.to_vec(); 3];
///     Ok(generate(model, &rows, &sampling)?.into_iter().map(|row| row.ids).collect())
/// }
/// ```
pub fn generate(model: &dyn CausalLm, prompts: &[Vec<i64>], sampling: &Sampling) -> Result<Vec<Continued>> {
    let prompts: Vec<Prompt> =
        prompts.iter().zip(0..).map(|(ids, stream)| Prompt { ids: ids.clone(), stream }).collect();
    generate_until(model, &prompts, sampling, &mut |_| false)
}

/// The same with each row's own stream, where a row also ends once `is_enough` says so of its new ids; it is asked after
/// each of them.
///
/// # Errors
/// As [`generate`].
pub fn generate_until(
    model: &dyn CausalLm,
    prompts: &[Prompt],
    sampling: &Sampling,
    is_enough: &mut dyn FnMut(&[i64]) -> bool,
) -> Result<Vec<Continued>> {
    sampling.validate()?;
    let Some(first) = prompts.first() else { return Ok(Vec::new()) };
    let length = first.ids.len() as i64;
    if length == 0 || prompts.iter().any(|prompt| prompt.ids.len() as i64 != length) {
        let found = format!("{:?} ids", prompts.iter().map(|prompt| prompt.ids.len()).collect::<Vec<_>>());
        return Err(Error::Argument {
            argument: "prompts",
            found,
            expected: "at least one id each, all of one length",
        });
    }
    let limit = model.vocabulary_size();
    if let Some(&found) = prompts.iter().flat_map(|prompt| &prompt.ids).find(|&&id| id < 0 || id >= limit) {
        return Err(Error::UnknownToken { found, limit });
    }
    let max_positions = model.max_positions();
    if length > max_positions {
        return Err(Error::TooLong { found: length, limit: max_positions });
    }
    let new_tokens = sampling.max_new_tokens.min(max_positions - length);
    let rows = prompts.len() as i64;
    let mut results = vec![Continued::default(); prompts.len()];
    let mut seen: Vec<Vec<i64>> = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
    let mut draws = Draws::new(sampling.seed, prompts.iter().map(|prompt| prompt.stream));
    let mut done = vec![false; prompts.len()];
    tch::no_grad(|| {
        let pass = Pass::eval();
        let mut cache = model.new_cache(rows, length + new_tokens)?;
        let mut input =
            Tensor::from_slice(&seen.concat()).f_view([rows, length])?.f_to_device(model.device())?;
        for _ in 0..new_tokens {
            let states = model.hidden(&Tokens::full(&input), Some(&mut cache), &pass)?.states; // [b, t, hidden]
            let last = states.f_select(1, -1)?; // [b, hidden]
            let logits = model.logits(&last, &pass)?.f_to_kind(Kind::Float)?; // [b, vocabulary]
            let next = choose(&logits, &seen, sampling, &mut draws)?; // [b]
            for (((result, seen), done), &id) in results.iter_mut().zip(&mut seen).zip(&mut done).zip(&next) {
                if *done {
                    continue;
                }
                result.ended = sampling.eos.contains(&id);
                if !result.ended {
                    result.ids.push(id);
                    seen.push(id);
                }
                *done = result.ended || is_enough(&result.ids);
            }
            if done.iter().all(|&done| done) {
                break;
            }
            input = Tensor::from_slice(&next).f_unsqueeze(1)?.f_to_device(model.device())?; // [b, 1]
        }
        Ok(results)
    })
}

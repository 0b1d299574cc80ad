//! Generation of text, one id at a time, over any [`CausalLm`].

use tch::{Device, Kind, Tensor};

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

/// The new ids of a row, without the id that ended it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continued {
    /// New ids.
    pub ids: Vec<i64>,
    /// Whether an end id came, rather than the limit.
    pub ended: bool,
}

/// Continues prompts of one length together. Drawing uses libtorch's default generator of the model's device.
///
/// Generation ends early where the model's positions end.
///
/// # Errors
/// [`Error::Argument`] for prompts that are empty or of unequal length, [`Error::TooLong`], [`Error::UnknownToken`].
pub fn generate(model: &dyn CausalLm, prompts: &[Vec<i64>], sampling: &Sampling) -> Result<Vec<Continued>> {
    generate_until(model, prompts, sampling, &mut |_| false)
}

/// The same, where a row also ends once `is_enough` says so of its new ids; it is asked after each of them.
///
/// # Errors
/// As [`generate`].
pub fn generate_until(
    model: &dyn CausalLm,
    prompts: &[Vec<i64>],
    sampling: &Sampling,
    is_enough: &mut dyn FnMut(&[i64]) -> bool,
) -> Result<Vec<Continued>> {
    sampling.validate()?;
    let Some(first) = prompts.first() else { return Ok(Vec::new()) };
    let length = first.len() as i64;
    if length == 0 || prompts.iter().any(|prompt| prompt.len() as i64 != length) {
        let found = format!("{:?} ids", prompts.iter().map(Vec::len).collect::<Vec<_>>());
        return Err(Error::Argument {
            argument: "prompts",
            found,
            expected: "at least one id each, all of one length",
        });
    }
    let limit = model.vocabulary_size();
    if let Some(&found) = prompts.iter().flatten().find(|&&id| id < 0 || id >= limit) {
        return Err(Error::UnknownToken { found, limit });
    }
    let max_positions = model.max_positions();
    if length > max_positions {
        return Err(Error::TooLong { found: length, limit: max_positions });
    }
    let new_tokens = sampling.max_new_tokens.min(max_positions - length);
    let rows = prompts.len() as i64;
    let mut results = vec![Continued::default(); prompts.len()];
    let mut seen: Vec<Vec<i64>> = prompts.to_vec();
    let mut done = vec![false; prompts.len()];
    tch::no_grad(|| {
        let pass = Pass::eval();
        let mut cache = model.new_cache(rows, length + new_tokens)?;
        let mut input =
            Tensor::from_slice(&prompts.concat()).f_view([rows, length])?.f_to_device(model.device())?;
        for _ in 0..new_tokens {
            let states = model.hidden(&Tokens::full(&input), Some(&mut cache), &pass)?.states; // [b, t, hidden]
            let last = states.f_select(1, -1)?; // [b, hidden]
            let logits = model.logits(&last, &pass)?.f_to_kind(Kind::Float)?; // [b, vocabulary]
            let next = choose(&logits, &seen, sampling)?; // [b]
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

/// The next id of each row.
fn choose(logits: &Tensor, seen: &[Vec<i64>], sampling: &Sampling) -> Result<Vec<i64>> {
    let mut logits = logits.shallow_clone();
    if sampling.repetition_penalty != 1.0 {
        logits = penalized(&logits, seen, sampling.repetition_penalty)?;
    }
    let chosen = if sampling.temperature == 0.0 {
        logits.f_argmax(-1, false)?
    } else {
        let logits =
            nucleus(&top(&logits.f_div_scalar(sampling.temperature)?, sampling.top_k)?, sampling.top_p)?;
        logits.f_softmax(-1, Kind::Float)?.f_multinomial(1, false)?.f_squeeze_dim(1)?
    };
    Ok(Vec::<i64>::try_from(chosen.f_to_device(Device::Cpu)?)?)
}

fn penalized(logits: &Tensor, seen: &[Vec<i64>], penalty: f64) -> Result<Tensor> {
    let logits = logits.f_detach_copy()?;
    for (row, ids) in (0..).zip(seen) {
        let row = logits.f_select(0, row)?;
        let ids = Tensor::from_slice(ids).f_to_device(logits.device())?;
        let scores = row.f_index_select(0, &ids)?;
        let lowered =
            scores.f_mul_scalar(penalty)?.f_where_self(&scores.f_lt(0.0)?, &scores.f_div_scalar(penalty)?)?;
        let _ = row.shallow_clone().f_scatter_(0, &ids, &lowered)?;
    }
    Ok(logits)
}

/// Keeps the `count` largest logits of each row.
fn top(logits: &Tensor, count: i64) -> Result<Tensor> {
    let vocabulary = logits.size()[1];
    if count == 0 || count >= vocabulary {
        return Ok(logits.shallow_clone());
    }
    let smallest_kept = logits.f_topk(count, -1, true, true)?.0.f_narrow(1, count - 1, 1)?; // [b, 1]
    Ok(logits.f_masked_fill(&logits.f_lt_tensor(&smallest_kept)?, f64::NEG_INFINITY)?)
}

/// Keeps the most probable ids whose probabilities add up to at least `mass`; always at least one.
fn nucleus(logits: &Tensor, mass: f64) -> Result<Tensor> {
    if mass >= 1.0 {
        return Ok(logits.shallow_clone());
    }
    let (sorted, order) = logits.f_sort(-1, true)?;
    let probabilities = sorted.f_softmax(-1, Kind::Float)?;
    let before = probabilities.f_cumsum(-1, Kind::Float)?.f_sub(&probabilities)?; // mass of more probable ids
    let dropped = before.f_ge(mass)?.f_to_kind(Kind::Int64)?;
    let dropped = dropped.f_zeros_like()?.f_scatter(-1, &order, &dropped)?.f_to_kind(Kind::Bool)?;
    Ok(logits.f_masked_fill(&dropped, f64::NEG_INFINITY)?)
}

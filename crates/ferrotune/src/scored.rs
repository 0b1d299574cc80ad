//! A model and its tokenizer as the port that evaluation speaks to.

use ferrotune_core::{
    BoxError, Continuation, Generation, GenerationLimits, LanguageModel, Likelihood, StopReason, Tokenize,
};
use ferrotune_nn::{
    CausalLm, Tokens,
    generate::{Prompt, Sampling, generate_until},
    loss::token_log_likelihoods,
};
use tch::Tensor;

use crate::{Error, Result};

/// How many ids a batch may hold, padding included, unless a single row is longer.
const DEFAULT_BATCH_TOKENS: usize = 4096;

/// What prompts are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptText {
    /// Text: what spells a special token is text, and BOS is put before it.
    #[default]
    Plain,
    /// What a chat template wrote: what spells a special token is that token, and BOS is put before it only where the
    /// template did not.
    Markup,
}

/// A causal language model with its tokenizer.
///
/// Batches are formed by length and results put back in order, so they depend on the batch size only by rounding. (With
/// [dynamic](ferrotune_nn::blocks::Scaling::Dynamic) rope scaling and rows beyond the model's own positions, a batch of one
/// row at a time gives each its own base.)
#[derive(Debug)]
pub struct ScoredModel<'m, T> {
    model: &'m dyn CausalLm,
    tokenizer: &'m T,
    batch_tokens: usize,
    prompts: PromptText,
}

impl<'m, T> ScoredModel<'m, T> {
    /// The port over `model`. Scoring ids alone needs no tokenizer; `&()` will do.
    #[must_use]
    pub fn new(model: &'m dyn CausalLm, tokenizer: &'m T) -> Self {
        Self { model, tokenizer, batch_tokens: DEFAULT_BATCH_TOKENS, prompts: PromptText::Plain }
    }

    /// The same with another size of batch, in ids with padding.
    #[must_use]
    pub fn with_batch_tokens(self, batch_tokens: usize) -> Self {
        Self { batch_tokens, ..self }
    }

    /// The same for prompts of this kind.
    #[must_use]
    pub fn with_prompts(self, prompts: PromptText) -> Self {
        Self { prompts, ..self }
    }

    /// The log-likelihood of each row's supervised ids, each given all ids before it. Row by row in the given order.
    ///
    /// # Errors
    /// [`Error::TextTooLong`] for a row that is longer than the model's positions; what the model gives.
    pub fn score_ids(&self, rows: &[(Vec<u32>, Vec<bool>)]) -> Result<Vec<Likelihood>> {
        self.score_rows(rows, self.model.max_positions())
    }

    /// The same for rows of at most `limit` ids.
    fn score_rows(&self, rows: &[(Vec<u32>, Vec<bool>)], limit: i64) -> Result<Vec<Likelihood>> {
        if let Some((index, (ids, _))) =
            rows.iter().enumerate().find(|(_, (ids, _))| ids.len() as i64 > limit)
        {
            return Err(Error::TextTooLong { what: format!("row {index}"), found: ids.len(), limit });
        }
        if let Some((index, (ids, scored))) =
            rows.iter().enumerate().find(|(_, row)| row.0.len() != row.1.len())
        {
            return Err(Error::Setting {
                setting: "rows".into(),
                found: format!("{} marks for the {} ids of row {index}", scored.len(), ids.len()),
                expected: "one mark for each id".to_owned(),
            });
        }
        let mut likelihoods =
            vec![Likelihood { log_likelihood: 0.0, tokens: 0, is_greedy: true, dropped: 0 }; rows.len()];
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&row| std::cmp::Reverse(rows[row].0.len()));
        for batch in batches(&order, |row| rows[row].0.len(), self.batch_tokens) {
            self.score_batch(rows, batch, &mut likelihoods)?;
        }
        Ok(likelihoods)
    }

    fn score_batch(
        &self,
        rows: &[(Vec<u32>, Vec<bool>)],
        batch: &[usize],
        into: &mut [Likelihood],
    ) -> Result<()> {
        let lengths: Vec<i64> = batch.iter().map(|&row| rows[row].0.len() as i64).collect();
        let width = lengths.iter().copied().max().unwrap_or(0);
        if width < 2 {
            return Ok(()); // a single id has nothing before it, so there is nothing to score
        }
        let mut ids = vec![0_i64; batch.len() * width as usize];
        for (place, &row) in ids.chunks_mut(width as usize).zip(batch) {
            place.iter_mut().zip(&rows[row].0).for_each(|(place, &id)| *place = i64::from(id));
        }
        let ids =
            Tensor::from_slice(&ids).f_view([batch.len() as i64, width])?.f_to_device(self.model.device())?;
        let (scores, greedy) =
            tch::no_grad(|| token_log_likelihoods(self.model, &Tokens::padded(&ids, &lengths)))?;
        let scores = Vec::<f32>::try_from(scores.f_reshape([-1])?.f_to_device(tch::Device::Cpu)?)?;
        let greedy = Vec::<bool>::try_from(greedy.f_reshape([-1])?.f_to_device(tch::Device::Cpu)?)?;
        let width = width as usize - 1;
        for (index, &row) in batch.iter().enumerate() {
            let likelihood = &mut into[row];
            for position in (1..rows[row].0.len()).filter(|&position| rows[row].1[position]) {
                let place = index * width + position - 1;
                likelihood.log_likelihood += f64::from(scores[place]);
                likelihood.tokens += 1;
                likelihood.is_greedy &= greedy[place];
            }
        }
        Ok(())
    }
}

impl<T: Tokenize> ScoredModel<'_, T> {
    /// Answers to prompts given as ids, BOS included. Prompts of one length are continued together; what is drawn for one
    /// depends on its place among `prompts` and on the seed, never on the batch.
    ///
    /// # Errors
    /// [`Error::TextTooLong`] for a prompt that leaves no position to answer in; what the model gives.
    pub fn generate_ids(&self, prompts: &[Vec<u32>], limits: &GenerationLimits) -> Result<Vec<Generation>> {
        self.generate_ids_with(prompts, limits, &mut |_| {})
    }

    /// The same, telling after each batch how many prompts are answered.
    ///
    /// # Errors
    /// As [`generate_ids`](Self::generate_ids).
    pub fn generate_ids_with(
        &self,
        prompts: &[Vec<u32>],
        limits: &GenerationLimits,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Generation>> {
        let positions = self.model.max_positions();
        if let Some((index, prompt)) =
            prompts.iter().enumerate().find(|(_, prompt)| prompt.len() as i64 >= positions)
        {
            return Err(Error::TextTooLong {
                what: format!("prompt {index}"),
                found: prompt.len(),
                limit: positions,
            });
        }
        let sampling = Sampling {
            temperature: limits.temperature,
            top_p: limits.top_p,
            max_new_tokens: limits.max_new_tokens as i64,
            eos: self.tokenizer.special().ends().map(i64::from).collect(),
            seed: limits.seed,
            ..Sampling::default()
        };
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&prompt| prompts[prompt].len());
        let mut answers: Vec<Option<Generation>> = vec![None; prompts.len()];
        let mut answered = 0;
        for same_length in order.chunk_by(|&a, &b| prompts[a].len() == prompts[b].len()) {
            let reach = |prompt: usize| prompts[prompt].len().saturating_add(limits.max_new_tokens);
            for batch in batches(same_length, reach, self.batch_tokens) {
                let rows: Vec<Prompt> = batch
                    .iter()
                    .map(|&prompt| {
                        let ids = prompts[prompt].iter().map(|&id| i64::from(id)).collect();
                        Prompt { ids, stream: prompt as u64 }
                    })
                    .collect();
                for (&prompt, continued) in
                    batch.iter().zip(generate_until(self.model, &rows, &sampling, &mut |ids| {
                        self.has_stop(ids, &limits.stop)
                    })?)
                {
                    answers[prompt] = Some(self.decoded(&continued, limits)?);
                }
                answered += batch.len();
                progress(answered);
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Whether new ids spell one of the stops. Only their end is decoded for most of them, as it is asked after every id.
    fn has_stop(&self, ids: &[i64], stops: &[String]) -> bool {
        let Some(longest) = stops.iter().map(String::len).max().filter(|&longest| longest > 0) else {
            return false;
        };
        let found = |ids: &[i64]| {
            let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
            // What cannot be decoded is reported when the whole answer is.
            let text = self.tokenizer.decode(&ids).unwrap_or_default();
            stops.iter().any(|stop| !stop.is_empty() && text.contains(stop.as_str()))
        };
        // A token has a byte at least; a few more, so that no stop begins where a decoder drops a space.
        found(&ids[ids.len().saturating_sub(longest + 4)..]) && found(ids)
    }

    fn decoded(
        &self,
        continued: &ferrotune_nn::generate::Continued,
        limits: &GenerationLimits,
    ) -> Result<Generation> {
        let ids: Vec<u32> = continued.ids.iter().map(|&id| id as u32).collect();
        let mut text = self.tokenizer.decode(&ids).map_err(|source| Error::Decode { source })?;
        let mut stop = if continued.ended { StopReason::EndOfSequence } else { StopReason::Length };
        for end in limits.stop.iter().filter(|stop| !stop.is_empty()) {
            if let Some(end) = text.find(end.as_str()) {
                text.truncate(end);
                stop = StopReason::StopText;
            }
        }
        Ok(Generation { text, tokens: ids.len(), stop, dropped: 0 })
    }

    /// The ids of a text that begins a sequence, BOS included.
    fn beginning(&self, text: &str) -> Result<Vec<u32>, BoxError> {
        let bos = self.tokenizer.special().bos;
        let ids = match self.prompts {
            PromptText::Plain => self.tokenizer.encode(text)?.ids,
            PromptText::Markup => self.tokenizer.encode_markup(text)?.ids,
        };
        let has_bos = self.prompts == PromptText::Markup && bos.is_some() && ids.first().copied() == bos;
        Ok(bos.filter(|_| !has_bos).into_iter().chain(ids).collect())
    }

    /// The ids of a context and of a text after it, and where the text's begin.
    ///
    /// The text's ids are those of both together beyond as many as the context has by itself, and the context's are its
    /// own: where a token spans the two, it is cut as lm-evaluation-harness cuts it (`_encode_pair`). Whitespace at the
    /// end of the context counts as part of the text, since tokens begin with it.
    fn pair(&self, request: &Continuation) -> Result<(Vec<u32>, usize), BoxError> {
        let context = request.context.trim_end();
        let together = self.beginning(&format!("{}{}", request.context, request.text))?;
        let mut ids = if request.context.is_empty() {
            self.tokenizer.special().bos.into_iter().collect()
        } else {
            self.beginning(context)?
        };
        let start = ids.len();
        ids.extend(together.iter().skip(start));
        if ids.len() == start && !request.text.is_empty() {
            return Err(Error::Setting {
                setting: "text to score".into(),
                found: format!("{:?}, whose tokens join those of its context", request.text),
                expected: "a text that adds a token to its context".to_owned(),
            }
            .into());
        }
        Ok((ids, start))
    }
}

impl<T: Tokenize> LanguageModel for ScoredModel<'_, T> {
    /// Context and text become ids as in lm-evaluation-harness. What exceeds the model's positions is dropped from the beginning of the context, never from the text.
    fn log_likelihoods(&mut self, requests: &[Continuation]) -> Result<Vec<Likelihood>, BoxError> {
        // The last id is predicted and never read.
        let limit = self.model.max_positions() + 1;
        let mut dropped = Vec::with_capacity(requests.len());
        let mut rows = Vec::with_capacity(requests.len());
        for request in requests {
            let (mut ids, start) = self.pair(request)?;
            // At least one id stays before the text; a text that is longer is an error of the scorer.
            let excess = ids.len().saturating_sub(limit as usize).min(start.saturating_sub(1));
            ids.drain(..excess);
            let scored = (0..ids.len()).map(|place| place + excess >= start).collect();
            rows.push((ids, scored));
            dropped.push(excess);
        }
        let found = self.score_rows(&rows, limit)?;
        Ok(found.into_iter().zip(dropped).map(|(found, dropped)| Likelihood { dropped, ..found }).collect())
    }

    /// A prompt that leaves no room for the answer loses its beginning, as in lm-evaluation-harness; where the answer may
    /// be longer than half of the model's positions, the prompt keeps the other half.
    fn generate(
        &mut self,
        prompts: &[String],
        limits: &GenerationLimits,
    ) -> Result<Vec<Generation>, BoxError> {
        let positions = self.model.max_positions() as usize;
        let room = positions - limits.max_new_tokens.min(positions / 2);
        let mut dropped = Vec::with_capacity(prompts.len());
        let mut rows = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let ids = self.beginning(prompt)?;
            let excess = ids.len().saturating_sub(room);
            rows.push(ids[excess..].to_vec());
            dropped.push(excess);
        }
        let found = self.generate_ids(&rows, limits)?;
        Ok(found.into_iter().zip(dropped).map(|(found, dropped)| Generation { dropped, ..found }).collect())
    }
}

/// Consecutive pieces of `order` whose longest member times their number stays within `tokens`; at least one each.
fn batches(order: &[usize], length: impl Fn(usize) -> usize, tokens: usize) -> Vec<&[usize]> {
    let mut pieces = Vec::new();
    let mut rest = order;
    while !rest.is_empty() {
        let mut longest = 0;
        let count = rest
            .iter()
            .enumerate()
            .take_while(|&(index, &row)| {
                longest = longest.max(length(row));
                index == 0 || longest.saturating_mul(index + 1) <= tokens
            })
            .count();
        let (piece, others) = rest.split_at(count);
        pieces.push(piece);
        rest = others;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::batches;

    #[test]
    fn batches_hold_what_fits_and_at_least_one_row() {
        let cut = |lengths: &[usize], tokens| -> Vec<usize> {
            let order: Vec<usize> = (0..lengths.len()).collect();
            batches(&order, |row| lengths[row], tokens).iter().map(|batch| batch.len()).collect()
        };
        assert_eq!(cut(&[4, 3, 3, 2, 1], 8), [2, 2, 1]);
        assert_eq!(cut(&[9, 9], 8), [1, 1]);
        assert_eq!(cut(&[usize::MAX, usize::MAX], 8), [1, 1]);
        assert_eq!(cut(&[], 8), [0usize; 0]);
    }
}

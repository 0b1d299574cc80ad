//! What judging would ask, found in the cache and without a request.

use std::cell::RefCell;

use super::{
    Estimate, Judging,
    interview::{Interview, Log, Source, Stop},
};
use crate::Pair;

/// What a judge is told about a reply that cannot be used, in tokens, at most.
const REMINDER: u64 = 100;

/// What would be asked about one sample, added up.
pub(crate) struct Plan<'p> {
    judging: &'p Judging,
    sample: &'p str,
    repeat: u32,
    estimate: Estimate,
}

/// What a conversation would come to.
pub(crate) enum Planned<T> {
    /// What the cache has.
    Known(T),
    /// Nobody knows before the judge is asked.
    Open,
}

impl Plan<'_> {
    /// A conversation that `settle` leads, which puts its question at most `repairs` times more. `None` if what the cache has
    /// fails the sample, so that nothing more is asked about it.
    pub(crate) fn settle<T>(
        &mut self,
        repairs: u32,
        settle: impl FnOnce(&Interview<'_>) -> Result<T, Stop>,
    ) -> Option<Planned<T>> {
        let log = RefCell::default();
        let found = settle(&Interview {
            judging: self.judging,
            sample: self.sample,
            repeat: self.repeat,
            source: Source::Cache,
            log: &log,
        });
        let Log { usage, unasked, .. } = log.into_inner();
        self.estimate.cached += usage.cached;
        match (found, unasked) {
            (_, Some(unasked)) => {
                self.add(unasked.tokens, 1 + repairs.saturating_sub(unasked.depth));
                Some(Planned::Open)
            }
            (Ok(found), None) => Some(Planned::Known(found)),
            (Err(_), None) => None,
        }
    }

    /// A conversation whose question depends on replies that nobody knows; of about so many bytes.
    pub(crate) fn expect(&mut self, bytes: usize, repairs: u32) {
        self.add(bytes.div_ceil(4) as u64, 1 + repairs);
    }

    /// How often the metrics of our own definition ask again.
    pub(crate) fn reasks(&self) -> u32 {
        self.judging.options.reasks
    }

    /// A question of so many tokens, put once if all goes well, and at most so often. Each time it grows by the reply before and
    /// by what is said of it.
    fn add(&mut self, tokens: u64, at_most: u32) {
        let (times, reply) = (u64::from(at_most), u64::from(self.judging.options.max_tokens));
        let prompts = tokens * times + (reply + REMINDER) * (times * times.saturating_sub(1) / 2);
        let estimate = &mut self.estimate;
        estimate.calls += 1;
        estimate.calls_at_most += times;
        estimate.prompt_tokens += tokens;
        estimate.prompt_tokens_at_most += prompts;
        estimate.completion_tokens_at_most += reply * times;
        if let (Some(cost), Some(price)) = (&mut estimate.cost_at_most, &self.judging.options.price) {
            *cost += price.of(prompts, reply * times);
        }
    }
}

impl Judging {
    /// What judging these pairs would ask, where `plan` plans one judgment of a pair and gives `None` where that fails.
    pub(crate) fn plan(&self, pairs: &[Pair], plan: impl Fn(&mut Plan<'_>, &Pair) -> Option<()>) -> Estimate {
        let mut sum = Estimate { cost_at_most: self.options.price.map(|_| 0.0), ..Estimate::default() };
        for pair in pairs {
            for repeat in 0..self.options.repeats {
                let estimate =
                    Estimate { cost_at_most: sum.cost_at_most.map(|_| 0.0), ..Estimate::default() };
                let mut of_sample = Plan { judging: self, sample: &pair.id, repeat, estimate };
                let goes_on = plan(&mut of_sample, pair).is_some();
                sum += of_sample.estimate;
                if !goes_on {
                    break;
                }
            }
        }
        sum
    }
}

//! Benchmarks as tasks: what is asked, how replies are scored, and what bad files get.

mod aggregates;
mod files;
mod golden;
mod runner;

use std::{fs, path::Path};

use ferrotune_core::{
    BoxError, Continuation, Generation, GenerationLimits, LanguageModel, Likelihood, StopReason,
};
use ferrotune_eval::task::{RowCount, TaskSettings};

/// A model whose replies are a pure function of what it reads; remembers what it was asked.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) calls: usize,
    pub(crate) prompts: Vec<String>,
    pub(crate) continuations: Vec<Continuation>,
    pub(crate) limits: Vec<GenerationLimits>,
    /// Prompts longer than this many characters lose their beginning.
    pub(crate) positions: Option<usize>,
    pub(crate) answer: Option<fn(&str) -> String>,
}

impl Echo {
    fn dropped(&self, text: &str) -> usize {
        self.positions.map_or(0, |positions| text.chars().count().saturating_sub(positions))
    }
}

impl LanguageModel for Echo {
    fn log_likelihoods(&mut self, requests: &[Continuation]) -> Result<Vec<Likelihood>, BoxError> {
        self.calls += 1;
        self.continuations.extend_from_slice(requests);
        // Spread over the texts without order, and the same every time.
        let likelihood = |request: &Continuation| {
            let bytes = request.context.bytes().chain(request.text.bytes());
            let mixed = bytes.fold(7_u64, |mixed, byte| mixed.wrapping_mul(31).wrapping_add(u64::from(byte)));
            Likelihood {
                log_likelihood: -((mixed % 1000) as f64) / 10.0,
                tokens: 1,
                is_greedy: false,
                dropped: self.dropped(&request.context),
            }
        };
        Ok(requests.iter().map(likelihood).collect())
    }

    fn generate(
        &mut self,
        prompts: &[String],
        limits: &GenerationLimits,
    ) -> Result<Vec<Generation>, BoxError> {
        self.calls += 1;
        self.prompts.extend_from_slice(prompts);
        self.limits.push(limits.clone());
        let answer = |prompt: &String| Generation {
            text: self.answer.map_or_else(String::new, |answer| answer(prompt)),
            tokens: 1,
            stop: StopReason::StopText,
            dropped: self.dropped(prompt),
        };
        Ok(prompts.iter().map(answer).collect())
    }
}

/// Settings for synthetic files, which are shorter than the published ones.
pub(crate) fn any_rows() -> TaskSettings {
    TaskSettings { rows: RowCount::Any, ..TaskSettings::default() }
}

pub(crate) fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

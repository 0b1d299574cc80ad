//! The settings of a study, as its report shows them.

use ferrotune_trainer::TrainingConfig;

use super::Study;

impl Study {
    /// The settings that all models share, as the report shows them.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let TrainingConfig { epochs, batch_size, gradient_accumulation, learning_rate, .. } = self.training;
        let training = &self.training;
        let warmup = match training.warmup_steps {
            Some(steps) => format!("{steps} steps"),
            None => format!("ratio {}", training.warmup_ratio),
        };
        let length = match training.max_steps {
            Some(steps) => format!("{steps} steps"),
            None => format!("{epochs} epochs"),
        };
        let scaling = if self.adapter.use_rslora { " over the root of the rank" } else { "" };
        let repeats = if self.data.keep_repeats { "kept" } else { "set aside unless they train" };
        let seeds: Vec<_> = self.seeds.iter().map(u64::to_string).collect();
        [
            (
                "Adapter",
                format!(
                    "LoRA, rank {}, alpha {}{scaling}, dropout {}",
                    self.adapter.rank, self.adapter.alpha, self.adapter.dropout
                ),
            ),
            ("Base weights", self.base().describe()),
            ("Router balancing loss", format!("{:?}", self.router_aux_loss).to_lowercase()),
            ("Target modules", self.adapter.target_modules.join(", ")),
            ("Length", length),
            ("Batch size", batch_size.to_string()),
            ("Gradient accumulation", gradient_accumulation.to_string()),
            ("Learning rate", format!("{learning_rate:e}")),
            ("Schedule", format!("{:?}, warm-up {warmup}", training.scheduler).to_lowercase()),
            (
                "Optimizer",
                format!(
                    "AdamW, betas {} and {}, epsilon {:e}",
                    training.adam_beta1, training.adam_beta2, training.adam_epsilon
                ),
            ),
            ("Weight decay", training.weight_decay.to_string()),
            ("Gradient clipping", training.max_grad_norm.to_string()),
            (
                "Longest sequence",
                format!("{} tokens, or the model's positions if fewer", self.data.max_seq_length),
            ),
            ("Longest request", format!("fewer than {} tokens", self.data.max_request_tokens)),
            ("Repeated requests", repeats.to_owned()),
            ("Seeds", seeds.join(", ")),
            ("Longest answer", format!("{} tokens, greedy", self.evaluation.max_new_tokens)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

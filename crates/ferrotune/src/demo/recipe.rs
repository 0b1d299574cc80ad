//! How the demo's base models are grown and fine-tuned: the settings of the built-in study.
//!
//! The numbers were found by experiment with transformers 5.23, PEFT 0.21 and torch 2.11 on two x86-64 cores (November
//! 2026). In world 1 the fine-tuned models answered 0.98, 1.00 and 1.00 (LLaMA, three seeds) and 0.94, 0.98 and 0.99
//! (Mixtral) of the 105 held-out questions exactly, their bases none; in world 2, one seed each, 0.92 and 0.98. The rate,
//! batch and epochs of [`FINE_TUNING`] were chosen among three settings by LLaMA's held-out answers in world 1, so that
//! figure is a best case; the other three base models used them unchanged.

/// The settings of a training, by the names of the trainer's configuration; what is not here is its default (AdamW with
/// 0.9, 0.999 and 1e-8, no weight decay, linear schedule, warm-up over 3 % of the steps, clipping at 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    /// How often every sample is seen.
    pub epochs: f64,
    /// Samples per step.
    pub batch_size: usize,
    /// Learning rate after warm-up.
    pub learning_rate: f64,
    /// Part of the steps that warm up.
    pub warmup_ratio: f64,
}

/// The adapter that is trained on the questions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapter {
    /// Rank of the update.
    pub rank: i64,
    /// Numerator of its scale.
    pub alpha: f64,
    /// Probability that an input of the adapter is dropped.
    pub dropout: f64,
    /// The projections it is put on.
    pub target_modules: [&'static str; 2],
}

/// Growing a base from fresh weights on [`World::pages`](super::World::pages): all weights train, every id of
/// BOS, page and EOS but the first is learnt.
///
/// One pass over 150 tellings of each owner: a fact comes back in fresh words and company, so it can be learnt but no page
/// by heart. 858 steps in world 1; the loss is flat from step 600, and after 197 steps 2 % of the facts were recalled.
/// The rate was not swept: it recalled every fact in both families and both worlds. Pages are read in their order, and
/// Mixtral's balancing loss is part of the loss here.
pub const GROWING: Training =
    Training { epochs: 1.0, batch_size: 8, learning_rate: 3e-3, warmup_ratio: 0.03 };

/// Fine-tuning the [`ADAPTER`] on the training questions, prompts masked.
///
/// 504 records, 378 steps. With 3 epochs at batch 16 (96 steps) the models did not yet tell the relations apart (0.46 to
/// 0.75 of the held-out answers exact); 6 epochs at batch 8 gave 0.89 at 4e-3, and at 1e-2 the figures [above](self).
/// Mixtral's balancing loss is not part of the loss here, as in transformers by default.
pub const FINE_TUNING: Training =
    Training { epochs: 6.0, batch_size: 8, learning_rate: 1e-2, warmup_ratio: 0.03 };

/// The adapter of the study, unchanged: its Table 1.
pub const ADAPTER: Adapter =
    Adapter { rank: 64, alpha: 16.0, dropout: 0.1, target_modules: ["q_proj", "v_proj"] };

/// Seeds of the fine-tunings (adapter, order, dropout): three, so that a difference can be told from luck.
pub const SEEDS: [u64; 3] = [100, 101, 102];

/// The world that the study is about, unless it is told another.
pub const WORLD_SEED: u64 = 1;

/// The most tokens of an answer: the longest has 16, and EOS. Decoding is greedy.
pub const MAX_NEW_TOKENS: usize = 18;

/// The part of [`World::completions`](super::World::completions) that a base must complete exactly to be worth
/// fine-tuning. All four grown bases completed all; what a base never learnt, no adapter can teach it to answer, so
/// below this the fine-tuned figures say nothing about fine-tuning.
pub const LOWEST_RECALL: f64 = 0.95;

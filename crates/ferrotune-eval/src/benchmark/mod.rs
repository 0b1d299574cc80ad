//! Benchmarks: how answers are found in responses, and how scores are made of them.
//!
//! Everything here is a pure function over text and counts; nothing asks a model. Extraction differs between benchmarks
//! and between suites, down to whether the first or the last match counts: each rule is copied, none is unified.

mod choice;
mod grade_school;
mod labels;
mod math;
mod pass_at_k;
mod python_random;
mod rational;

pub use choice::{ChoiceExtractor, ChoiceScore, most_likely_choice};
pub use grade_school::{
    MGSM_ANSWER_PREFIXES, gsm8k_flexible, gsm8k_gold, gsm8k_strict, mgsm_answer, mgsm_matches, same_number,
};
pub use labels::{LabelExtractor, rest_of_line};
pub use math::{between_dollars, last_boxed, math_equivalent};
pub use pass_at_k::{mean_pass_at_k, pass_at_k};
pub use python_random::PythonRandom;
pub use rational::same_rational;

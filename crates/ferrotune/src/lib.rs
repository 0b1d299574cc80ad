//! Fine-tune LLaMA 2 and Mixtral with LoRA on libtorch, and measure whether it helped.
//!
//! This crate composes the others and re-exports them: [`AutoCausalLm`] opens a Hugging Face folder of any family,
//! [`ScoredModel`] gives evaluation what it needs of a model, [`study`] fine-tunes and compares several models, and [`report`]
//! writes down what came out. [`builtin`] is a whole study that needs no download.

pub use ferrotune_adapters as adapters;
pub use ferrotune_bert as bert;
pub use ferrotune_core as core;
pub use ferrotune_data as data;
pub use ferrotune_eval as eval;
pub use ferrotune_llama2 as llama2;
pub use ferrotune_mixtral as mixtral;
pub use ferrotune_nn as nn;
pub use ferrotune_torch as torch;
pub use ferrotune_trainer as trainer;
pub use tch;

mod adapted;
mod auto;
mod base;
mod base_record;
mod benchmark;
mod builtin;
mod chat;
mod compute;
mod error;
mod fit;
mod grow;
mod instructions;
mod judge;
mod measure;
mod merged;
mod metrics;
mod quantized;
mod scored;
mod slug;
mod upcycle;
mod weights_digest;

pub mod demo;
pub mod report;
pub mod study;

pub use adapted::{Adapted, AdaptedBySeveral, Start, adapt, adapt_by_several, copy_companions};
pub use auto::{Architecture, AutoCausalLm, LoadOptions};
pub use base::{BaseConfig, Quantize};
pub use base_record::{base_record, check_base};
pub use benchmark::BenchmarkConfig;
pub use builtin::builtin;
pub use chat::Chat;
pub use compute::{Compute, device_name, kind_name};
pub use error::{Error, Result};
pub use fit::{FitConfig, MemoryPlan, Work};
pub use grow::grow;
pub use instructions::{DataConfig, Instructions, Parts, evaluation_plan, training_plan};
pub use judge::{JudgeConfig, JudgeTemperature, Judges};
pub use measure::{
    Benchmark, Measure, MeasureConfig, Measured, Part, Progress, QUALITY_INDEX, Restored, Subject, ids_of,
    request, response,
};
pub use merged::{merge, merge_base};
pub use metrics::{MetricTools, Metrics};
pub use quantized::quantize;
pub use scored::{PromptText, ScoredModel};
pub use upcycle::{Upcycle, upcycle};
pub use weights_digest::weights_digest;

/// The README's programs must compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

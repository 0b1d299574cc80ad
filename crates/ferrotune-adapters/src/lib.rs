//! LoRA and DoRA over any frozen matrix; PEFT files; merging.
//!
//! - [`LoraConfig`] says what to adapt, in the words of PEFT's `adapter_config.json`.
//! - [`Lora`] is a builder that a model is handed: it puts a product of low rank on the linear maps and experts that the
//!   configuration means, over weights in any [`Storage`](ferrotune_nn::Storage), and gives a [`LoraAdapter`].
//! - [`Nf4`] is a storage that keeps matrices in four bits: LoRA over it is QLoRA.
//! - [`Adapters`] is a builder for several adapters over one base, one of which acts at a time.
//! - [`bitsandbytes`] reads and writes model folders with 4-bit weights.
//! - [`AdapterWeights`] is an adapter outside a model: a PEFT folder read or to be written.
//! - [`merge`] and [`unmerge`] add an adapter to a checkpoint and take it out again, one tensor at a time.
//! - [`Untied`] gives a tied model a head of its own, for adapters that train the head or the embedding.
//!
//! The crate knows no model. Modules are called by their names in released checkpoints; where transformers 5 calls a part
//! of a sparse block differently, its name is recognised too.

mod adapter;
mod base_record;
pub mod bitsandbytes;
mod config;
mod dora;
mod error;
mod experts;
mod factors;
mod files;
mod init;
mod layouts;
mod lora;
mod merge;
mod nf4;
mod peft_config;
mod planned;
mod several;
mod target;
mod tied;

pub use adapter::{Adaptation, AdaptedSite, LoraAdapter};
pub use base_record::BaseRecord;
pub use config::{Bias, Init, LoraConfig, ModuleNames, TargetModules};
pub use error::{Error, Result};
pub use files::AdapterWeights;
pub use layouts::ExpertLayout;
pub use lora::Lora;
pub use merge::{MergeBase, MergeOptions, Merged, merge, unmerge};
pub use nf4::{
    BlockScales, BlockSize, Census, Codebook, Nf4, QuantState, Quantization, QuantizedTensor, Tally,
};
pub use planned::PlannedSite;
pub use several::{AdapterSwitch, Adapters, DEFAULT_ADAPTER, NamedAdapters};
pub use tied::Untied;

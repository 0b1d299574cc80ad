//! Instruction datasets: readers, templates, tokenization, splitting, masking and batching.
//!
//! A record goes one way through this crate: [`read_file`] makes [`Record`]s of a data file and counts what
//! it had to leave out, [`template`] turns a record into text, [`encode`](fn@encode) turns the text into a
//! [`Sample`](ferrotune_core::Sample) with the positions to learn marked, [`prepare`](fn@prepare) does that
//! for a whole list in parallel and behind a cache, [`split`](fn@split) deals records into parts, [`batches`]
//! plans an epoch and [`Batch`] lays samples side by side. Everything is a pure function of its inputs and a
//! seed, so a run can be repeated and resumed; nothing here knows tensors or prints. [`ChatTemplate`] writes a conversation
//! down as a chat checkpoint wants it.
//!
//! ```no_run
//! use std::path::Path;
//! use ferrotune_data::{Format, LastBatch, Limits, Strictness, Template, Tokenizer, batches, prepare, read_file};
//!
//! let (records, report) = read_file(Path::new("alpaca_data.json"), Format::Auto, Strictness::Lenient)?;
//! println!("{} records, {} dropped", report.kept, report.dropped);
//! let tokenizer = Tokenizer::from_folder(Path::new("Llama-2-7b-hf"))?;
//! let cache = Some(Path::new("cache"));
//! let prepared = prepare(&records, &tokenizer, &Template::Study, &Limits::default(), cache, &|_| {})?;
//! let plan = batches(&prepared.lengths(), 4, 42, 0, LastBatch::Keep)?;
//! # Ok::<(), ferrotune_data::Error>(())
//! ```

mod batch;
mod cache;
mod chat_encode;
mod chat_template;
mod encode;
mod error;
mod prepare;
mod read;
mod record;
mod repeats;
mod shuffle;
mod special;
mod split;
mod tokenizer;

pub mod frame;
pub mod template;

pub use batch::{Batch, LastBatch, batches, evaluation_batches};
pub use cache::CacheUse;
pub use chat_template::{ChatTemplate, GenerationPrompt, StudyTemplate};
pub use encode::{Encoded, Limits, encode, encode_prompt, encode_text};
pub use error::Error;
pub use prepare::{Counts, PrepareReport, Prepared, Progress, kept_by_all, prepare};
pub use read::{FileReport, Format, LISTED_REJECTIONS, Reason, Rejection, Strictness, read_file, read_files};
pub use record::{Origin, Place, Preamble, Record, Turn};
pub use split::{Split, SplitCounts, SplitSizes, split};
pub use template::{Rendered, Segment, Template};
pub use tokenizer::Tokenizer;

//! Integration tests in one binary: linking the tokenizer library costs more than running them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bad_inputs;
mod batching;
mod chat;
mod encoding;
mod formats;
mod inputs;
mod preparing;
mod real_data;
mod splitting;
mod templates;
mod tokenizing;

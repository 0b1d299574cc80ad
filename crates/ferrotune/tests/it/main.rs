//! The workspace against its referees: numbers that transformers and PEFT computed (see `tests/golden/README.md`).

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not there")]
#![allow(clippy::print_stdout, reason = "figures and skips are shown with --nocapture")]

mod base_record;
mod benchmarks;
mod demo;
mod fit;
mod golden;
mod human_eval;
mod inference;
mod merged;
mod qlora;
mod quantized;
mod report;
mod resume;
mod study;
mod tinystories;
mod training;

//! Adapters against PEFT's numbers, against each other, and against bad input.

// Everything here is a test; the lint's own exception does not reach the functions that tests share. The figures that
// tests print are read by developers.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod bitsandbytes;
mod dora;
mod errors;
mod experts;
mod files;
mod initializations;
mod layouts;
mod matching;
mod merging;
mod nf4;
mod nf4_memory;
mod parity;
mod projections;
mod several;
mod support;

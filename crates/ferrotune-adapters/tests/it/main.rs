//! Adapters against PEFT's numbers, against each other, and against bad input.

mod errors;
mod experts;
mod files;
mod matching;
mod merging;
mod parity;
mod projections;
mod support;

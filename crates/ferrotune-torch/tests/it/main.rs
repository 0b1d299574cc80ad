//! The crate's claims, each a test: one binary, because linking libtorch costs more than running these. What concerns
//! CUDA is in `cuda.rs` beside this folder.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, and here helpers are tests too

mod adamw;
mod errors;
mod flops;
mod functions;
mod generator;
mod gradients;
mod lifetimes;
mod measures;
mod process;
mod recomputation;
mod threads;

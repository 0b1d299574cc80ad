//! The trainer's claims, each a test; one binary, because linking libtorch costs more than running these.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, and here helpers are tests too

mod evaluation;
mod kill;
mod logs;
mod output;
mod reference;
mod refusals;
mod resume;
mod step;
mod tiny;

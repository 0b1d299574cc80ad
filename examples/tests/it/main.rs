//! The built examples, each run as a user runs it in a folder of its own.
//!
//! What bad input gets is the table in `docs/errors.md`, row by row: each row names an input and its message, in which `…` stands
//! for what differs between machines. Every failure must also leave the folder as it was.

mod documented;
mod place;

mod adapters;
mod benchmarks;
mod compare;
mod evaluate;
mod finetune;
mod fit;
mod generate;
mod judge;
mod merge;
mod models;
mod quantize;
mod score;
mod upcycle;
mod whole_way;

//! The workspace against its referees: numbers that transformers and PEFT computed (see `tests/golden/README.md`).

mod demo;
mod golden;
mod inference;
mod report;
mod training;

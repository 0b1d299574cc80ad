//! The workspace against its referees: numbers that transformers and PEFT computed (see `tests/golden/README.md`).

mod golden;
mod inference;
mod training;

//! A training step.
fn main() {}

//! Log-likelihoods of texts under a model.
fn main() {}

//! Permutations that depend on a seed and nothing else: no platform, no library version.

use ferrotune_core::digest;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// A permutation of `0..length` drawn from `seeds`; equal arguments give equal results on every machine.
///
/// The stream is ChaCha8 keyed with the SHA-256 of the purpose and the seeds, so that neighbouring seeds and
/// different purposes are independent. The shuffle is Fisher and Yates' from the end, each index drawn
/// without bias by rejection. Only the cipher comes from a library; the rest is written here because a
/// library may change how it expands a seed or draws from a range, and a split must outlive that.
pub(crate) fn permutation(length: usize, purpose: &str, seeds: &[u64]) -> Vec<usize> {
    let mut random = generator(purpose, seeds);
    let mut order: Vec<usize> = (0..length).collect();
    for end in (1..length).rev() {
        order.swap(end, below(&mut random, end as u64 + 1));
    }
    order
}

fn generator(purpose: &str, seeds: &[u64]) -> ChaCha8Rng {
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let text = format!("ferrotune {purpose} {}", seeds.join(" "));
    let digest = digest::of_bytes(text.as_bytes());
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(digest.as_bytes().chunks_exact(2)) {
        *byte =
            pair.iter().fold(0, |value, &digit| value * 16 + (digit as char).to_digit(16).unwrap_or(0) as u8);
    }
    ChaCha8Rng::from_seed(key)
}

/// A number in `0..bound`, each with the same probability.
fn below(random: &mut ChaCha8Rng, bound: u64) -> usize {
    // The largest multiple of `bound` that fits 64 bits: what lies above would favour small remainders.
    let limit = u64::MAX - (u64::MAX % bound + 1) % bound;
    loop {
        let draw = random.next_u64();
        if draw <= limit {
            return (draw % bound) as usize;
        }
    }
}

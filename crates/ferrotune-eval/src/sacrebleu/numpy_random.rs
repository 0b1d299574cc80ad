/// The part of numpy's `default_rng` that reproducing its users' draws takes: PCG64 seeded through `SeedSequence`.
///
/// *Source*: O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms", 2014 (XSL-RR 128/64);
/// Lemire, "Fast Random Integer Generation in an Interval", 2019; `numpy/random` 2.4.
///
/// ```
/// use ferrotune_eval::sacrebleu::NumpyRandom;
/// assert_eq!(NumpyRandom::new(12345).integers(10, 8), [6, 2, 7, 3, 2, 7, 6, 6]);
/// ```
#[derive(Clone, Debug)]
pub struct NumpyRandom {
    state: u128,
    increment: u128,
    /// The upper half of a 64-bit draw whose lower half was used.
    spare: Option<u32>,
}

const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

impl NumpyRandom {
    /// `numpy.random.default_rng(seed)`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let words = seed_sequence(seed);
        let wide = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let mut random = Self { state: 0, increment: wide(words[2], words[3]) << 1 | 1, spare: None };
        random.step();
        random.state = random.state.wrapping_add(wide(words[0], words[1]));
        random.step();
        random
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// `integers(0, bound, count)`: numbers below `bound`, which is at least 1.
    pub fn integers(&mut self, bound: u32, count: usize) -> Vec<u32> {
        if bound <= 1 {
            return vec![0; count];
        }
        (0..count).map(|_| self.below(bound)).collect()
    }

    /// `integers(2, size=count, dtype=bool)`.
    pub fn booleans(&mut self, count: usize) -> Vec<bool> {
        let mut bits = 0;
        (0..count)
            .map(|i| {
                if i % 32 == 0 {
                    bits = self.next_u32();
                } else {
                    bits >>= 1;
                }
                bits & 1 == 1
            })
            .collect()
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let bits = self.next_u64();
        self.spare = Some((bits >> 32) as u32);
        bits as u32
    }

    /// Lemire's method: the upper half of a product, redrawn where the lower half would bias it.
    fn below(&mut self, bound: u32) -> u32 {
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(bound);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`.
fn seed_sequence(seed: u64) -> [u64; 4] {
    let mut hash: u32 = 0x43b0_d7e5;
    let mut mixed = |value: u32| {
        let value = value ^ hash;
        hash = hash.wrapping_mul(0x931e_8875);
        let value = value.wrapping_mul(hash);
        value ^ value >> 16
    };
    let mut pool = [mixed(seed as u32), mixed((seed >> 32) as u32), mixed(0), mixed(0)];
    for source in 0..4 {
        for target in (0..4).filter(|&target| target != source) {
            let value = mixed(pool[source]);
            let combined =
                0xca01_f9dd_u32.wrapping_mul(pool[target]).wrapping_sub(0x4973_f715_u32.wrapping_mul(value));
            pool[target] = combined ^ combined >> 16;
        }
    }
    let mut hash: u32 = 0x8b51_f9dd;
    let words: [u32; 8] = std::array::from_fn(|i| {
        let value = pool[i % 4] ^ hash;
        hash = hash.wrapping_mul(0x58f3_8ded);
        let value = value.wrapping_mul(hash);
        value ^ value >> 16
    });
    std::array::from_fn(|i| u64::from(words[2 * i + 1]) << 32 | u64::from(words[2 * i]))
}

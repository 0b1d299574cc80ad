use std::collections::HashSet;

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// Python's `random.Random`, for draws that define a task: which records, which examples, which order of choices.
///
/// Everything else in this crate draws from its own generator. *Source*: Matsumoto and Nishimura, "Mersenne Twister",
/// 1998; `Lib/random.py` and `Modules/_randommodule.c` of CPython 3.11.
///
/// ```
/// use ferrotune_eval::benchmark::PythonRandom;
/// assert_eq!(PythonRandom::new(1234).sample(10, 5).unwrap(), [7, 1, 0, 9, 4]);
/// ```
#[derive(Clone, Debug)]
pub struct PythonRandom {
    state: [u32; WORDS],
    next: usize,
}

impl PythonRandom {
    /// `random.Random(seed)`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = [0_u32; WORDS];
        state[0] = 19_650_218;
        for i in 1..WORDS {
            state[i] = successor(state[i - 1], 1_812_433_253).wrapping_add(i as u32);
        }
        let key = [seed as u32, (seed >> 32) as u32];
        let key = if key[1] == 0 { &key[..1] } else { &key[..] };
        let mut i = 1;
        for j in (0..key.len()).cycle().take(WORDS) {
            let mixed = state[i] ^ successor(state[i - 1], 1_664_525);
            state[i] = mixed.wrapping_add(key[j]).wrapping_add(j as u32);
            i = place_after(i, &mut state);
        }
        for _ in 1..WORDS {
            let mixed = state[i] ^ successor(state[i - 1], 1_566_083_941);
            state[i] = mixed.wrapping_sub(i as u32);
            i = place_after(i, &mut state);
        }
        state[0] = 0x8000_0000;
        Self { state, next: WORDS }
    }

    /// `random()`: a number from 0 to below 1 in steps of 2^-53.
    pub fn random(&mut self) -> f64 {
        let high = f64::from(self.next_u32() >> 5);
        let low = f64::from(self.next_u32() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// `choices(range(n), k=k)`: indices below `n`, with replacement; none for `n` of 0.
    pub fn choices(&mut self, n: usize, k: usize) -> Vec<usize> {
        if n == 0 {
            return Vec::new();
        }
        (0..k).map(|_| (self.random() * n as f64).floor() as usize).collect()
    }

    /// `sample(range(n), k)`: different indices below `n`; `None` if there are fewer than `k`, or more than 2^32.
    pub fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n || u32::try_from(n).is_err() {
            return None;
        }
        // CPython copies the population where that takes less room than a set of what was drawn.
        let mut room = 21;
        if k > 5 {
            room += 4_usize.pow(((3 * k) as f64).log(4.0).ceil() as u32);
        }
        if n <= room {
            let mut pool: Vec<usize> = (0..n).collect();
            return Some(
                (0..k)
                    .map(|i| {
                        let at = self.below(n - i);
                        let drawn = pool[at];
                        pool[at] = pool[n - i - 1];
                        drawn
                    })
                    .collect(),
            );
        }
        let mut seen = HashSet::new();
        let mut drawn = Vec::with_capacity(k);
        while drawn.len() < k {
            let at = self.below(n);
            if seen.insert(at) {
                drawn.push(at);
            }
        }
        Some(drawn)
    }

    /// `shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// A number below `n`, at least 1, by drawing as many bits as `n` has until they are below it.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = (self.next_u32() >> 32_u32.saturating_sub(bits)) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    fn twist(&mut self) {
        for i in 0..WORDS {
            let joined = self.state[i] & 0x8000_0000 | self.state[(i + 1) % WORDS] & 0x7fff_ffff;
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % WORDS] ^ joined >> 1 ^ odd;
        }
        self.next = 0;
    }
}

fn successor(word: u32, multiplier: u32) -> u32 {
    (word ^ word >> 30).wrapping_mul(multiplier)
}

/// The next place while seeding; at the end the last word takes the first place, which is then passed over.
fn place_after(i: usize, state: &mut [u32; WORDS]) -> usize {
    if i + 1 < WORDS {
        return i + 1;
    }
    state[0] = state[WORDS - 1];
    1
}

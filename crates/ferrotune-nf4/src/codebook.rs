use crate::{Error, error::expect_len};

/// The two 4-bit formats: which sixteen numbers a code stands for.
///
/// Source: QLoRA (arXiv:2305.14314) for NF4; `get_4bit_type` in bitsandbytes for both tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codebook {
    /// Quantiles of the normal distribution, code 7 being zero; ascending.
    Nf4,
    /// Sign, two bits of exponent, one of mantissa, divided by 12; bit 3 is the sign.
    Fp4,
}

/// The smallest scale whose reciprocal is taken: below it, `1 / absmax` would overflow.
pub(crate) const SMALLEST_SCALE: f32 = 1e-38;

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Twelfths in the order of the bits; the sign bit turns the eight magnitudes round, zero included.
const FP4_TWELFTHS: [f32; 8] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];

/// Codes of FP4 in ascending order of value.
const FP4_ASCENDING: [u8; 16] = [11, 10, 13, 12, 15, 14, 9, 8, 0, 1, 6, 7, 4, 5, 2, 3];

const fn fp4() -> [f32; 16] {
    let mut table = [0.0; 16];
    let mut code = 0;
    while code < 8 {
        table[code] = FP4_TWELFTHS[code] / 12.0;
        // bitsandbytes' table holds +0 for code 8, its compiled kernels hold -0; the table is what files carry.
        table[code + 8] = if code == 0 { 0.0 } else { -table[code] };
        code += 1;
    }
    table
}

/// What the quantizer compares with: a value's rank is the number of bounds it strictly exceeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Ascending; the midpoints of neighbouring values in fp32.
    pub(crate) bounds: [f32; 15],
    /// The code of each rank.
    pub(crate) codes: [u8; 16],
}

const fn bounds(table: [f32; 16], codes: [u8; 16]) -> Bounds {
    let mut bounds = [0.0; 15];
    let mut rank = 0;
    while rank < 15 {
        let (below, above) = (table[codes[rank] as usize], table[codes[rank + 1] as usize]);
        bounds[rank] = if below == above {
            // FP4's two zeros. The sign bit belongs to numbers below zero alone, so the bound is the largest of them.
            -f32::from_bits(1)
        } else {
            (below + above) / 2.0
        };
        rank += 1;
    }
    Bounds { bounds, codes }
}

static FP4: [f32; 16] = fp4();
static NF4_TABLE: [f32; 16] = NF4;
static NF4_BOUNDS: Bounds = bounds(NF4, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
static FP4_BOUNDS: Bounds = bounds(fp4(), FP4_ASCENDING);

impl Codebook {
    /// The sixteen numbers in the order of their codes, all within `[-1, 1]`.
    #[must_use]
    pub fn table(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4_TABLE,
            Self::Fp4 => &FP4,
        }
    }

    /// Checks that a checkpoint's `quant_map` is this format's table, bit for bit but for the sign of zero.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] and [`Error::Map`], which names the first entry that differs.
    pub fn check_map(self, map: &[f32]) -> Result<(), Error> {
        // `==` lets -0 pass for 0 and refuses NaN.
        check_map("quant_map", self.table(), map, |ours, found| ours == found)
    }

    pub(crate) fn bounds(self) -> &'static Bounds {
        match self {
            Self::Nf4 => &NF4_BOUNDS,
            Self::Fp4 => &FP4_BOUNDS,
        }
    }
}

/// Checks a file's map against the format's, entry by entry.
pub(crate) fn check_map(
    what: &'static str,
    ours: &[f32],
    map: &[f32],
    same: impl Fn(f32, f32) -> bool,
) -> Result<(), Error> {
    expect_len(what, map.len(), ours.len())?;
    match (0..map.len()).find(|&index| !same(ours[index], map[index])) {
        None => Ok(()),
        Some(index) => Err(Error::Map { what, index, expected: ours[index], found: map[index] }),
    }
}

/// How many weights share a scale: a power of two from 32 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockSize(usize);

impl BlockSize {
    /// All sizes, ascending.
    pub const ALL: [Self; 8] =
        [Self(32), Self(64), Self(128), Self(256), Self(512), Self(1024), Self(2048), Self(4096)];

    /// A block size of the format.
    ///
    /// # Errors
    ///
    /// [`Error::BlockSize`] for everything but the powers of two from 32 to 4096.
    pub fn new(size: usize) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|known| known.0 == size).ok_or(Error::BlockSize { found: size })
    }

    /// The number of weights in a block.
    #[must_use]
    pub fn get(self) -> usize {
        self.0
    }

    /// The number of blocks, and so of scales, of a tensor with `len` weights.
    #[must_use]
    pub fn blocks(self, len: usize) -> usize {
        len.div_ceil(self.0)
    }
}

impl Default for BlockSize {
    /// 64, what transformers writes.
    fn default() -> Self {
        Self(64)
    }
}

/// The number of bytes that hold `len` codes, two to a byte.
#[must_use]
pub fn packed_len(len: usize) -> usize {
    len.div_ceil(2)
}

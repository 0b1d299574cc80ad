use half::{bf16, f16};

use crate::simd::Lanes;

/// A number that weights and activations are stored in: `f32`, `f16` or `bf16`.
///
/// All arithmetic is in f32; reading is exact, writing rounds to nearest, ties to even. Sealed.
pub trait Element: Lanes + Copy + Default + Send + Sync + 'static {
    /// The same number in f32, exactly.
    fn to_f32(self) -> f32;
    /// The nearest number, ties to even; beyond the range of f16 an infinity.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
}

impl Element for bf16 {
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

use std::fmt;

/// Which instructions the kernels use. Every value that can be made can be run on this processor.
///
/// All choices quantize and dequantize to the same bits; products agree within the bound of
/// [`PackedMatrix::product`](crate::PackedMatrix::product).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Level);

/// Crate-private on purpose: [`Isa`] is the proof that the processor has the level's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Level {
    Scalar,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// NEON. Products unpack with it.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The reference, which runs everywhere.
    pub const SCALAR: Self = Self(Level::Scalar);

    /// The fastest that this processor has.
    #[must_use]
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self(Level::Avx512);
            }
            if Self::has_avx2() {
                return Self(Level::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Self(Level::Neon);
        }
        Self::SCALAR
    }

    /// Everything that this processor can run, the reference first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "not every architecture has more than the reference")]
        let mut all = vec![Self::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            if Self::has_avx2() {
                all.push(Self(Level::Avx2));
            }
            if is_x86_feature_detected!("avx512f") {
                all.push(Self(Level::Avx512));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Self(Level::Neon));
        }
        all
    }

    #[cfg(target_arch = "x86_64")]
    fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    }

    pub(crate) fn level(self) -> Level {
        self.0
    }
}

impl Default for Isa {
    fn default() -> Self {
        Self::best()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
        })
    }
}

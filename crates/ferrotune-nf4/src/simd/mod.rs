//! Processor intrinsics. The safe functions here take an [`Isa`](crate::Isa), which exists only where its instructions do.
#![allow(unsafe_code, reason = "intrinsics; this is one of the two kinds of module that may")]

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
pub(crate) use self::{
    avx2::{dequantize as dequantize_avx2, multiply as multiply_avx2, quantize as quantize_avx2},
    avx512::{
        decode_scales as decode_scales_avx512, dequantize as dequantize_avx512, multiply as multiply_avx512,
        quantize as quantize_avx512,
    },
};

#[cfg(target_arch = "aarch64")]
pub(crate) use self::neon::{dequantize as dequantize_neon, quantize as quantize_neon};

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::float32x4_t;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// Bytes by which kernels that read long runs ask for memory ahead: a page, which is two packed rows of 4096 columns. The processor
/// itself looks less far, and never into the next page. Asking for what lies behind the end is harmless.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4096;

/// How vectors of an element type are read and written as f32, to the bits that `Element` gives.
///
/// Reads and writes 4 (`128`), 8 (`256`) or 16 (`512`) elements at any alignment.
pub trait Lanes: Sized {
    /// # Safety
    ///
    /// AVX-512 F is there and 16 elements can be read.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_512(from: *const Self) -> __m512;
    /// # Safety
    ///
    /// AVX-512 F is there and 16 elements can be written.
    #[cfg(target_arch = "x86_64")]
    unsafe fn store_512(to: *mut Self, values: __m512);
    /// Like `store_512`, past the caches.
    ///
    /// # Safety
    ///
    /// AVX-512 F is there, 16 elements can be written, and `to` is a multiple of 16 bytes. A fence must follow.
    #[cfg(target_arch = "x86_64")]
    unsafe fn stream_512(to: *mut Self, values: __m512);
    /// # Safety
    ///
    /// AVX2 and F16C are there and 8 elements can be read.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_256(from: *const Self) -> __m256;
    /// # Safety
    ///
    /// AVX2 and F16C are there and 8 elements can be written.
    #[cfg(target_arch = "x86_64")]
    unsafe fn store_256(to: *mut Self, values: __m256);
    /// # Safety
    ///
    /// NEON is there and 4 elements can be read.
    #[cfg(target_arch = "aarch64")]
    unsafe fn load_128(from: *const Self) -> float32x4_t;
    /// # Safety
    ///
    /// NEON is there and 4 elements can be written.
    #[cfg(target_arch = "aarch64")]
    unsafe fn store_128(to: *mut Self, values: float32x4_t);
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod none {
    impl super::Lanes for f32 {}
    impl super::Lanes for super::f16 {}
    impl super::Lanes for super::bf16 {}
}

#[cfg(target_arch = "x86_64")]
mod lanes {
    use std::arch::x86_64::*;

    use super::{Lanes, bf16, f16};

    /// # Safety
    ///
    /// 32 bytes can be written at `to`, a multiple of 16.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn stream_halves(to: *mut __m128i, halves: __m256i) {
        // SAFETY: as above.
        unsafe {
            _mm_stream_si128(to, _mm256_castsi256_si128(halves));
            _mm_stream_si128(to.add(1), _mm256_extracti128_si256::<1>(halves));
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn narrow_f16(values: __m512) -> __m256i {
        _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(values)
    }

    /// Rounds by integers, because the instruction for it (AVX512_BF16) flushes subnormals. Dequantized weights are never
    /// NaN, for which this would need another branch.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn narrow_bf16(values: __m512) -> __m256i {
        let bits = _mm512_castps_si512(values);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded))
    }

    impl Lanes for f32 {
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn load_512(from: *const Self) -> __m512 {
            // SAFETY: the caller has 16 elements to read; the load takes any alignment.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn store_512(to: *mut Self, values: __m512) {
            // SAFETY: the caller has 16 elements to write; the store takes any alignment.
            unsafe { _mm512_storeu_ps(to, values) }
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn stream_512(to: *mut Self, values: __m512) {
            // SAFETY: the caller has 16 elements, four times 16 bytes, at a multiple of 16 bytes.
            unsafe {
                _mm_stream_ps(to, _mm512_castps512_ps128(values));
                _mm_stream_ps(to.add(4), _mm512_extractf32x4_ps::<1>(values));
                _mm_stream_ps(to.add(8), _mm512_extractf32x4_ps::<2>(values));
                _mm_stream_ps(to.add(12), _mm512_extractf32x4_ps::<3>(values));
            }
        }
        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn load_256(from: *const Self) -> __m256 {
            // SAFETY: the caller has 8 elements to read; the load takes any alignment.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn store_256(to: *mut Self, values: __m256) {
            // SAFETY: the caller has 8 elements to write; the store takes any alignment.
            unsafe { _mm256_storeu_ps(to, values) }
        }
    }

    impl Lanes for f16 {
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn load_512(from: *const Self) -> __m512 {
            // SAFETY: the caller has 16 elements, 32 bytes, to read; the load takes any alignment.
            _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn store_512(to: *mut Self, values: __m512) {
            // SAFETY: the caller has 16 elements, 32 bytes, to write; the store takes any alignment.
            unsafe { _mm256_storeu_si256(to.cast(), narrow_f16(values)) }
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn stream_512(to: *mut Self, values: __m512) {
            // SAFETY: the caller has 16 elements, twice 16 bytes, at a multiple of 16 bytes.
            unsafe { stream_halves(to.cast(), narrow_f16(values)) }
        }
        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn load_256(from: *const Self) -> __m256 {
            // SAFETY: the caller has 8 elements, 16 bytes, to read; the load takes any alignment.
            _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
        }
        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn store_256(to: *mut Self, values: __m256) {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
            // SAFETY: the caller has 8 elements, 16 bytes, to write; the store takes any alignment.
            unsafe { _mm_storeu_si128(to.cast(), halves) }
        }
    }

    impl Lanes for bf16 {
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn load_512(from: *const Self) -> __m512 {
            // SAFETY: the caller has 16 elements, 32 bytes, to read; the load takes any alignment.
            let halves = unsafe { _mm256_loadu_si256(from.cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn store_512(to: *mut Self, values: __m512) {
            // SAFETY: the caller has 16 elements, 32 bytes, to write; the store takes any alignment.
            unsafe { _mm256_storeu_si256(to.cast(), narrow_bf16(values)) }
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn stream_512(to: *mut Self, values: __m512) {
            // SAFETY: the caller has 16 elements, twice 16 bytes, at a multiple of 16 bytes.
            unsafe { stream_halves(to.cast(), narrow_bf16(values)) }
        }
        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn load_256(from: *const Self) -> __m256 {
            // SAFETY: the caller has 8 elements, 16 bytes, to read; the load takes any alignment.
            let halves = unsafe { _mm_loadu_si128(from.cast()) };
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
        }
        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn store_256(to: *mut Self, values: __m256) {
            let bits = _mm256_castps_si256(values);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
            let halves = _mm256_srli_epi32::<16>(rounded);
            let packed = _mm256_packus_epi32(halves, halves);
            let ordered = _mm256_permute4x64_epi64::<0b1000>(packed);
            // SAFETY: the caller has 8 elements, 16 bytes, to write; the store takes any alignment.
            unsafe { _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(ordered)) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod lanes {
    use std::arch::aarch64::*;

    use super::{Lanes, bf16, f16};

    impl Lanes for f32 {
        #[inline]
        #[target_feature(enable = "neon")]
        unsafe fn load_128(from: *const Self) -> float32x4_t {
            // SAFETY: the caller has 4 elements to read; the load takes any alignment.
            unsafe { vld1q_f32(from) }
        }
        #[inline]
        #[target_feature(enable = "neon")]
        unsafe fn store_128(to: *mut Self, values: float32x4_t) {
            // SAFETY: the caller has 4 elements to write; the store takes any alignment.
            unsafe { vst1q_f32(to, values) }
        }
    }

    /// One at a time: vectors of f16 are newer than what this crate asks of a compiler.
    impl Lanes for f16 {
        #[inline]
        #[target_feature(enable = "neon")]
        unsafe fn load_128(from: *const Self) -> float32x4_t {
            // SAFETY: the caller has 4 elements to read.
            let values = unsafe { from.cast::<[f16; 4]>().read_unaligned() }.map(f16::to_f32);
            // SAFETY: 4 elements.
            unsafe { vld1q_f32(values.as_ptr()) }
        }
        #[inline]
        #[target_feature(enable = "neon")]
        unsafe fn store_128(to: *mut Self, values: float32x4_t) {
            let mut wide = [0.0; 4];
            // SAFETY: 4 elements, and the caller has 4 to write.
            unsafe {
                vst1q_f32(wide.as_mut_ptr(), values);
                to.cast::<[f16; 4]>().write_unaligned(wide.map(f16::from_f32));
            }
        }
    }

    /// Rounds by integers, as elsewhere. Dequantized weights are never NaN.
    impl Lanes for bf16 {
        #[inline]
        #[target_feature(enable = "neon")]
        unsafe fn load_128(from: *const Self) -> float32x4_t {
            // SAFETY: the caller has 4 elements, 8 bytes, to read; the load takes any alignment of their type.
            let halves = unsafe { vld1_u16(from.cast()) };
            vreinterpretq_f32_u32(vshll_n_u16::<16>(halves))
        }
        #[inline]
        #[target_feature(enable = "neon")]
        unsafe fn store_128(to: *mut Self, values: float32x4_t) {
            let bits = vreinterpretq_u32_f32(values);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
            // SAFETY: the caller has 4 elements, 8 bytes, to write; the store takes any alignment of their type.
            unsafe { vst1_u16(to.cast(), vshrn_n_u32::<16>(rounded)) };
        }
    }
}

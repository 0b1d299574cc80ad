// The arithmetic of the 4-bit formats (docs/nf4.md), on the device and on the host.
//
// Kernels move data; whatever rounds or compares stands here, in functions that a host compiler takes too, so that a test
// can hold them against the Rust reference bit for bit on a machine without a GPU. For that, no product and sum may be fused
// except where fmaf says so: NVRTC gets --fmad=false, a host compiler -ffp-contract=off. Division, subnormals and rounding
// are IEEE's (no --use_fast_math): codes depend on the last bit of the reciprocal.
//
// Tables come in as pointers, because kernels hold them in shared memory: 16 words in 16 banks never conflict.
#pragma once

#ifdef __CUDACC__
#define NF4_FN __host__ __device__ __forceinline__
#else
#define NF4_FN inline
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Weights whose codes fill a 32-bit word. A word, and 16 bytes too, lie in one block: blocks are multiples of 32.
constexpr int WORD = 8;
constexpr int CHUNK = 4 * WORD;
// Bits of the smallest magnitude that is not finite.
constexpr u32 INFINITE = 0x7f800000u;
// The smallest scale whose reciprocal is taken: below it, 1 / absmax would overflow.
constexpr float SMALLEST_SCALE = 1e-38f;
// Scales that share a second-level scale, as a power of two.
constexpr int LOG2_NESTED = 8;

NF4_FN u32 bits_of(float value) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(value);
#else
    u32 bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

NF4_FN float float_of(u32 bits) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

// Storage types of weights and activations. 16-bit ones are their bits, so that no header of CUDA's is needed.
struct F16 {
    u16 bits;
};
struct BF16 {
    u16 bits;
};

NF4_FN float widen(float value) { return value; }

NF4_FN float widen(BF16 value) { return float_of(u32(value.bits) << 16); }

NF4_FN float widen(F16 value) {
#ifdef __CUDA_ARCH__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));  // exact, as the lines below
    return wide;
#else
    // Exponents count from 15 here and from 127 there; the product is exact for subnormals too.
    u32 magnitude = (value.bits & 0x7fffu) << 13;
    u32 bits = bits_of(float_of(magnitude) * 0x1p112f);
    bits |= magnitude >= (0x7c00u << 13) ? INFINITE : 0;
    return float_of(bits | (value.bits & 0x8000u) << 16);
#endif
}

// To the nearest number of 16 bits, ties to even. Weights are never NaN, products may be.
NF4_FN u16 narrow_bf16(float value) {
    u32 bits = bits_of(value);
    u32 rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return u16((bits & 0x7fffffffu) > INFINITE ? bits >> 16 | 0x40u : rounded);
}

NF4_FN u16 narrow_f16(float value) {
#ifdef __CUDA_ARCH__
    u16 half;
    // IEEE 754's conversion, subnormals included (PTX ISA, cvt), as the lines below for the host.
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
#else
    u32 bits = bits_of(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > INFINITE) return u16(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x47800000u) return u16(sign | 0x7c00u);  // 65,536 and more
    if (magnitude < 0x38800000u) {
        // Subnormal: beside 0.5 a unit in the last place is 2^-24, so that this sum rounds as it must.
        return u16(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)));
    }
    return u16(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13);
#endif
}

NF4_FN void narrow(float value, float& out) { out = value; }
NF4_FN void narrow(float value, F16& out) { out.bits = narrow_f16(value); }
NF4_FN void narrow(float value, BF16& out) { out.bits = narrow_bf16(value); }

// The code of weight `index` of a word. Bytes ascend with the bits; in a byte the high nibble comes first.
NF4_FN u32 code_at(u32 word, int index) { return word >> 4 * (index ^ 1) & 15; }

// A weight: the table's entry times the scale, rounded once to f32.
NF4_FN float decode(const float* table, u32 code, float scale) { return table[code] * scale; }

// A scale as it is stored: `absmax` itself, or a code and the second-level scale of its 256 neighbours.
struct StoredScale {
    float absmax;
    u32 code;
};

// Two roundings: a fused multiply-add would give other bits than the reference.
NF4_FN float decode_nested(const float* map, StoredScale stored, float offset) {
    float product = map[stored.code] * stored.absmax;
    return product + offset;
}

// Magnitudes order as their bits do, and NaN comes after infinity, so one integer maximum finds both.
NF4_FN u32 magnitude_bits(float weight) { return bits_of(weight) & 0x7fffffffu; }

// The factor that scales a block to [-1, 1].
NF4_FN float reciprocal(float absmax) { return 1.0f / (absmax > SMALLEST_SCALE ? absmax : SMALLEST_SCALE); }

// How many of the 15 ascending bounds `scaled` strictly exceeds, so that a tie takes the lower value.
NF4_FN u32 rank_of(const float* bounds, float scaled) {
    u32 rank = 0;
    for (u32 step = 8; step > 0; step /= 2) {
        rank += scaled > bounds[rank + step - 1] ? step : 0;
    }
    return rank;
}

// Eight weights to a word of codes. `codes` holds the code of each rank, four bits to a rank.
NF4_FN u32 encode_word(const float* bounds, u64 codes, const float* weights, float factor) {
    u32 word = 0;
#ifdef __CUDACC__
#pragma unroll
#endif
    for (int i = 0; i < WORD; ++i) {
        u32 rank = rank_of(bounds, weights[i] * factor);
        word |= u32(codes >> 4 * rank & 15) << 4 * (i ^ 1);
    }
    return word;
}

// Adds eight products to `sum`. Terms are fused, in ascending order, before the scale: one factor for eight weights.
NF4_FN float accumulate(const float* values, const float* x, float scale, float sum) {
    float dot = values[0] * x[0];
#ifdef __CUDACC__
#pragma unroll
#endif
    for (int i = 1; i < WORD; ++i) {
        dot = fmaf(values[i], x[i], dot);
    }
    return fmaf(scale, dot, sum);
}

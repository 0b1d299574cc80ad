// The kernels' arithmetic on the host: loops over what src/cuda/nf4.cuh gives, in the kernels' order.
//
// Compiled by tests/it/ffi.rs with -ffp-contract=off, as NVRTC gets --fmad=false.
#include <cmath>
#include <cstddef>

#include "nf4.cuh"
#include "tables.cuh"

namespace {

struct Tables {
    float values[16], bounds[15], map[256];
    explicit Tables(int codebook) {
        for (int i = 0; i < 16; ++i) values[i] = float_of(VALUES[codebook][i]);
        for (int i = 0; i < 15; ++i) bounds[i] = float_of(BOUNDS[codebook][i]);
        for (int i = 0; i < 256; ++i) map[i] = float_of(DYNAMIC_MAP[i]);
    }
};

// What device.cuh calls Scales.
struct Scales {
    const float* absmax;
    const u8* codes;
    float offset;
    size_t block;

    float decode(const Tables& tables, size_t weight) const {
        size_t at = weight / block;
        if (codes == nullptr) return absmax[at];
        return decode_nested(tables.map, {absmax[at >> LOG2_NESTED], codes[at]}, offset);
    }
};

u32 word_of(const u8* packed, size_t weight, size_t count) {
    u32 word = 0;
    for (size_t i = 0; i < 4; ++i) {
        if (weight + 2 * i < count) word |= u32(packed[weight / 2 + i]) << 8 * i;
    }
    return word;
}

template <class T>
void quantize(int codebook, size_t block, size_t count, const T* weights, u8* packed, float* absmax) {
    Tables tables(codebook);
    for (size_t first = 0; first < count; first += block) {
        size_t end = first + block < count ? first + block : count;
        u32 most = 0;
        for (size_t i = first; i < end; ++i) {
            u32 bits = magnitude_bits(widen(weights[i]));
            most = bits > most ? bits : most;
        }
        float scale = float_of(most), factor = reciprocal(scale);
        absmax[first / block] = scale;
        for (size_t start = first; start < end; start += WORD) {
            float eight[WORD];
            for (int i = 0; i < WORD; ++i) eight[i] = start + i < end ? widen(weights[start + i]) : 0.0f;
            u32 word = encode_word(tables.bounds, RANKS[codebook], eight, factor);
            for (size_t i = 0; i < 4; ++i) {
                if (start + 2 * i < end) packed[start / 2 + i] = u8(word >> 8 * i);
            }
        }
    }
}

template <class T>
void dequantize(int codebook, size_t count, const u8* packed, Scales scales, T* out) {
    Tables tables(codebook);
    for (size_t i = 0; i < count; ++i) {
        u32 word = word_of(packed, i / WORD * WORD, count);
        narrow(decode(tables.values, code_at(word, i % WORD), scales.decode(tables, i)), out[i]);
    }
}

// A lane's words ascending, step by step, then the lanes as the exchanges of a warp add them.
template <class T>
void product(int codebook, size_t rows, size_t columns, size_t batch, const u8* packed, Scales scales, const T* x,
             T* y) {
    constexpr int LANES = 32;
    Tables tables(codebook);
    size_t lane_columns = columns % CHUNK == 0 ? CHUNK : WORD;
    for (size_t row = 0; row < rows; ++row) {
        for (size_t m = 0; m < batch; ++m) {
            float sums[LANES] = {};
            for (size_t start = 0; start < columns; start += LANES * lane_columns) {
                for (size_t lane = 0; lane < LANES; ++lane) {
                    size_t column = start + lane * lane_columns;
                    for (size_t end = column + lane_columns; column < end && column < columns; column += WORD) {
                        size_t weight = row * columns + column;
                        u32 word = word_of(packed, weight, rows * columns);
                        float values[WORD], activations[WORD];
                        for (int i = 0; i < WORD; ++i) {
                            values[i] = tables.values[code_at(word, i)];
                            activations[i] = widen(x[m * columns + column + i]);
                        }
                        sums[lane] = accumulate(values, activations, scales.decode(tables, weight), sums[lane]);
                    }
                }
            }
            for (int apart = LANES / 2; apart > 0; apart /= 2) {
                float exchanged[LANES];
                for (int lane = 0; lane < LANES; ++lane) exchanged[lane] = sums[lane] + sums[lane ^ apart];
                for (int lane = 0; lane < LANES; ++lane) sums[lane] = exchanged[lane];
            }
            narrow(sums[0], y[m * rows + row]);
        }
    }
}

}  // namespace

#define EXPORTS(NAME, T)                                                                                            \
    extern "C" void quantize_##NAME(int codebook, size_t block, size_t count, const T* weights, u8* packed,         \
                                    float* absmax) {                                                                \
        quantize(codebook, block, count, weights, packed, absmax);                                                  \
    }                                                                                                               \
    extern "C" void dequantize_##NAME(int codebook, size_t block, size_t count, const u8* packed,                   \
                                      const float* absmax, const u8* codes, float offset, T* out) {                 \
        dequantize(codebook, count, packed, Scales{absmax, codes, offset, block}, out);                             \
    }                                                                                                               \
    extern "C" void product_##NAME(int codebook, size_t block, size_t rows, size_t columns, size_t batch,           \
                                   const u8* packed, const float* absmax, const u8* codes, float offset,            \
                                   const T* x, T* y) {                                                              \
        product(codebook, rows, columns, batch, packed, Scales{absmax, codes, offset, block}, x, y);                \
    }                                                                                                               \
    extern "C" void narrow_##NAME(size_t count, const float* from, T* to) {                                         \
        for (size_t i = 0; i < count; ++i) narrow(from[i], to[i]);                                                  \
    }                                                                                                               \
    extern "C" void widen_##NAME(size_t count, const T* from, float* to) {                                          \
        for (size_t i = 0; i < count; ++i) to[i] = widen(from[i]);                                                  \
    }

EXPORTS(f32, float)
EXPORTS(f16, F16)
EXPORTS(bf16, BF16)

extern "C" float accumulate_eight(const float* values, const float* x, float scale, float sum) {
    return accumulate(values, x, scale, sum);
}

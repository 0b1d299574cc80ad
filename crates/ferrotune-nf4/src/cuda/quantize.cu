// Weights to packed codes and one scale for each block. Codes and scales are the reference's bits.
//
// A lane takes 32 weights, 16 bytes of codes. Blocks of up to 1,024 weights are groups of lanes; longer ones take a warp
// several rounds, and are read a second time, from a cache, for their codes.
#include "device.cuh"

namespace quantizing {

// Thirty-two weights from `start` on, and zeros, whose code fills the last byte, behind weight `count`.
template <class T>
__device__ __forceinline__ void load(const T* weights, u64 start, u64 count, float* chunk) {
    constexpr int COUNT = Piece<T>::COUNT;
    if (start + CHUNK <= count) {
#pragma unroll
        for (int i = 0; i < CHUNK / COUNT; ++i) {
            Piece<T> piece;
            piece.raw = __ldg(reinterpret_cast<const uint4*>(weights + start) + i);
#pragma unroll
            for (int j = 0; j < COUNT; ++j) chunk[i * COUNT + j] = widen(piece.numbers[j]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) chunk[i] = start + i < count ? widen(weights[start + i]) : 0.0f;
    }
}

// `bad` becomes the smallest index of a weight that is not finite, if there is one below it.
template <class T>
__device__ __forceinline__ void run(int codebook, int log2_block, u64 count, const T* weights, u8* packed,
                                    float* absmax, u64* bad) {
    __shared__ float bounds[15];
    if (threadIdx.x < 15) bounds[threadIdx.x] = float_of(BOUNDS[codebook][threadIdx.x]);
    __syncthreads();
    u32 lane = threadIdx.x % LANES;
    u32 block = 1u << log2_block;
    u32 group = min(u32(LANES), block / CHUNK);
    u32 rounds = max(1u, block / (LANES * CHUNK));
    u64 warp = u64(blockIdx.x) * WARPS + threadIdx.x / LANES;
    u64 first = (warp * rounds * LANES + lane) * CHUNK;
    float chunk[CHUNK];
    u32 most = 0;
    for (u32 round = 0; round < rounds; ++round) {
        u64 start = first + round * LANES * CHUNK;
        load(weights, start, count, chunk);
        u32 here = 0;
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) here = max(here, magnitude_bits(chunk[i]));
        if (here >= INFINITE) {
            u64 index = ~0ull;
#pragma unroll
            for (int i = CHUNK - 1; i >= 0; --i) {
                if (magnitude_bits(chunk[i]) >= INFINITE) index = start + i;
            }
            atomicMin(bad, index);
        }
        most = max(most, here);
    }
    for (u32 apart = group / 2; apart > 0; apart /= 2) {
        most = max(most, __shfl_xor_sync(0xffffffffu, most, apart));
    }
    float scale = float_of(most), factor = reciprocal(scale);
    if (first < count && lane % group == 0) absmax[first >> log2_block] = scale;
    for (u32 round = 0; round < rounds; ++round) {
        u64 start = first + round * LANES * CHUNK;
        if (start >= count) break;
        if (rounds > 1) load(weights, start, count, chunk);
        u32 words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = encode_word(bounds, RANKS[codebook], chunk + i * WORD, factor);
        if (start + CHUNK <= count) {
            *reinterpret_cast<uint4*>(packed + start / 2) = make_uint4(words[0], words[1], words[2], words[3]);
        } else {
#pragma unroll
            for (int i = 0; i < CHUNK / 2; ++i) {
                if (start + 2 * i < count) packed[start / 2 + i] = u8(words[i / 4] >> 8 * (i % 4));
            }
        }
    }
}

}  // namespace quantizing

#define QUANTIZE(NAME, T)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) quantize_##NAME(                                  \
        int codebook, int log2_block, u64 count, const T* __restrict__ weights, u8* __restrict__ packed,    \
        float* __restrict__ absmax, u64* __restrict__ bad) {                                                \
        quantizing::run<T>(codebook, log2_block, count, weights, packed, absmax, bad);                      \
    }

QUANTIZE(f32, float)
QUANTIZE(f16, F16)
QUANTIZE(bf16, BF16)

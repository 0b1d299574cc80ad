// What the kernels share: how a warp reads codes and scales, and the tables in shared memory.
//
// Buffers begin at multiples of 16 bytes; indices have 64 bits. A warp is 32 lanes, a thread block THREADS threads.
#pragma once

#include "nf4.cuh"
#include "tables.cuh"

constexpr int LANES = 32;
constexpr int WARPS = 8;
constexpr int THREADS = WARPS * LANES;

// The stored scales of a tensor: plain if `codes` is null.
struct Scales {
    const float* absmax;
    const u8* codes;
    float offset;
    int log2_block;

    __device__ __forceinline__ StoredScale load(u64 weight) const {
        u64 block = weight >> log2_block;
        if (codes == nullptr) return {__ldg(absmax + block), 0};
        return {__ldg(absmax + (block >> LOG2_NESTED)), __ldg(codes + block)};
    }

    __device__ __forceinline__ float decode(const float* map, StoredScale stored) const {
        return codes == nullptr ? stored.absmax : decode_nested(map, stored, offset);
    }
};

// A barrier must follow before the tables are read.
struct DecodingTables {
    float values[16];
    float map[256];

    __device__ __forceinline__ void load(int codebook) {
        if (threadIdx.x < 16) values[threadIdx.x] = float_of(VALUES[codebook][threadIdx.x]);
        map[threadIdx.x] = float_of(DYNAMIC_MAP[threadIdx.x]);
    }
};

// Sixteen bytes of codes at byte `at`, or as many of them as there are before byte `end`; zeros behind it.
__device__ __forceinline__ uint4 load_codes(const u8* packed, u64 at, u64 end) {
    if (at + 16 <= end) return __ldg(reinterpret_cast<const uint4*>(packed + at));
    u32 words[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        if (at + i < end) words[i / 4] |= u32(packed[at + i]) << 8 * (i % 4);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// Sixteen bytes of numbers of type T.
template <class T>
union Piece {
    static constexpr int COUNT = 16 / sizeof(T);
    uint4 raw;
    T numbers[COUNT];
    __device__ Piece() {}
};

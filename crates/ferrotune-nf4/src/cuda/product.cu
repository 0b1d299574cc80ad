// y = x Wᵀ for a few rows of x, straight from packed codes; sums in f32.
//
// A warp takes ROWS rows of W and all columns, a lane 16 bytes of each row's codes at a time (4 where a row's length is no
// multiple of 32). The thread block's eight warps share the activations, which stand in shared memory as they came; a
// chunk's pieces are set one apart so that lanes reading along their own chunks meet in no bank. The next step's codes are
// on their way while the present ones are multiplied. Weights are not rounded to the activations' type.
//
// The order of a sum: eight terms ascending, fused, then the scale; a lane's words ascending; the lanes as a binary tree.
#include "device.cuh"

namespace multiplying {

constexpr int ROWS = 4;

template <int WORDS>
struct Codes;
template <>
struct Codes<4> {
    uint4 raw;
    __device__ __forceinline__ void load(const u8* at) { raw = __ldg(reinterpret_cast<const uint4*>(at)); }
    __device__ __forceinline__ u32 word(int i) const {
        return i == 0 ? raw.x : i == 1 ? raw.y : i == 2 ? raw.z : raw.w;
    }
};
template <>
struct Codes<1> {
    u32 raw;
    __device__ __forceinline__ void load(const u8* at) { raw = __ldg(reinterpret_cast<const u32*>(at)); }
    __device__ __forceinline__ u32 word(int) const { return raw; }
};

// TILE rows of x at a time, one for each value of blockIdx.y; WORDS words of codes to a lane and step.
template <class T, int TILE, int WORDS>
__device__ __forceinline__ void run(int codebook, u64 rows, u64 columns, u32 batch, const u8* packed, Scales scales,
                                    const T* x, T* y) {
    constexpr int COUNT = Piece<T>::COUNT;
    constexpr int LANE = WORDS * WORD;         // columns of a lane in a step
    constexpr int STEP = LANES * LANE;         // columns of a step
    constexpr int PIECES = LANE / COUNT;       // 16-byte pieces of a lane's activations
    constexpr int APART = PIECES + (PIECES > 1);
    __shared__ DecodingTables tables;
    __shared__ uint4 staged[TILE * LANES * APART];
    u32 lane = threadIdx.x % LANES;
    u64 first_row = (u64(blockIdx.x) * WARPS + threadIdx.x / LANES) * ROWS;
    u32 first_sample = blockIdx.y * TILE;
    tables.load(codebook);

    Codes<WORDS> codes[ROWS], next[ROWS];
    StoredScale stored[ROWS], next_stored[ROWS];
    auto fetch = [&](u64 column, Codes<WORDS>* codes, StoredScale* stored) {
        if (column >= columns) return;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            // Rows behind the last are worked on as the last one, and dropped.
            u64 weight = min(first_row + r, rows - 1) * columns + column;
            codes[r].load(packed + weight / 2);
            stored[r] = scales.load(weight);
        }
    };
    float sums[ROWS][TILE];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int m = 0; m < TILE; ++m) sums[r][m] = 0.0f;
    }
    fetch(lane * LANE, codes, stored);
    for (u64 start = 0; start < columns; start += STEP) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < (TILE * LANES * PIECES + THREADS - 1) / THREADS; ++i) {
            u32 piece = i * THREADS + threadIdx.x;
            u32 m = piece / (LANES * PIECES), in_row = piece % (LANES * PIECES);
            u64 column = start + in_row * COUNT;
            if (m < TILE && column < columns) {
                const T* from = x + min(first_sample + m, batch - 1) * columns + column;
                staged[(m * LANES + in_row / PIECES) * APART + in_row % PIECES] =
                    __ldg(reinterpret_cast<const uint4*>(from));
            }
        }
        __syncthreads();
        u64 column = start + lane * LANE;
        fetch(column + STEP, next, next_stored);
        if (column < columns) {
            float scale[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) scale[r] = scales.decode(tables.map, stored[r]);
#pragma unroll
            for (int w = 0; w < WORDS; ++w) {
                float values[ROWS][WORD];
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    u32 word = codes[r].word(w);
#pragma unroll
                    for (int j = 0; j < WORD; ++j) values[r][j] = tables.values[code_at(word, j)];
                }
#pragma unroll
                for (int m = 0; m < TILE; ++m) {
                    float activations[WORD];
#pragma unroll
                    for (int p = 0; p < WORD / COUNT; ++p) {
                        Piece<T> piece;
                        piece.raw = staged[(m * LANES + lane) * APART + w * (WORD / COUNT) + p];
#pragma unroll
                        for (int j = 0; j < COUNT; ++j) activations[p * COUNT + j] = widen(piece.numbers[j]);
                    }
#pragma unroll
                    for (int r = 0; r < ROWS; ++r) {
                        sums[r][m] = accumulate(values[r], activations, scale[r], sums[r][m]);
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            codes[r] = next[r];
            stored[r] = next_stored[r];
        }
    }
    // One sum to a lane: ROWS * TILE is at most 32.
    float mine = 0.0f;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int m = 0; m < TILE; ++m) {
            float sum = sums[r][m];
#pragma unroll
            for (int apart = LANES / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
            if (lane == r * TILE + m) mine = sum;
        }
    }
    u64 row = first_row + lane / TILE;
    u32 sample = first_sample + lane % TILE;
    if (lane < ROWS * TILE && row < rows && sample < batch) narrow(mine, y[sample * rows + row]);
}

}  // namespace multiplying

#define PRODUCT(NAME, T, TILE, WORDS)                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) product_##NAME##_##TILE##_##WORDS(                  \
        int codebook, u64 rows, u64 columns, u32 batch, const u8* __restrict__ packed, Scales scales,         \
        const T* __restrict__ x, T* __restrict__ y) {                                                         \
        multiplying::run<T, TILE, WORDS>(codebook, rows, columns, batch, packed, scales, x, y);               \
    }
#define PRODUCTS(NAME, T)    \
    PRODUCT(NAME, T, 1, 4)   \
    PRODUCT(NAME, T, 2, 4)   \
    PRODUCT(NAME, T, 4, 4)   \
    PRODUCT(NAME, T, 8, 4)   \
    PRODUCT(NAME, T, 1, 1)   \
    PRODUCT(NAME, T, 8, 1)

PRODUCTS(f32, float)
PRODUCTS(f16, F16)
PRODUCTS(bf16, BF16)

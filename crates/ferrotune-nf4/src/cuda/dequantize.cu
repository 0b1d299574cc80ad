// Packed codes to weights, second-level scales decoded on the way. Results are the reference's bits.
//
// A warp unpacks 1,024 weights. Each lane reads 16 bytes of codes; through shared memory each then gets, in turn, the codes
// of the 16 bytes of output that lie beside its neighbours', so that reads and writes are both whole lines.
#include "device.cuh"

namespace dequantizing {

constexpr int TILE = LANES * CHUNK;

// Weights [first, first + count) of the tensor go to out[0 .. count). `first` is a multiple of 8.
template <class T>
__device__ __forceinline__ void run(int codebook, u64 first, u64 count, const u8* packed, Scales scales, T* out) {
    __shared__ DecodingTables tables;
    __shared__ uint4 staged[WARPS][LANES];
    constexpr int COUNT = Piece<T>::COUNT;
    int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    u64 end = first + count;
    // Tiles begin at a multiple of 32 weights, where 16 bytes of codes do.
    u64 tile = first / CHUNK * CHUNK + (u64(blockIdx.x) * WARPS + warp) * TILE;
    staged[warp][lane] = load_codes(packed, tile / 2 + lane * (CHUNK / 2), (end + 1) / 2);
    tables.load(codebook);
    __syncthreads();
    const u8* codes = reinterpret_cast<const u8*>(staged[warp]);
#pragma unroll
    for (int i = 0; i < TILE / COUNT / LANES; ++i) {
        int piece = i * LANES + lane;
        u64 weight = tile + piece * COUNT;
        if (weight < first || weight >= end) continue;
        float scale = scales.decode(tables.map, scales.load(weight));
        // Four or eight codes: two bytes or four.
        u32 word = COUNT == WORD ? reinterpret_cast<const u32*>(codes)[piece]
                                 : reinterpret_cast<const u16*>(codes)[piece];
        Piece<T> result;
#pragma unroll
        for (int j = 0; j < COUNT; ++j) {
            narrow(decode(tables.values, code_at(word, j), scale), result.numbers[j]);
        }
        T* to = out + (weight - first);
        if (weight + COUNT <= end) {
            *reinterpret_cast<uint4*>(to) = result.raw;
        } else {
#pragma unroll
            for (int j = 0; j < COUNT; ++j) {
                if (weight + j < end) to[j] = result.numbers[j];
            }
        }
    }
}

}  // namespace dequantizing

// One of the experts' matrices: `count` weights, whose place in the output begins `place` weights in, at a multiple of 8.
struct ExpertMatrix {
    const u8* packed;
    Scales scales;
    u64 count;
    u64 place;
};
// The launcher writes these by hand. The sizes leave no room for padding, so they fix the places of the fields.
static_assert(sizeof(Scales) == 24 && sizeof(ExpertMatrix) == 48, "layout");

#define DEQUANTIZE(NAME, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS) dequantize_##NAME(                                      \
        int codebook, u64 first, u64 count, const u8* __restrict__ packed, Scales scales, T* __restrict__ out) {  \
        dequantizing::run<T>(codebook, first, count, packed, scales, out);                                        \
    }                                                                                                             \
    /* One matrix to each value of blockIdx.y, `parts` to an expert; only those of experts that have rows:        \
       ends[e - 1] < ends[e]. The others' places are left as they are. */                                         \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                         \
        dequantize_experts_##NAME(int codebook, u32 parts, const int* __restrict__ ends,                          \
                                  const ExpertMatrix* __restrict__ matrices, T* __restrict__ out) {               \
        u32 expert = blockIdx.y / parts;                                                                          \
        if (ends[expert] == (expert == 0 ? 0 : ends[expert - 1])) return;                                         \
        ExpertMatrix matrix = matrices[blockIdx.y];                                                               \
        dequantizing::run<T>(codebook, 0, matrix.count, matrix.packed, matrix.scales, out + matrix.place);        \
    }

DEQUANTIZE(f32, float)
DEQUANTIZE(f16, F16)
DEQUANTIZE(bf16, BF16)

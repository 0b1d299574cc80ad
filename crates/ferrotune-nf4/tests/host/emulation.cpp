// The CUDA kernels on the host, one thread block at a time: what they read, exchange and write is tested without a GPU.
//
// A thread of a block is a context of its own (ucontext). Every barrier and every exchange within a warp hands on to the next thread, so
// that all arrive before any goes on; kernels in which only some threads of a block reach one are refused. Memory begins at multiples of 16
// bytes and is followed by bytes that must stay as they are; 16-byte accesses must be aligned.
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

static struct {
    unsigned x, y;
} threadIdx, blockIdx;

namespace emulation {

constexpr int COUNT = 256;
constexpr size_t STACK = 128 << 10;

ucontext_t scheduler, contexts[COUNT];
bool finished[COUNT];
uint32_t exchanged[COUNT];
std::function<void()> body;

[[noreturn]] void refuse(const char* what) {
    std::fprintf(stderr, "emulation: %s, thread %u of block %u, %u\n", what, threadIdx.x, blockIdx.x, blockIdx.y);
    std::abort();
}

void barrier() {
    if (swapcontext(&contexts[threadIdx.x], &scheduler) != 0) refuse("no switch");
}

void enter() {
    body();
    finished[threadIdx.x] = true;
}

void run_block() {
    static std::vector<char> stacks(COUNT * STACK);
    for (int i = 0; i < COUNT; ++i) {
        if (getcontext(&contexts[i]) != 0) refuse("no context");
        contexts[i].uc_stack.ss_sp = stacks.data() + i * STACK;
        contexts[i].uc_stack.ss_size = STACK;
        contexts[i].uc_link = &scheduler;
        makecontext(&contexts[i], enter, 0);
        finished[i] = false;
    }
    for (;;) {
        int done = 0;
        for (int i = 0; i < COUNT; ++i) {
            threadIdx.x = unsigned(i);
            if (swapcontext(&scheduler, &contexts[i]) != 0) refuse("no switch");
            done += finished[i];
        }
        if (done == COUNT) return;
        if (done != 0) refuse("a barrier that not all threads reach");
    }
}

void run(unsigned columns, unsigned rows, std::function<void()> kernel) {
    body = std::move(kernel);
    for (blockIdx.y = 0; blockIdx.y < rows; ++blockIdx.y) {
        for (blockIdx.x = 0; blockIdx.x < columns; ++blockIdx.x) run_block();
    }
}

}  // namespace emulation

static void __syncthreads() { emulation::barrier(); }

template <class T>
static T __shfl_xor_sync(unsigned, T value, unsigned apart) {
    static_assert(sizeof(T) == 4, "a register");
    std::memcpy(&emulation::exchanged[threadIdx.x], &value, 4);
    emulation::barrier();
    std::memcpy(&value, &emulation::exchanged[threadIdx.x ^ apart], 4);
    emulation::barrier();
    return value;
}

template <class T>
static T __ldg(const T* from) {
    if (reinterpret_cast<uintptr_t>(from) % alignof(T) != 0) emulation::refuse("a misaligned load");
    return *from;
}

template <class T>
static T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
static T max(T a, T b) {
    return a < b ? b : a;
}

static void atomicMin(unsigned long long* at, unsigned long long value) { *at = min(*at, value); }

#include "quantize.cu"
#include "dequantize.cu"
#include "product.cu"

namespace {

// A copy in memory as a device gives it, with guards behind it.
template <class T>
class Buffer {
  public:
    static constexpr size_t GUARD = 64;
    Buffer(const T* from, size_t count) : bytes_(count * sizeof(T)) {
        size_t whole = (bytes_ + GUARD + 15) / 16 * 16;
        memory_ = static_cast<unsigned char*>(std::aligned_alloc(16, whole));
        if (bytes_ > 0) std::memcpy(memory_, from, bytes_);
        std::memset(memory_ + bytes_, 0xa5, GUARD);
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() { std::free(memory_); }
    T* data() { return reinterpret_cast<T*>(memory_); }
    // Copies the content back; aborts if anything was written behind it.
    void give_back(T* to) {
        for (size_t i = 0; i < GUARD; ++i) {
            if (memory_[bytes_ + i] != 0xa5) emulation::refuse("a write behind a buffer");
        }
        if (bytes_ > 0) std::memcpy(to, memory_, bytes_);
    }

  private:
    size_t bytes_;
    unsigned char* memory_;
};

// A packed tensor of the caller's, copied.
struct Tensor {
    Buffer<u8> packed;
    Buffer<float> absmax;
    Buffer<u8> codes;
    Scales scales;

    Tensor(size_t len, size_t block, const u8* packed, const float* absmax, const u8* codes, float offset)
        : packed(packed, (len + 1) / 2),
          absmax(absmax, codes == nullptr ? blocks(len, block) : blocks(blocks(len, block), 256)),
          codes(codes, codes == nullptr ? 0 : blocks(len, block)) {
        scales = {this->absmax.data(), codes == nullptr ? nullptr : this->codes.data(), offset, 0};
        while ((size_t(1) << scales.log2_block) < block) ++scales.log2_block;
    }
    static size_t blocks(size_t len, size_t block) { return (len + block - 1) / block; }
};

}  // namespace

#define EXPORTS(NAME, T)                                                                                               \
    extern "C" void emulate_quantize_##NAME(unsigned grid, int codebook, int log2_block, size_t count, const T* weights, \
                                            u8* packed, float* absmax, u64* bad) {                                     \
        Buffer<T> from(weights, count);                                                                                \
        Buffer<u8> to(packed, (count + 1) / 2);                                                                        \
        Buffer<float> scales(absmax, Tensor::blocks(count, size_t(1) << log2_block));                                  \
        emulation::run(grid, 1, [&] {                                                                                  \
            quantize_##NAME(codebook, log2_block, count, from.data(), to.data(), scales.data(), bad);                  \
        });                                                                                                            \
        to.give_back(packed);                                                                                          \
        scales.give_back(absmax);                                                                                      \
    }                                                                                                                  \
    extern "C" void emulate_dequantize_##NAME(unsigned grid, int codebook, size_t block, size_t len, size_t first,     \
                                              size_t count, const u8* packed, const float* absmax, const u8* codes,    \
                                              float offset, T* out) {                                                  \
        Tensor tensor(len, block, packed, absmax, codes, offset);                                                      \
        Buffer<T> to(out, count);                                                                                      \
        emulation::run(grid, 1, [&] {                                                                                  \
            dequantize_##NAME(codebook, first, count, tensor.packed.data(), tensor.scales, to.data());                 \
        });                                                                                                            \
        to.give_back(out);                                                                                             \
    }                                                                                                                  \
    /* Matrices of equal length, one after the other, with scales of their own. */                                     \
    extern "C" void emulate_dequantize_experts_##NAME(unsigned grid, int codebook, size_t block, size_t matrices,      \
                                                      unsigned parts, const int* ends, size_t count, const u8* packed, \
                                                      const float* absmax, T* out) {                                   \
        std::vector<Tensor*> tensors;                                                                                  \
        std::vector<ExpertMatrix> described;                                                                           \
        for (size_t i = 0; i < matrices; ++i) {                                                                        \
            size_t scale = i * Tensor::blocks(count, block);                                                           \
            tensors.push_back(new Tensor(count, block, packed + i * count / 2, absmax + scale, nullptr, 0.0f));        \
            described.push_back({tensors[i]->packed.data(), tensors[i]->scales, count, i * count});                    \
        }                                                                                                              \
        Buffer<T> to(out, matrices * count);                                                                           \
        emulation::run(grid, unsigned(matrices), [&] {                                                                 \
            dequantize_experts_##NAME(codebook, parts, ends, described.data(), to.data());                             \
        });                                                                                                            \
        to.give_back(out);                                                                                             \
        for (Tensor* tensor : tensors) delete tensor;                                                                  \
    }                                                                                                                  \
    extern "C" void emulate_product_##NAME(unsigned grid, unsigned tile, unsigned words, int codebook, size_t block,   \
                                           size_t rows, size_t columns, size_t batch, const u8* packed,                \
                                           const float* absmax, const u8* codes, float offset, const T* x, T* y) {     \
        Tensor tensor(rows * columns, block, packed, absmax, codes, offset);                                           \
        Buffer<T> from(x, batch * columns), to(y, batch * rows);                                                       \
        auto with = [&](decltype(product_##NAME##_1_4)* kernel) {                                                      \
            emulation::run(grid, unsigned((batch + tile - 1) / tile), [&] {                                            \
                kernel(codebook, rows, columns, u32(batch), tensor.packed.data(), tensor.scales, from.data(),          \
                       to.data());                                                                                     \
            });                                                                                                        \
        };                                                                                                             \
        switch (words * 16 + tile) {                                                                                   \
            case 65: with(product_##NAME##_1_4); break;                                                                \
            case 66: with(product_##NAME##_2_4); break;                                                                \
            case 68: with(product_##NAME##_4_4); break;                                                                \
            case 72: with(product_##NAME##_8_4); break;                                                                \
            case 17: with(product_##NAME##_1_1); break;                                                                \
            case 24: with(product_##NAME##_8_1); break;                                                                \
            default: emulation::refuse("no such kernel");                                                              \
        }                                                                                                              \
        to.give_back(y);                                                                                               \
    }

EXPORTS(f32, float)
EXPORTS(f16, F16)
EXPORTS(bf16, BF16)

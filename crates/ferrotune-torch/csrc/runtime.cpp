// What libtorch knows of itself and of its devices: version, generators, memory. Only device-neutral headers, so that
// the same shim serves a libtorch with CUDA and one without.
#include "boundary.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/_fused_adamw.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>

#include <mutex>
#include <vector>

namespace {

using at::Tensor;

// tch's numbering: below zero the CPU, from zero on a CUDA device.
at::Device device_of(int32_t index) {
  return index < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index));
}

std::vector<Tensor> list(Tensor* const* tensors, size_t count) {
  std::vector<Tensor> result;
  result.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    result.push_back(*tensors[i]);
  }
  return result;
}

int64_t total(const c10::CachingAllocator::StatArray& stats, int64_t c10::CachingAllocator::Stat::*field) {
  return stats[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].*field;
}

} // namespace

using ferrotune::Failure;
using ferrotune::guarded;

extern "C" {

uint64_t ferrotune_torch_compiled_version() {
  return TORCH_ABI_VERSION;
}

uint64_t ferrotune_torch_runtime_version() {
  return aoti_torch_abi_version();
}

// Whether libtorch calls its CUDA half. The stand-in that it calls otherwise says no here.
bool ferrotune_torch_cuda_is_linked(bool* result, Failure* failure) {
  return guarded(failure, [&] { *result = at::detail::getCUDAHooks().hasCUDART(); });
}

bool ferrotune_torch_has_cuda(bool* result, Failure* failure) {
  return guarded(failure, [&] { *result = at::globalContext().hasCUDA(); });
}

bool ferrotune_torch_cuda_device_count(int64_t* result, Failure* failure) {
  return guarded(failure, [&] { *result = at::globalContext().getAcceleratorHooksInterface(at::kCUDA).deviceCount(); });
}

// The stream that operations on a CUDA device are put on by this thread, by the driver's handle.
bool ferrotune_torch_current_stream(int32_t device, uint64_t* handle, Failure* failure) {
  return guarded(failure, [&] {
    const auto stream = at::accelerator::getCurrentStream(static_cast<at::DeviceIndex>(device));
    *handle = reinterpret_cast<uintptr_t>(stream.native_handle());
  });
}

bool ferrotune_torch_synchronize(int32_t device, Failure* failure) {
  return guarded(failure, [&] {
    if (device >= 0) {
      at::accelerator::synchronizeDevice(static_cast<at::DeviceIndex>(device));
    }
  });
}

bool ferrotune_torch_generator_seed(int32_t device, uint64_t seed, Failure* failure) {
  return guarded(failure, [&] {
    auto generator = at::globalContext().defaultGenerator(device_of(device));
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_current_seed(seed);
  });
}

// Returns an owned tensor of bytes on the CPU, or null after a failure.
Tensor* ferrotune_torch_generator_state(int32_t device, Failure* failure) {
  Tensor* state = nullptr;
  guarded(failure, [&] {
    auto generator = at::globalContext().defaultGenerator(device_of(device));
    std::lock_guard<std::mutex> lock(generator.mutex());
    state = new Tensor(generator.get_state());
  });
  return state;
}

bool ferrotune_torch_generator_set_state(int32_t device, const Tensor* state, Failure* failure) {
  return guarded(failure, [&] {
    auto generator = at::globalContext().defaultGenerator(device_of(device));
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

// Writes current and peak allocated, then current and peak reserved bytes.
bool ferrotune_torch_memory(int32_t device, int64_t figures[4], Failure* failure) {
  return guarded(failure, [&] {
    using c10::CachingAllocator::Stat;
    auto* allocator = c10::getDeviceAllocator(at::kCUDA);
    std::fill_n(figures, 4, 0);
    if (!allocator->initialized()) {
      return;
    }
    const auto stats = allocator->getDeviceStats(static_cast<at::DeviceIndex>(device));
    figures[0] = total(stats.allocated_bytes, &Stat::current);
    figures[1] = total(stats.allocated_bytes, &Stat::peak);
    figures[2] = total(stats.reserved_bytes, &Stat::current);
    figures[3] = total(stats.reserved_bytes, &Stat::peak);
  });
}

bool ferrotune_torch_memory_reset_peak(int32_t device, Failure* failure) {
  return guarded(failure, [&] {
    auto* allocator = c10::getDeviceAllocator(at::kCUDA);
    if (allocator->initialized()) {
      allocator->resetPeakStats(static_cast<at::DeviceIndex>(device));
    }
  });
}

bool ferrotune_torch_fused_adamw(
    Tensor* const* parameters,
    Tensor* const* gradients,
    Tensor* const* exp_avgs,
    Tensor* const* exp_avg_sqs,
    Tensor* const* steps,
    size_t count,
    double lr,
    double beta1,
    double beta2,
    double weight_decay,
    double eps,
    Failure* failure) {
  return guarded(failure, [&] {
    c10::AutoGradMode off(false);
    auto counters = list(steps, count);
    for (auto& counter : counters) {
      counter.add_(1);
    }
    auto values = list(parameters, count), first = list(exp_avgs, count), second = list(exp_avg_sqs, count);
    at::_fused_adamw_(
        values,
        list(gradients, count),
        first,
        second,
        /*max_exp_avg_sqs=*/{},
        counters,
        lr,
        beta1,
        beta2,
        weight_decay,
        eps,
        /*amsgrad=*/false,
        /*maximize=*/false);
    // The kernel has no derivative, so nothing below it counts that these were changed in place.
    for (const auto* changed : {&values, &first, &second}) {
      for (const auto& tensor : *changed) {
        tensor.unsafeGetTensorImpl()->bump_version();
      }
    }
  });
}

} // extern "C"

// Counts the floating-point operations of the matrix products that libtorch runs, through its own observer of operators.
//
// The observer is registered for one thread; libtorch carries it, together with the counter it finds in the thread's
// debug information, to the threads that run the backward pass.
#include "boundary.h"

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <atomic>
#include <memory>
#include <string_view>
#include <unordered_map>

namespace ferrotune {
namespace {

using Arguments = c10::ArrayRef<const c10::IValue>;

// A tensor among the arguments; an undefined one where there is none.
at::Tensor tensor_at(Arguments arguments, size_t position) {
  return position < arguments.size() && arguments[position].isTensor() ? arguments[position].toTensor() : at::Tensor();
}

// a [.., n, k] times b [.., k, m] (or a vector): a multiplication and an addition for each of n·k·m.
template <size_t First>
uint64_t product(Arguments arguments) {
  const auto a = tensor_at(arguments, First);
  const auto b = tensor_at(arguments, First + 1);
  if (!a.defined() || !b.defined()) {
    return 0;
  }
  return 2 * static_cast<uint64_t>(a.numel()) * static_cast<uint64_t>(b.dim() > 1 ? b.size(-1) : 1);
}

// The end of the last group: rows behind it are not computed. Known without waiting for the device only on the CPU.
int64_t grouped_extent(const at::Tensor& offsets, int64_t full) {
  if (!offsets.defined() || offsets.numel() == 0 || !offsets.is_cpu() || offsets.scalar_type() != at::kInt) {
    return full;
  }
  return std::min<int64_t>(full, offsets.const_data_ptr<int32_t>()[(offsets.numel() - 1) * offsets.stride(-1)]);
}

// Each row (or column, or slice of the inner dimension) belongs to one group, so the cost is that of the rows.
uint64_t grouped_product(Arguments arguments) {
  const auto a = tensor_at(arguments, 0);
  const auto b = tensor_at(arguments, 1);
  const auto offsets = tensor_at(arguments, 2);
  if (!a.defined() || !b.defined()) {
    return 0;
  }
  if (a.dim() == 2 && b.dim() == 3) { // rows in groups
    return 2 * grouped_extent(offsets, a.size(0)) * a.size(1) * b.size(2);
  }
  if (a.dim() == 3 && b.dim() == 2) { // columns in groups
    return 2 * a.size(1) * a.size(2) * grouped_extent(offsets, b.size(1));
  }
  if (a.dim() == 2 && b.dim() == 2) { // inner dimension in groups
    return 2 * a.size(0) * grouped_extent(offsets, a.size(1)) * b.size(1);
  }
  return product<0>(arguments);
}

// Query [batch, heads, l, e], key [batch, heads', s, e], value [batch, heads', s, v].
template <size_t Query, uint64_t OverE, uint64_t OverV>
uint64_t attention(Arguments arguments) {
  const auto query = tensor_at(arguments, Query);
  const auto key = tensor_at(arguments, Query + 1);
  const auto value = tensor_at(arguments, Query + 2);
  if (!query.defined() || !key.defined() || !value.defined() || query.dim() != 4) {
    return 0;
  }
  const uint64_t scores = query.size(0) * query.size(1) * query.size(2) * key.size(2);
  return 2 * scores * (OverE * query.size(3) + OverV * value.size(3));
}

// Forward: scores from query and key, output from scores and value. Backward: the scores again, the gradients of query
// and key (three products over e), of value and of the scores (two over v).
constexpr auto attention_forward = attention<0, 1, 1>;
constexpr auto attention_backward = attention<1, 3, 2>;

using Cost = uint64_t (*)(Arguments);

// By operator, without the underscore of an in-place variant. A composed operator (linear, matmul, einsum) is counted
// where it ends up; one that calls another of this list (a grouped product on the CPU) is counted once, as the outer.
const std::unordered_map<std::string_view, Cost>& costs() {
  static const std::unordered_map<std::string_view, Cost> table = {
      {"aten::mm", product<0>},
      {"aten::bmm", product<0>},
      {"aten::mv", product<0>},
      {"aten::dot", product<0>},
      {"aten::_int_mm", product<0>},
      {"aten::_scaled_mm", product<0>},
      {"aten::addmm", product<1>},
      {"aten::_addmm_activation", product<1>},
      {"aten::addmv", product<1>},
      {"aten::addbmm", product<1>},
      {"aten::baddbmm", product<1>},
      {"aten::_grouped_mm", grouped_product},
      {"aten::_scaled_dot_product_flash_attention_for_cpu", attention_forward},
      {"aten::_scaled_dot_product_flash_attention", attention_forward},
      {"aten::_scaled_dot_product_efficient_attention", attention_forward},
      {"aten::_scaled_dot_product_cudnn_attention", attention_forward},
      {"aten::_scaled_dot_product_flash_attention_for_cpu_backward", attention_backward},
      {"aten::_scaled_dot_product_flash_attention_backward", attention_backward},
      {"aten::_scaled_dot_product_efficient_attention_backward", attention_backward},
      {"aten::_scaled_dot_product_cudnn_attention_backward", attention_backward},
  };
  return table;
}

Cost cost_of(std::string_view name) {
  if (name.size() > 1 && name.back() == '_') {
    name.remove_suffix(1);
  }
  const auto found = costs().find(name);
  return found == costs().end() ? nullptr : found->second;
}

struct Count : c10::DebugInfoBase {
  std::atomic<uint64_t> total{0};
  Count* outer = nullptr; // outlives this one: counters of a thread nest
};

// The debug information has no kind for observers from outside libtorch; this one is used by libtorch's tests alone.
constexpr auto kKind = c10::DebugInfoKind::TEST_INFO_2;

Count* current() {
  return static_cast<Count*>(c10::ThreadLocalDebugInfo::get(kKind));
}

// Set while an operator of the list runs in this thread.
thread_local bool inside = false;

struct Entered : at::ObserverContext {
  ~Entered() override {
    inside = false;
  }
};

std::unique_ptr<at::ObserverContext> enter(const at::RecordFunction& record) {
  auto* count = current();
  const auto cost = inside || !count ? nullptr : cost_of(record.name());
  if (!cost) {
    return nullptr;
  }
  const auto operations = cost(record.inputs());
  for (; count; count = count->outer) {
    count->total.fetch_add(operations, std::memory_order_relaxed);
  }
  inside = true;
  return std::make_unique<Entered>();
}

struct Counter {
  std::shared_ptr<Count> count;
  std::unique_ptr<c10::DebugInfoGuard> guard;
  at::CallbackHandle callback = at::INVALID_CALLBACK_HANDLE; // held by the outermost counter of a thread

  Counter() : count(std::make_shared<Count>()) {
    count->outer = current();
    if (!count->outer) {
      callback = at::addThreadLocalCallback(
          at::RecordFunctionCallback(enter).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
    }
    guard = std::make_unique<c10::DebugInfoGuard>(kKind, count);
  }

  ~Counter() {
    if (callback != at::INVALID_CALLBACK_HANDLE) {
      at::removeCallback(callback);
    }
  }
};

} // namespace
} // namespace ferrotune

using namespace ferrotune;

extern "C" {

// Starts counting for this thread. To be stopped on the same thread, the last started first.
void* ferrotune_torch_flops_start(Failure* failure) {
  Counter* counter = nullptr;
  guarded(failure, [&] { counter = new Counter(); });
  return counter;
}

uint64_t ferrotune_torch_flops_total(const void* counter) {
  return static_cast<const Counter*>(counter)->count->total.load(std::memory_order_relaxed);
}

void ferrotune_torch_flops_stop(void* counter) {
  Failure ignored{nullptr, nullptr};
  if (!guarded(&ignored, [&] { delete static_cast<Counter*>(counter); })) {
    free(ignored.message);
  }
}

} // extern "C"

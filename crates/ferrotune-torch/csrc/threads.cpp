// Work of Rust's on libtorch's own intra-op threads.
#include "boundary.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>

using ferrotune::Failure;
using ferrotune::guarded;

extern "C" {

// Calls `body(context)`, which throws nothing, once on each thread of the pool; where a call is already on one of them,
// once on that one.
//
// `at::parallel_for` is a template: compiled here it would use the threads of this compiler's OpenMP, or none. The loop of
// a tensor iterator is compiled into libtorch and runs on the threads that libtorch has, whichever they are. The tensor it
// goes over has a byte for each of them.
bool ferrotune_torch_on_each_thread(void (*body)(const void*), const void* context, Failure* failure) {
  return guarded(failure, [&] {
    const int64_t threads = at::get_num_threads();
    if (threads == 1 || at::in_parallel_region()) {
      return body(context);
    }
    const auto places = at::detail::empty_cpu({threads}, at::TensorOptions(at::kByte));
    at::TensorIterator::borrowing_nullary_op(places).for_each(
        [&](char**, const int64_t*, int64_t, int64_t) { body(context); }, /*grain_size=*/1);
  });
}

} // extern "C"

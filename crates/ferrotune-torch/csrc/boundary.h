// What every file of the shim shares: how a call crosses between Rust and C++.
//
// No exception leaves a function declared here: each runs inside `guarded`, which turns whatever was thrown into a
// `Failure` for the Rust side. In the other direction Rust hands over a `Raised` it owns; it travels through libtorch's
// engine as a `RustError` and is handed back whole, so that Rust sees its own error value again and not only a text.
#pragma once

#include <c10/util/Exception.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>

namespace at {
class Tensor;
}

namespace ferrotune {

// An error value owned by Rust; only Rust looks inside.
struct Raised;

// What Rust gives the shim to be called back. Laid out as `Callbacks` in `src/ffi/node.rs`.
struct Callbacks {
  // Runs a backward pass. Takes ownership of every tensor in `saved` and `grads` (null: undefined gradient) and writes
  // one owned tensor or null per input to `results`. Returns null, or the error, in which case `results` is all null.
  Raised* (*backward)(
      const void* call,
      at::Tensor** saved,
      size_t saved_count,
      at::Tensor** grads,
      size_t grads_count,
      const bool* needs,
      at::Tensor** results,
      size_t results_count,
      bool create_graph);
  void (*drop_call)(void* call);
  // A text that lives as long as the error.
  const char* (*describe)(const Raised* raised);
  void (*drop_raised)(Raised* raised);
};

// How a failed call is reported: `message` comes from `malloc`, `raised` is set if the error began in Rust.
struct Failure {
  char* message;
  Raised* raised;
};

class RustError : public std::exception {
 public:
  RustError(const Callbacks& callbacks, Raised* raised) : shared_(std::make_shared<Shared>(callbacks, raised)) {}
  const char* what() const noexcept override {
    return shared_->text.c_str();
  }
  // The error value itself, once; afterwards only the text is left.
  Raised* take() const noexcept {
    return shared_->raised.exchange(nullptr);
  }

 private:
  // Exceptions are copied by the language as it likes; the value has one owner.
  struct Shared {
    Shared(const Callbacks& callbacks, Raised* raised)
        : callbacks(callbacks), raised(raised), text(callbacks.describe(raised)) {}
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;
    ~Shared() {
      if (auto* left = raised.exchange(nullptr)) {
        callbacks.drop_raised(left);
      }
    }
    const Callbacks& callbacks;
    std::atomic<Raised*> raised;
    std::string text;
  };
  std::shared_ptr<Shared> shared_;
};

template <class Body>
bool guarded(Failure* failure, Body&& body) noexcept {
  try {
    std::forward<Body>(body)();
    return true;
  } catch (const RustError& error) {
    failure->raised = error.take();
    failure->message = strdup(error.what());
  } catch (const c10::Error& error) {
    // Without the stack of C++ frames that `what()` appends.
    failure->message = strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    failure->message = strdup(error.what());
  } catch (...) {
    failure->message = strdup("an exception that is not a std::exception");
  }
  return false;
}

} // namespace ferrotune

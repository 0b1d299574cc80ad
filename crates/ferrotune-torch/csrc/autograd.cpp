// The autograd side of the shim: a graph node whose backward pass is written in Rust, and the engine's entry points.
#include "boundary.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace ferrotune {
namespace {

using at::Tensor;
using torch::autograd::GradMode;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

Tensor* owned(const Tensor& tensor) {
  return tensor.defined() ? new Tensor(tensor) : nullptr;
}

Tensor taken(Tensor* tensor) {
  std::unique_ptr<Tensor> owner(tensor);
  return owner ? std::move(*owner) : Tensor();
}

Tensor borrowed(Tensor* tensor) {
  return tensor ? *tensor : Tensor();
}

variable_list borrowed(Tensor* const* tensors, size_t count) {
  variable_list list;
  list.reserve(count);
  std::transform(tensors, tensors + count, std::back_inserter(list), [](Tensor* t) { return borrowed(t); });
  return list;
}

class RustNode final : public Node {
 public:
  RustNode(std::shared_ptr<void> call, const Callbacks& callbacks, std::string name)
      : call_(std::move(call)), callbacks_(callbacks), name_(std::move(name)) {}

  // A saved output makes no cycle: what carries the node is a handle of its own (`as_output`).
  void save(const variable_list& tensors) {
    for (const auto& tensor : tensors) {
      saved_.emplace_back(tensor, /*is_output=*/false);
    }
  }

  variable_list apply(variable_list&& grads) override {
    std::vector<Tensor*> saved = unpack();
    std::vector<Tensor*> incoming;
    incoming.reserve(grads.size());
    for (auto& grad : grads) {
      incoming.push_back(owned(grad));
      grad.reset(); // Rust may then free it in the middle of its pass
    }
    std::unique_ptr<bool[]> needs(new bool[num_outputs()]);
    for (size_t i = 0; i < num_outputs(); ++i) {
      needs[i] = task_should_compute_output(i);
    }
    std::vector<Tensor*> results(num_outputs(), nullptr);
    auto* raised = callbacks_.backward(
        call_.get(),
        saved.data(),
        saved.size(),
        incoming.data(),
        incoming.size(),
        needs.get(),
        results.data(),
        results.size(),
        GradMode::is_enabled());
    if (raised) {
      throw RustError(callbacks_, raised);
    }
    variable_list list;
    list.reserve(results.size());
    std::transform(results.begin(), results.end(), std::back_inserter(list), taken);
    return list;
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    saved_.clear();
    released_ = true;
  }

  std::string name() const override {
    return name_;
  }

 private:
  std::vector<Tensor*> unpack() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (released_) {
      throw std::runtime_error(torch::autograd::ERR_BACKWARD_TWICE);
    }
    variable_list tensors;
    for (const auto& variable : saved_) {
      auto tensor = variable.unpack();
      // A fresh handle, without history, which is of use only to the refused second derivative: asking it for gradients
      // must not mark the saved one.
      tensors.push_back(tensor.defined() ? tensor.detach() : tensor);
    }
    std::vector<Tensor*> list;
    std::transform(tensors.begin(), tensors.end(), std::back_inserter(list), owned);
    return list;
  }

  std::shared_ptr<void> call_;
  const Callbacks& callbacks_;
  std::string name_;
  std::vector<SavedVariable> saved_;
  bool released_ = false;
};

// A handle of its own for an output, so that giving it a history changes no tensor that someone else holds. It shares
// the version counter, so that libtorch notices a saved output that was changed in place.
Tensor as_output(const Tensor& output, const variable_list& inputs) {
  const bool aliases = std::any_of(inputs.begin(), inputs.end(), [&](const Tensor& input) {
    return input.defined() && input.has_storage() && output.has_storage() && output.is_alias_of(input);
  });
  if (!aliases) {
    return output.detach();
  }
  // As libtorch's own functions do: a view that refuses to be changed in place, for it would change the input.
  auto view = output.view_as(output);
  torch::autograd::impl::get_view_autograd_meta(view)->set_creation_meta(
      torch::autograd::CreationMeta::IN_CUSTOM_FUNCTION);
  return view;
}

} // namespace
} // namespace ferrotune

using namespace ferrotune;

extern "C" {

// Puts a node between `inputs` and `outputs` if gradients are being recorded and an input asks for one. Takes ownership
// of `call` in every case and writes one owned tensor per output to `results`.
bool ferrotune_torch_attach(
    void* call,
    const Callbacks* callbacks,
    const char* name,
    Tensor* const* inputs,
    size_t inputs_count,
    Tensor* const* outputs,
    size_t outputs_count,
    Tensor* const* saved,
    size_t saved_count,
    Tensor** results,
    Failure* failure) {
  return guarded(failure, [&] {
    std::shared_ptr<void> owner(call, callbacks->drop_call);
    const auto ins = borrowed(inputs, inputs_count);
    auto outs = borrowed(outputs, outputs_count);
    if (GradMode::is_enabled() && torch::autograd::any_variable_requires_grad(ins)) {
      at::AutoGradMode off(false);
      std::shared_ptr<RustNode> node(
          new RustNode(std::move(owner), *callbacks, name), torch::autograd::deleteNode);
      node->set_next_edges(torch::autograd::collect_next_edges(ins));
      for (auto& out : outs) {
        out = as_output(out, ins);
        if (torch::autograd::isDifferentiableType(out.scalar_type())) {
          torch::autograd::create_gradient_edge(out, node);
        } else {
          node->add_input_metadata(Node::undefined_input());
        }
      }
      node->save(borrowed(saved, saved_count));
    }
    std::transform(outs.begin(), outs.end(), results, owned);
  });
}

bool ferrotune_torch_grad_enabled() {
  return GradMode::is_enabled();
}

void ferrotune_torch_set_grad_enabled(bool enabled) {
  GradMode::set_enabled(enabled);
}

bool ferrotune_torch_backward(
    Tensor* const* roots,
    Tensor* const* root_grads,
    size_t roots_count,
    Failure* failure) {
  return guarded(failure, [&] {
    torch::autograd::backward(borrowed(roots, roots_count), borrowed(root_grads, roots_count));
  });
}

bool ferrotune_torch_grad(
    Tensor* const* roots,
    Tensor* const* root_grads,
    size_t roots_count,
    Tensor* const* inputs,
    size_t inputs_count,
    bool allow_unused,
    Tensor** results,
    Failure* failure) {
  return guarded(failure, [&] {
    const auto grads = torch::autograd::grad(
        borrowed(roots, roots_count),
        borrowed(inputs, inputs_count),
        borrowed(root_grads, roots_count),
        /*retain_graph=*/false,
        /*create_graph=*/false,
        allow_unused);
    std::transform(grads.begin(), grads.end(), results, owned);
  });
}

} // extern "C"

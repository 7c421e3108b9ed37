// Gradients of leaves: what is done as soon as one is complete, and putting one in place or taking it away.
#include "shim.h"
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

// Calls the Rust closure `body` with the borrowed leaf; nonzero is a failure.
using HookCall = int (*)(void *body, tensor leaf);
using HookFree = void (*)(void *body);

namespace {

struct RustHook : public torch::autograd::PostAccumulateGradHook {
  void *body;
  HookCall call;
  HookFree release;
  RustHook(void *body, HookCall call, HookFree release) : body(body), call(call), release(release) {}
  RustHook(const RustHook &) = delete;
  ~RustHook() override { release(body); }

  void operator()(const at::Tensor &leaf) override {
    at::Tensor alias = leaf;
    sd_check_callback(call(body, &alias));
  }
};

} // namespace

extern "C" {

// Takes ownership of `body` in every case. A leaf has at most one such hook; null for `call` takes it away.
int sd_set_gradient_hook(tensor leaf, void *body, HookCall call, HookFree release) {
  std::unique_ptr<torch::autograd::PostAccumulateGradHook> hook;
  if (call) hook = std::make_unique<RustHook>(body, call, release);
  return sd_guard([&] {
    if (hook) TORCH_CHECK(leaf->is_leaf() && leaf->requires_grad(), "only a trained leaf has a gradient to wait for");
    torch::autograd::impl::set_post_acc_grad_hooks(*leaf, std::move(hook));
  });
}

// Makes `gradient` that of `leaf`, without a copy; null frees the one it has.
int sd_set_gradient(tensor leaf, tensor gradient) {
  return sd_guard([&] { leaf->mutable_grad() = gradient ? gradient->detach() : at::Tensor(); });
}
}

// Gradient checkpointing: a graph node that keeps a block's inputs and runs the block again in backward.
#include "shim.h"
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Calls the Rust closure `block` with `count` borrowed inputs; on success `*output` owns the result.
using BlockCall = int (*)(void *block, const tensor *inputs, int count, tensor *output);
using BlockFree = void (*)(void *block);

namespace {

struct Block {
  void *closure;
  BlockCall call;
  BlockFree release;
  Block(void *closure, BlockCall call, BlockFree release) : closure(closure), call(call), release(release) {}
  Block(const Block &) = delete;
  ~Block() { release(closure); }

  at::Tensor run(variable_list &inputs) const {
    std::vector<tensor> pointers;
    for (auto &input : inputs) pointers.push_back(&input);
    tensor output = nullptr;
    sd_check_callback(call(closure, pointers.data(), static_cast<int>(pointers.size()), &output));
    at::Tensor result = *output;
    delete output;
    return result;
  }
};

// Where the gradient of a block's input ends up while the block is run again. A leaf would do, too, but its `.grad` is
// copied into the memory layout of the leaf; then sums further down run in another order than without checkpointing.
struct GradientSink : public torch::autograd::Node {
  at::Tensor gradient;

  variable_list apply(variable_list &&grads) override {
    gradient = grads[0];
    return {};
  }
};

struct CheckpointNode : public torch::autograd::Node {
  std::shared_ptr<Block> block;
  std::vector<SavedVariable> inputs;

  variable_list apply(variable_list &&grads) override {
    TORCH_CHECK(block, "a checkpointed block was asked for its gradient twice");
    variable_list detached;
    std::vector<std::shared_ptr<GradientSink>> sinks(inputs.size());
    for (size_t i = 0; i < inputs.size(); i++) {
      const auto input = inputs[i].unpack();
      auto copy = input.detach();
      if (input.requires_grad()) {
        sinks[i] = std::make_shared<GradientSink>();
        torch::autograd::set_history(copy, sinks[i]);
      }
      detached.push_back(copy);
    }
    at::Tensor output;
    {
      c10::AutoGradMode with_grad(true);
      output = block->run(detached);
    }
    variable_list input_grads(inputs.size());
    if (grads[0].defined() && output.requires_grad()) {
      // Gradients of the parameters that the closure holds are accumulated by this call.
      torch::autograd::backward({output}, {grads[0]});
      for (size_t i = 0; i < sinks.size(); i++) {
        if (sinks[i]) input_grads[i] = sinks[i]->gradient;
      }
    }
    return input_grads;
  }

  void release_variables() override {
    inputs.clear();
    block.reset();
  }
};

} // namespace

std::string &sd_error_slot() {
  thread_local std::string message;
  return message;
}

extern "C" {

const char *sd_last_error() { return sd_error_slot().c_str(); }

// Takes ownership of `closure` in every case.
int sd_gradient_checkpoint(void *closure, BlockCall call, BlockFree release, const tensor *inputs, int count,
                           tensor *output) {
  auto block = std::make_shared<Block>(closure, call, release);
  return sd_guard([&] {
    variable_list values;
    for (int i = 0; i < count; i++) values.push_back(*inputs[i]);
    at::Tensor result;
    {
      c10::NoGradGuard no_grad;
      result = block->run(values);
    }
    if (c10::GradMode::is_enabled()) {
      auto node = std::make_shared<CheckpointNode>();
      node->block = block;
      for (auto &value : values) node->inputs.emplace_back(value, false);
      // An input without a gradient gets an empty edge. The node is made even when all are empty: the block's own
      // parameters may be trained although nothing before it is.
      node->set_next_edges(torch::autograd::collect_next_edges(values));
      result = result.detach();
      torch::autograd::set_history(result, node);
    }
    *output = new at::Tensor(result);
  });
}
}

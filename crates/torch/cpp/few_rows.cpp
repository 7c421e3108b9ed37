// Products of rows with the weights of a layer: a kernel of our own where few rows meet them in bf16, libtorch's otherwise. And a linear layer
// made of them, as one node of the graph.
#include "few_rows.h"
#include "few_rows_bf16.h"
#include "parallel.h"
#include "shim.h"
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// Of more rows libtorch's product is as fast: then what it costs to bring weights in order no longer counts.
constexpr int64_t MOST_ROWS = 256;

// Whether there is a kernel for `count` rows of the type and place of `like`.
bool is_ours(int64_t count, const at::Tensor &like, const at::Tensor &weight) {
  return like.is_cpu() && weight.is_cpu() && like.scalar_type() == at::kBFloat16 && weight.scalar_type() == at::kBFloat16 &&
         weight.is_contiguous() && weight.numel() > 0 && weight.size(0) % 2 == 0 && weight.size(1) % 2 == 0 && count > 0 &&
         count <= MOST_ROWS && bf16_products_are_supported();
}

const uint16_t *numbers(const at::Tensor &tensor) { return static_cast<const uint16_t *>(tensor.const_data_ptr()); }

// A share of `count` for each thread, in whole vectors. No result depends on it.
int64_t share_of(int64_t count) {
  const int64_t each = (count + at::get_num_threads() - 1) / at::get_num_threads();
  return (each + 15) / 16 * 16;
}

struct Linear : public torch::autograd::Function<Linear> {
  // A tensor that is not defined is no argument of a node: a layer without a bias has none.
  static at::Tensor forward(AutogradContext *context, const at::Tensor &input, const at::Tensor &weight,
                            const c10::optional<at::Tensor> &bias) {
    RECORD_FUNCTION("sdtrain::linear", std::vector<c10::IValue>{});
    context->saved_data["has_bias"] = bias.has_value();
    // The input is needed for the gradient of weights only.
    context->save_for_backward({weight.requires_grad() ? input : at::Tensor(), weight});
    auto sizes = input.sizes().vec();
    sizes.back() = weight.size(0);
    // A view made here could not be changed in place, as the output of libtorch's layer can.
    return at::_unsafe_view(sd_rows_by_weight(input.reshape({-1, weight.size(1)}), weight, bias.value_or(at::Tensor())), sizes);
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    RECORD_FUNCTION("sdtrain::linear_backward", std::vector<c10::IValue>{});
    sd_check_first_derivative("linear");
    const auto saved = context->get_saved_variables();
    const auto &input = saved[0], &weight = saved[1];
    const auto gradient = gradients[0].reshape({-1, weight.size(0)});
    at::Tensor of_input, of_weight, of_bias;
    if (context->needs_input_grad(0)) {
      auto sizes = gradients[0].sizes().vec();
      sizes.back() = weight.size(1);
      of_input = at::_unsafe_view(sd_rows_by_weight_backward(gradient, weight), sizes);
    }
    if (context->needs_input_grad(1)) of_weight = gradient.t().mm(input.reshape({-1, weight.size(1)}));
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(2)) of_bias = gradient.sum(0);
    return {of_input, of_weight, of_bias};
  }
};

} // namespace

at::Tensor sd_rows_by_weight(const at::Tensor &rows, const at::Tensor &weight, const at::Tensor &bias) {
  const bool bias_fits = !bias.defined() || (bias.is_cpu() && bias.scalar_type() == at::kBFloat16 && bias.dim() == 1 &&
                                             bias.size(0) == weight.size(0) && bias.is_contiguous());
  const bool has_kernel = is_ours(rows.size(0), rows, weight) && bias_fits;
  if (!has_kernel) return bias.defined() ? at::addmm(bias, rows, weight.t()) : rows.mm(weight.t());
  const auto input = rows.contiguous();
  const FewRows size{input.size(0), input.size(1), weight.size(0), numbers(weight)};
  const auto output = at::empty({size.count, size.outputs}, input.options());
  Scratch of_rows;
  auto *ordered = of_rows.take<uint32_t>(few_rows_bf16_room(size.count, size.inputs));
  few_rows_bf16_order(numbers(input), size.count, size.inputs, ordered);
  sd_parallel_for(size.outputs, share_of(size.outputs), [&](int64_t begin, int64_t end) {
    Scratch scratch;
    few_rows_bf16_forward(size, ordered, bias.defined() ? numbers(bias) : nullptr, static_cast<uint16_t *>(output.data_ptr()), begin, end,
                          scratch);
  });
  return output;
}

at::Tensor sd_rows_by_weight_backward(const at::Tensor &gradient, const at::Tensor &weight) {
  if (!is_ours(gradient.size(0), gradient, weight)) return gradient.mm(weight);
  const auto rows = gradient.contiguous();
  const FewRows size{rows.size(0), weight.size(1), weight.size(0), numbers(weight)};
  const auto output = at::empty({size.count, size.inputs}, rows.options());
  sd_parallel_for(size.inputs, share_of(size.inputs), [&](int64_t begin, int64_t end) {
    Scratch scratch;
    few_rows_bf16_backward(size, numbers(rows), static_cast<uint16_t *>(output.data_ptr()), begin, end, scratch);
  });
  return output;
}

extern "C" {

int sd_linear(tensor input, tensor weight, tensor bias, tensor *output) {
  return sd_guard([&] {
    TORCH_CHECK(weight->dim() == 2 && input->dim() > 0 && input->size(-1) == weight->size(1), "linear: an input of ", input->sizes(),
                " does not fit weights of ", weight->sizes());
    const int64_t rows = input->numel() / std::max<int64_t>(1, weight->size(1));
    const auto shift = bias == nullptr ? c10::optional<at::Tensor>() : c10::optional<at::Tensor>(*bias);
    *output = new at::Tensor(is_ours(rows, *input, *weight) ? Linear::apply(*input, *weight, shift) : at::linear(*input, *weight, shift));
  });
}
}

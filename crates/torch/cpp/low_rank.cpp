// What an adapter of low rank adds to a linear layer, as one node of the graph, for bf16 on processors that multiply pairs of it.
#include "low_rank_bf16.h"
#include "parallel.h"
#include "shim.h"
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// Rows and columns that a thread takes at least.
constexpr int64_t ROWS_OF_A_TASK = 64, COLUMNS_OF_A_TASK = 96;

const uint16_t *numbers(const at::Tensor &tensor) { return static_cast<const uint16_t *>(tensor.const_data_ptr()); }

at::Tensor as_rows(const at::Tensor &states) { return states.reshape({-1, states.size(-1)}).contiguous(); }

at::Tensor narrow(const at::Tensor &weight) { return weight.to(at::kBFloat16).contiguous(); }

// `factor` times rows · right: [rows, lanes or `columns` of them].
at::Tensor rows_by(const at::Tensor &rows, int64_t pairs, const std::vector<uint32_t> &right, int64_t lanes, double factor, int64_t columns) {
  const auto to = at::empty({rows.size(0), columns}, rows.options());
  sd_parallel_for(rows.size(0), ROWS_OF_A_TASK, [&](int64_t begin, int64_t end) {
    bf16_rows_by(numbers(rows), rows.size(1), pairs, right.data(), lanes, static_cast<float>(factor), static_cast<uint16_t *>(to.mutable_data_ptr()), columns, columns,
                 begin, end);
  });
  return to;
}

// leftᵀ · matrix of as many rows: [left_rows, columns] in fp32.
at::Tensor sum_over_rows(const at::Tensor &left, int64_t left_rows, const at::Tensor &matrix) {
  const auto ordered = bf16_down(numbers(left), left.size(0), left.size(1));
  const auto to = at::empty({left_rows, matrix.size(1)}, matrix.options().dtype(at::kFloat));
  sd_parallel_for(matrix.size(1), COLUMNS_OF_A_TASK, [&](int64_t begin, int64_t end) {
    Bf16Scratch scratch;
    bf16_sum_over_rows(ordered.data(), left_rows, left.size(1), numbers(matrix), matrix.size(0), matrix.size(1), to.mutable_data_ptr<float>(),
                       begin, end, scratch);
  });
  return to;
}

struct LowRank : public torch::autograd::Function<LowRank> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &input, const at::Tensor &down, const at::Tensor &up, double scale) {
    RECORD_FUNCTION("sdtrain::low_rank", std::vector<c10::IValue>{});
    const int64_t rank = down.size(0), lanes = bf16_lanes(rank);
    const auto rows = as_rows(input), narrow_down = narrow(down), narrow_up = narrow(up);
    const auto low = rows_by(rows, rows.size(1) / 2, bf16_across(numbers(narrow_down), rank, rows.size(1)), lanes, scale, lanes);
    const int64_t outputs = up.size(0);
    const auto output = rows_by(low, rank / 2, bf16_across(numbers(narrow_up), outputs, rank), bf16_lanes(outputs), 1.0, outputs);
    context->save_for_backward({input, down, up, low});
    context->saved_data["scale"] = scale;
    auto sizes = input.sizes().vec();
    sizes.back() = outputs;
    return at::_unsafe_view(output, sizes);
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    RECORD_FUNCTION("sdtrain::low_rank_backward", std::vector<c10::IValue>{});
    sd_check_first_derivative("low_rank");
    const auto saved = context->get_saved_variables();
    const auto &input = saved[0], &down = saved[1], &up = saved[2], &low = saved[3];
    const int64_t rank = down.size(0), lanes = bf16_lanes(rank);
    const auto gradient = as_rows(gradients[0]), narrow_down = narrow(down), narrow_up = narrow(up);
    at::Tensor of_input, of_down, of_up;
    const bool is_through_down = context->needs_input_grad(0) || context->needs_input_grad(1);
    const auto of_low = is_through_down ? rows_by(gradient, gradient.size(1) / 2, bf16_down(numbers(narrow_up), up.size(0), rank), lanes,
                                                  context->saved_data["scale"].toDouble(), lanes)
                                        : at::Tensor();
    if (context->needs_input_grad(0)) {
      const int64_t inputs = down.size(1);
      of_input = rows_by(of_low, rank / 2, bf16_down(numbers(narrow_down), rank, inputs), bf16_lanes(inputs), 1.0, inputs);
      of_input = at::_unsafe_view(of_input, input.sizes());
    }
    if (context->needs_input_grad(1)) of_down = sum_over_rows(of_low, rank, as_rows(input)).to(down.scalar_type());
    if (context->needs_input_grad(2)) of_up = sum_over_rows(low, rank, gradient).t().to(up.scalar_type());
    return {of_input, of_down, of_up, at::Tensor()};
  }
};

bool is_ours(const at::Tensor &input, const at::Tensor &down, const at::Tensor &up) {
  return input.is_cpu() && down.is_cpu() && up.is_cpu() && input.scalar_type() == at::kBFloat16 && input.numel() > 0 &&
         down.size(0) % 2 == 0 && down.size(1) % 2 == 0 && up.size(0) % 2 == 0 && down.numel() > 0 && up.numel() > 0 &&
         bf16_products_are_supported();
}

} // namespace

extern "C" {

int sd_low_rank(tensor input, tensor down, tensor up, double scale, tensor *output) {
  return sd_guard([&] {
    TORCH_CHECK(down->dim() == 2 && up->dim() == 2 && up->size(1) == down->size(0) && input->dim() > 0 && input->size(-1) == down->size(1),
                "low_rank: an input of ", input->sizes(), " and matrices of ", down->sizes(), " and ", up->sizes(), " do not fit");
    if (is_ours(*input, *down, *up)) {
      *output = new at::Tensor(LowRank::apply(*input, *down, *up, scale));
      return;
    }
    const auto low = at::linear(*input, down->to(input->scalar_type())) * scale;
    *output = new at::Tensor(at::linear(low, up->to(input->scalar_type())));
  });
}
}

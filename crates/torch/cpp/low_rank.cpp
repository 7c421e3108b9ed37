// What an adapter of low rank adds to a linear layer, as one node of the graph, for bf16 and fp32 on processors that have instructions for them.
#include "low_rank_kernel.h"
#include "parallel.h"
#include "shim.h"
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// Rows and columns that a thread takes at least.
constexpr int64_t ROWS_OF_A_TASK = 64, COLUMNS_OF_A_TASK = 96;

template <typename Number> const Number *numbers(const at::Tensor &tensor) { return static_cast<const Number *>(tensor.const_data_ptr()); }

at::Tensor as_rows(const at::Tensor &states) { return states.reshape({-1, states.size(-1)}).contiguous(); }

// As the input is.
template <typename Number> at::Tensor of_kind(const at::Tensor &weight) {
  return weight.to(sizeof(Number) == 2 ? at::kBFloat16 : at::kFloat).contiguous();
}

// Cells of so many numbers.
template <typename Number> int64_t cells_of(int64_t count) { return count * static_cast<int64_t>(sizeof(Number)) / 4; }

// `factor` times rows · right: [rows, lanes or `columns` of them].
template <typename Number>
at::Tensor rows_by(const at::Tensor &rows, int64_t cells, const std::vector<uint32_t> &right, int64_t lanes, double factor, int64_t columns) {
  const auto to = at::empty({rows.size(0), columns}, rows.options());
  sd_parallel_for(rows.size(0), ROWS_OF_A_TASK, [&](int64_t begin, int64_t end) {
    rows_by_cells(numbers<Number>(rows), rows.size(1), cells, right.data(), lanes, static_cast<float>(factor),
                  static_cast<Number *>(to.mutable_data_ptr()), columns, columns, begin, end);
  });
  return to;
}

// leftᵀ · matrix of as many rows: [left_rows, columns] in fp32.
template <typename Number> at::Tensor sum_over_rows(const at::Tensor &left, int64_t left_rows, const at::Tensor &matrix) {
  const auto ordered = cells_down(numbers<Number>(left), left.size(0), left.size(1));
  const auto to = at::empty({left_rows, matrix.size(1)}, matrix.options().dtype(at::kFloat));
  sd_parallel_for(matrix.size(1), COLUMNS_OF_A_TASK, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    sum_of_rows(ordered.data(), left_rows, left.size(1), numbers<Number>(matrix), matrix.size(0), matrix.size(1),
                to.mutable_data_ptr<float>(), begin, end, scratch);
  });
  return to;
}

template <typename Number> struct LowRank : public torch::autograd::Function<LowRank<Number>> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &input, const at::Tensor &down, const at::Tensor &up, double scale) {
    RECORD_FUNCTION("sdtrain::low_rank", std::vector<c10::IValue>{});
    const int64_t rank = down.size(0), lanes = whole_lanes(rank);
    const auto rows = as_rows(input), down_of_kind = of_kind<Number>(down), up_of_kind = of_kind<Number>(up);
    const auto low = rows_by<Number>(rows, cells_of<Number>(rows.size(1)), cells_across(numbers<Number>(down_of_kind), rank, rows.size(1)),
                                     lanes, scale, lanes);
    const int64_t outputs = up.size(0);
    const auto output = rows_by<Number>(low, cells_of<Number>(rank), cells_across(numbers<Number>(up_of_kind), outputs, rank),
                                        whole_lanes(outputs), 1.0, outputs);
    // The input is needed for the gradient of `down` only.
    context->saved_data["sizes"] = input.sizes().vec();
    context->save_for_backward({down.requires_grad() ? input : at::Tensor(), down, up, low});
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
    const int64_t rank = down.size(0), lanes = whole_lanes(rank);
    const auto gradient = as_rows(gradients[0]), down_of_kind = of_kind<Number>(down), up_of_kind = of_kind<Number>(up);
    at::Tensor of_input, of_down, of_up;
    const bool is_through_down = context->needs_input_grad(0) || context->needs_input_grad(1);
    const auto of_low = is_through_down ? rows_by<Number>(gradient, cells_of<Number>(gradient.size(1)), cells_down(numbers<Number>(up_of_kind), up.size(0), rank), lanes,
                                                  context->saved_data["scale"].toDouble(), lanes)
                                        : at::Tensor();
    if (context->needs_input_grad(0)) {
      const int64_t inputs = down.size(1);
      of_input = rows_by<Number>(of_low, cells_of<Number>(rank), cells_down(numbers<Number>(down_of_kind), rank, inputs), whole_lanes(inputs), 1.0, inputs);
      of_input = at::_unsafe_view(of_input, context->saved_data["sizes"].toIntVector());
    }
    if (context->needs_input_grad(1)) of_down = sum_over_rows<Number>(of_low, rank, as_rows(input)).to(down.scalar_type());
    if (context->needs_input_grad(2)) of_up = sum_over_rows<Number>(low, rank, gradient).t().to(up.scalar_type());
    return {of_input, of_down, of_up, at::Tensor()};
  }
};

bool are_on_the_processor(const at::Tensor &input, const at::Tensor &down, const at::Tensor &up) {
  return input.is_cpu() && down.is_cpu() && up.is_cpu() && input.numel() > 0 && down.numel() > 0 && up.numel() > 0;
}

// Whether all numbers are in pairs.
bool have_pairs(const at::Tensor &down, const at::Tensor &up) { return down.size(0) % 2 == 0 && down.size(1) % 2 == 0 && up.size(0) % 2 == 0; }

at::Tensor added(const at::Tensor &input, const at::Tensor &down, const at::Tensor &up, double scale) {
  if (are_on_the_processor(input, down, up)) {
    const auto kind = input.scalar_type();
    if (kind == at::kBFloat16 && have_pairs(down, up) && bf16_products_are_supported()) return LowRank<uint16_t>::apply(input, down, up, scale);
    if (kind == at::kFloat && fp32_products_are_supported()) return LowRank<float>::apply(input, down, up, scale);
  }
  const auto low = at::linear(input, down.to(input.scalar_type())) * scale;
  return at::linear(low, up.to(input.scalar_type()));
}

} // namespace

extern "C" {

int sd_low_rank(tensor input, tensor down, tensor up, double scale, tensor *output) {
  return sd_guard([&] {
    TORCH_CHECK(down->dim() == 2 && up->dim() == 2 && up->size(1) == down->size(0) && input->dim() > 0 && input->size(-1) == down->size(1),
                "low_rank: an input of ", input->sizes(), " and matrices of ", down->sizes(), " and ", up->sizes(), " do not fit");
    *output = new at::Tensor(added(*input, *down, *up, scale));
  });
}
}

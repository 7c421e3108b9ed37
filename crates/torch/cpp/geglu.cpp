// GEGLU, a value times the GELU of its gate (Shazeer 2020), as one node of the graph: of the values and gates nothing is kept but themselves.
#include "functions.h"
#include "parallel.h"
#include "shim.h"
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// Numbers that one task makes, about.
constexpr int64_t PART = 1 << 14;

int64_t grain_for(int64_t size) { return std::max<int64_t>(1, PART / size); }

#if defined(__x86_64__)
// Rows of `size` values and as many gates.
template <typename Number> SD_AVX512 void forward(const Number *from, int64_t rows, int64_t size, Number *to) {
  for (int64_t row = 0; row < rows; row++, from += 2 * size, to += size) {
    for (int64_t at = 0; at < size; at += LANES) {
      const __m512 value = lanes_at(from, at, size), gate = lanes_at(from + size, at, size);
      store_lanes(to + at, first_lanes(size - at), _mm512_mul_ps(value, _mm512_mul_ps(gate, normal_of(gate).distribution)));
    }
  }
}

template <typename Number>
SD_AVX512 void backward(const Number *from, const Number *gradient, int64_t rows, int64_t size, Number *to) {
  for (int64_t row = 0; row < rows; row++, from += 2 * size, to += 2 * size, gradient += size) {
    for (int64_t at = 0; at < size; at += LANES) {
      const __mmask16 mask = first_lanes(size - at);
      const __m512 value = lanes_at(from, at, size), gate = lanes_at(from + size, at, size), of_output = lanes_at(gradient, at, size);
      const Normal normal = normal_of(gate);
      const __m512 slope = _mm512_fmadd_ps(gate, normal.density, normal.distribution);
      store_lanes(to + at, mask, _mm512_mul_ps(of_output, _mm512_mul_ps(gate, normal.distribution)));
      store_lanes(to + size + at, mask, _mm512_mul_ps(_mm512_mul_ps(of_output, value), slope));
    }
  }
}
#else
template <typename Number> void forward(const Number *, int64_t, int64_t, Number *) {}
template <typename Number> void backward(const Number *, const Number *, int64_t, int64_t, Number *) {}
#endif

template <typename Number> struct Geglu : public torch::autograd::Function<Geglu<Number>> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &input) {
    RECORD_FUNCTION("sdtrain::geglu", std::vector<c10::IValue>{});
    const auto states = input.contiguous();
    const int64_t size = states.size(-1) / 2;
    auto sizes = states.sizes().vec();
    sizes.back() = size;
    const auto output = at::empty(sizes, states.options());
    const auto *from = static_cast<const Number *>(states.const_data_ptr());
    auto *to = static_cast<Number *>(output.mutable_data_ptr());
    sd_parallel_for(states.numel() / (2 * size), grain_for(size), [&](int64_t begin, int64_t end) {
      ::forward(from + begin * 2 * size, end - begin, size, to + begin * size);
    });
    context->save_for_backward({states});
    return output;
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    RECORD_FUNCTION("sdtrain::geglu_backward", std::vector<c10::IValue>{});
    sd_check_first_derivative("geglu");
    const auto states = context->get_saved_variables()[0];
    const auto gradient = gradients[0].contiguous();
    const int64_t size = states.size(-1) / 2;
    const auto of_input = at::empty(states.sizes(), states.options());
    const auto *from = static_cast<const Number *>(states.const_data_ptr());
    const auto *of_output = static_cast<const Number *>(gradient.const_data_ptr());
    auto *to = static_cast<Number *>(of_input.mutable_data_ptr());
    sd_parallel_for(states.numel() / (2 * size), grain_for(size), [&](int64_t begin, int64_t end) {
      ::backward(from + begin * 2 * size, of_output + begin * size, end - begin, size, to + begin * 2 * size);
    });
    return {of_input};
  }
};

} // namespace

extern "C" {

int sd_geglu(tensor input, tensor *output) {
  return sd_guard([&] {
    TORCH_CHECK(input->dim() > 0 && input->size(-1) % 2 == 0, "geglu: ", input->sizes(), " has no equal numbers of values and gates");
    const bool is_ours = input->is_cpu() && input->numel() > 0;
    if (is_ours && input->scalar_type() == at::kBFloat16 && bf16_products_are_supported()) {
      *output = new at::Tensor(Geglu<uint16_t>::apply(*input));
    } else if (is_ours && input->scalar_type() == at::kFloat && fp32_products_are_supported()) {
      *output = new at::Tensor(Geglu<float>::apply(*input));
    } else {
      const auto parts = input->chunk(2, -1);
      *output = new at::Tensor(parts[0] * at::gelu(parts[1]));
    }
  });
}
}

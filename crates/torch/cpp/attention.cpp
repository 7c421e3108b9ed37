// Attention without a mask as one node of the graph, for bf16 and fp32 on processors that have instructions for them.
#include "attention_kernel.h"
#include "parallel.h"
#include "shim.h"
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// Where there are more threads than heads, several take parts of one, and each brings its keys and values in order for itself: so many
// queries at least, and so many parts at most, since each takes the room of keys and values once more.
constexpr int64_t QUERIES_OF_A_TASK = 256, PARTS = 8;

// `[batch, heads, tokens, size]`, the numbers of a row side by side.
at::Tensor by_rows(const at::Tensor &states) { return states.stride(3) == 1 ? states : states.contiguous(); }

// The same shape, in memory `[batch, tokens, heads, size]`, so that heads are joined and split without a copy. No view: that could not be
// changed in place.
at::Tensor empty_as(const at::Tensor &states) {
  const int64_t heads = states.size(1), tokens = states.size(2), size = states.size(3);
  return at::empty_strided({states.size(0), heads, tokens, size}, {tokens * heads * size, size, heads * size, 1}, states.options());
}

// Where the rows of head `index` begin, counted over all examples.
int64_t place_of(const at::Tensor &states, int64_t index) {
  return index / states.size(1) * states.stride(0) + index % states.size(1) * states.stride(1);
}

template <typename Number> const Number *head_of(const at::Tensor &states, int64_t index) {
  return static_cast<const Number *>(states.const_data_ptr()) + place_of(states, index);
}

template <typename Number> Number *filled_head_of(const at::Tensor &states, int64_t index) {
  return static_cast<Number *>(states.mutable_data_ptr()) + place_of(states, index);
}

template <typename Number>
AttentionHead<Number> head_at(const at::Tensor &query, const at::Tensor &key, const at::Tensor &value, int64_t index) {
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(query.size(3))));
  return {query.size(2), key.size(2), query.size(3), scale, head_of<Number>(query, index), head_of<Number>(key, index),
          head_of<Number>(value, index), query.stride(2), key.stride(2), value.stride(2)};
}

template <typename Number> struct OwnAttention : public torch::autograd::Function<OwnAttention<Number>> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v) {
    RECORD_FUNCTION("sdtrain::attention", std::vector<c10::IValue>{});
    const auto query = by_rows(q), key = by_rows(k), value = by_rows(v);
    const auto output = empty_as(query);
    const auto log_sum = at::empty({query.size(0) * query.size(1), query.size(2)}, query.options().dtype(at::kFloat));
    const int64_t heads = query.size(0) * query.size(1), queries = query.size(2);
    const int64_t most = std::min((queries + QUERIES_OF_A_TASK - 1) / QUERIES_OF_A_TASK, PARTS);
    const int64_t parts = std::max<int64_t>(1, std::min((at::get_num_threads() + heads - 1) / heads, most));
    const int64_t part = (queries + parts - 1) / parts;
    sd_parallel_for(heads * parts, 1, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      for (int64_t task = begin; task < end; task++) {
        const int64_t index = task / parts, first = task % parts * part;
        auto head = head_at<Number>(query, key, value, index);
        head.queries = std::min(part, queries - first);
        if (head.queries <= 0) continue;
        head.query += first * head.query_row;
        attention_forward(head, filled_head_of<Number>(output, index) + first * output.stride(2), output.stride(2),
                          log_sum.mutable_data_ptr<float>() + index * queries + first, scratch);
      }
    });
    context->save_for_backward({query, key, value, output, log_sum});
    return output;
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    RECORD_FUNCTION("sdtrain::attention_backward", std::vector<c10::IValue>{});
    sd_check_first_derivative("attention");
    const auto saved = context->get_saved_variables();
    const auto &query = saved[0], &key = saved[1], &value = saved[2], &output = saved[3], &log_sum = saved[4];
    const auto of_output = by_rows(gradients[0]);
    const auto of_query = empty_as(query), of_key = empty_as(key), of_value = empty_as(value);
    sd_parallel_for(query.size(0) * query.size(1), 1, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      for (int64_t index = begin; index < end; index++) {
        const AttentionGradients<Number> of{
            head_of<Number>(output, index),          head_of<Number>(of_output, index),     output.stride(2),
            of_output.stride(2),                     filled_head_of<Number>(of_query, index), filled_head_of<Number>(of_key, index),
            filled_head_of<Number>(of_value, index), of_query.stride(2),                    of_key.stride(2),
            of_value.stride(2)};
        attention_backward(head_at<Number>(query, key, value, index), of, log_sum.const_data_ptr<float>() + index * query.size(2), scratch);
      }
    });
    return {of_query, of_key, of_value};
  }
};

bool are_all(at::ScalarType kind, const at::Tensor &query, const at::Tensor &key, const at::Tensor &value) {
  const auto is_it = [&](const at::Tensor &states) { return states.is_cpu() && states.dim() == 4 && states.scalar_type() == kind; };
  return is_it(query) && is_it(key) && is_it(value);
}

at::Tensor attend(const at::Tensor &query, const at::Tensor &key, const at::Tensor &value) {
  const bool has_pairs = query.numel() > 0 && query.size(3) % 2 == 0;
  if (has_pairs && bf16_products_are_supported() && are_all(at::kBFloat16, query, key, value)) {
    return OwnAttention<uint16_t>::apply(query, key, value);
  }
  if (query.numel() > 0 && fp32_products_are_supported() && are_all(at::kFloat, query, key, value)) {
    return OwnAttention<float>::apply(query, key, value);
  }
  return at::scaled_dot_product_attention(query, key, value);
}

} // namespace

extern "C" {

int sd_attention(tensor query, tensor key, tensor value, tensor *output) {
  return sd_guard([&] {
    TORCH_CHECK(query->dim() == 4 && key->dim() == 4 && key->sizes() == value->sizes() && query->size(0) == key->size(0) &&
                    query->size(1) == key->size(1) && query->size(3) == key->size(3) && key->size(2) > 0,
                "attention: queries of ", query->sizes(), ", keys of ", key->sizes(), " and values of ", value->sizes(), " do not fit");
    *output = new at::Tensor(attend(*query, *key, *value));
  });
}
}

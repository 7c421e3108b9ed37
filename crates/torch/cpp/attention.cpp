// Attention without a mask as one node of the graph, for bf16 on processors that multiply pairs of it.
#include "attention_bf16.h"
#include "parallel.h"
#include "shim.h"
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// Where there are more threads than heads, several take parts of one, and each brings its keys and values in order for itself: so many
// queries at least, and so many parts at most, since that takes four times the room of the keys.
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

const uint16_t *head_of(const at::Tensor &states, int64_t index) {
  return static_cast<const uint16_t *>(states.const_data_ptr()) + place_of(states, index);
}

uint16_t *filled_head_of(const at::Tensor &states, int64_t index) {
  return static_cast<uint16_t *>(states.mutable_data_ptr()) + place_of(states, index);
}

AttentionHead head_at(const at::Tensor &query, const at::Tensor &key, const at::Tensor &value, int64_t index) {
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(query.size(3))));
  return {query.size(2), key.size(2), query.size(3), scale, head_of(query, index), head_of(key, index), head_of(value, index),
          query.stride(2), key.stride(2), value.stride(2)};
}

struct Bf16Attention : public torch::autograd::Function<Bf16Attention> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v) {
    RECORD_FUNCTION("sdtrain::attention_bf16", std::vector<c10::IValue>{});
    const auto query = by_rows(q), key = by_rows(k), value = by_rows(v);
    const auto output = empty_as(query);
    const auto log_sum = at::empty({query.size(0) * query.size(1), query.size(2)}, query.options().dtype(at::kFloat));
    const int64_t heads = query.size(0) * query.size(1), queries = query.size(2);
    const int64_t most = std::min((queries + QUERIES_OF_A_TASK - 1) / QUERIES_OF_A_TASK, PARTS);
    const int64_t parts = std::max<int64_t>(1, std::min((at::get_num_threads() + heads - 1) / heads, most));
    const int64_t part = (queries + parts - 1) / parts;
    sd_parallel_for(heads * parts, 1, [&](int64_t begin, int64_t end) {
      Bf16Scratch scratch;
      for (int64_t task = begin; task < end; task++) {
        const int64_t index = task / parts, first = task % parts * part;
        auto head = head_at(query, key, value, index);
        head.queries = std::min(part, queries - first);
        if (head.queries <= 0) continue;
        head.query += first * head.query_row;
        attention_bf16_forward(head, filled_head_of(output, index) + first * output.stride(2), output.stride(2),
                               log_sum.mutable_data_ptr<float>() + index * queries + first, scratch);
      }
    });
    context->save_for_backward({query, key, value, output, log_sum});
    return output;
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    RECORD_FUNCTION("sdtrain::attention_bf16_backward", std::vector<c10::IValue>{});
    sd_check_first_derivative("attention");
    const auto saved = context->get_saved_variables();
    const auto &query = saved[0], &key = saved[1], &value = saved[2], &output = saved[3], &log_sum = saved[4];
    const auto of_output = by_rows(gradients[0]);
    const auto of_query = empty_as(query), of_key = empty_as(key), of_value = empty_as(value);
    sd_parallel_for(query.size(0) * query.size(1), 1, [&](int64_t begin, int64_t end) {
      Bf16Scratch scratch;
      for (int64_t index = begin; index < end; index++) {
        const AttentionGradients of{head_of(output, index),          head_of(of_output, index),     output.stride(2),
                                    of_output.stride(2),             filled_head_of(of_query, index), filled_head_of(of_key, index),
                                    filled_head_of(of_value, index), of_query.stride(2),            of_key.stride(2),
                                    of_value.stride(2)};
        attention_bf16_backward(head_at(query, key, value, index), of, log_sum.const_data_ptr<float>() + index * query.size(2), scratch);
      }
    });
    return {of_query, of_key, of_value};
  }
};

bool is_bf16(const at::Tensor &states) { return states.is_cpu() && states.dim() == 4 && states.scalar_type() == at::kBFloat16; }

} // namespace

extern "C" {

int sd_attention(tensor query, tensor key, tensor value, tensor *output) {
  return sd_guard([&] {
    TORCH_CHECK(query->dim() == 4 && key->dim() == 4 && key->sizes() == value->sizes() && query->size(0) == key->size(0) &&
                    query->size(1) == key->size(1) && query->size(3) == key->size(3) && key->size(2) > 0,
                "attention: queries of ", query->sizes(), ", keys of ", key->sizes(), " and values of ", value->sizes(), " do not fit");
    const bool is_ours = query->numel() > 0 && is_bf16(*query) && is_bf16(*key) && is_bf16(*value) && query->size(3) % 2 == 0 && bf16_products_are_supported();
    *output = new at::Tensor(is_ours ? Bf16Attention::apply(*query, *key, *value) : at::scaled_dot_product_attention(*query, *key, *value));
  });
}
}

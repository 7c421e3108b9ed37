// Attention of one head, in blocks of queries and keys that stay in a core's cache (Dao 2023, "FlashAttention-2"), with AVX-512's
// products of bf16 pairs, or of fp32; both add up in fp32. libtorch's own kernel gives each block to a general product of matrices, which
// brings it into another order first and does badly at heads of 40 numbers.
#include "attention_kernel.h"
#include "functions.h"
#include <cmath>
#include <cstring>

#if defined(__x86_64__)
namespace {

// Queries and keys of a block.
constexpr int64_t FORWARD_QUERIES = 32, FORWARD_KEYS = 256;
constexpr int64_t BACKWARD_QUERIES = 64, BACKWARD_KEYS = 128;
// Rows that lie a power of two apart would fight for the same lines of the first cache: 1,024 keys would, but for these numbers behind them.
constexpr int64_t APART = LANES;

// Rows of cells side by side, and rows of zeros behind them.
template <typename Number>
void put_rows(const Number *from, int64_t from_row, int64_t rows, int64_t size, uint32_t *to, int64_t to_rows) {
  const int64_t cells = size / IN_CELL<Number>;
  for (int64_t row = 0; row < rows; row++) std::memcpy(to + row * cells, from + row * from_row, size * sizeof(Number));
  if (rows < to_rows) std::memset(to + rows * cells, 0, (to_rows - rows) * size * sizeof(Number));
}

// What a query has seen of the keys so far.
struct Seen {
  // The largest product, by the factor that makes a power of 2 of it, and the sum of the powers.
  float largest, sum;
};

// The powers of one query's products with `keys` keys, in `powers` (zeros behind them), and what `sums` are to be multiplied by.
template <typename Number>
SD_AVX512_INLINE float take_in(const float *products, int64_t keys, int64_t padded, float factor, Seen &seen, Number *powers) {
  const __m512 nothing = _mm512_set1_ps(-INFINITY);
  __m512 largest = nothing;
  for (int64_t key = 0; key < padded; key += LANES) {
    largest = _mm512_max_ps(largest, _mm512_mask_loadu_ps(nothing, first_lanes(keys - key), products + key));
  }
  const float now = std::max(seen.largest, _mm512_reduce_max_ps(largest) * factor);
  const __m512 by = _mm512_set1_ps(factor), level = _mm512_set1_ps(now);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t key = 0; key < padded; key += LANES) {
    const __m512 power = _mm512_maskz_mov_ps(first_lanes(keys - key), exp2_of(_mm512_fmsub_ps(_mm512_loadu_ps(products + key), by, level)));
    sum = _mm512_add_ps(sum, power);
    store_lanes(powers + key, first_lanes(LANES), power);
  }
  const float correction = _mm512_cvtss_f32(exp2_of(_mm512_set1_ps(seen.largest - now)));
  seen = {now, seen.sum * correction + _mm512_reduce_add_ps(sum)};
  return correction;
}

// The sum of the products of two rows.
template <typename Number> SD_AVX512_INLINE float dot(const Number *left, const Number *right, int64_t size) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t column = 0; column < size; column += LANES) {
    sum = _mm512_fmadd_ps(lanes_at(left, column, size), lanes_at(right, column, size), sum);
  }
  return _mm512_reduce_add_ps(sum);
}

template <typename Number>
SD_AVX512 void forward(const AttentionHead<Number> &head, Number *output, int64_t output_row, float *log_sum, Scratch &scratch) {
  constexpr int64_t GROUP = IN_CELL<Number>;
  const int64_t keys = round_up(head.keys, LANES), across = keys + APART, columns = round_up(head.size, LANES), cells = head.size / GROUP;
  const float factor = head.scale * LOG2_E;
  scratch.clear();
  auto *keys_across = scratch.take<uint32_t>(cells * across);
  auto *values_down = scratch.take<uint32_t>(keys / GROUP * columns);
  auto *queries = scratch.take<uint32_t>(FORWARD_QUERIES * cells);
  auto *products = scratch.take<float>(FORWARD_QUERIES * FORWARD_KEYS);
  auto *powers = scratch.take<uint32_t>(FORWARD_QUERIES * FORWARD_KEYS / GROUP);
  auto *sums = scratch.take<float>(FORWARD_QUERIES * columns);
  put_across(head.key, head.key_row, head.keys, head.size, keys_across, across);
  put_down(head.value, head.value_row, head.keys, head.size, values_down, keys, columns);
  for (int64_t query = 0; query < head.queries; query += FORWARD_QUERIES) {
    const int64_t count = std::min(FORWARD_QUERIES, head.queries - query), rows = round_up(count, TILE);
    Seen seen[FORWARD_QUERIES];
    for (auto &each : seen) each = {-INFINITY, 0.0f};
    put_rows(head.query + query * head.query_row, head.query_row, count, head.size, queries, rows);
    for (int64_t key = 0; key < keys; key += FORWARD_KEYS) {
      const int64_t padded = std::min(FORWARD_KEYS, keys - key);
      product<Number>(queries, cells, 1, keys_across + key, across, cells, products, FORWARD_KEYS, rows, padded, false);
      for (int64_t row = 0; row < rows; row++) {
        const float correction = take_in(products + row * FORWARD_KEYS, head.keys - key, padded, factor, seen[row],
                                         reinterpret_cast<Number *>(powers + row * (FORWARD_KEYS / GROUP)));
        if (key == 0 || correction == 1.0f) continue;
        for (int64_t column = 0; column < columns; column += LANES) {
          float *at = sums + row * columns + column;
          _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), _mm512_set1_ps(correction)));
        }
      }
      product<Number>(powers, FORWARD_KEYS / GROUP, 1, values_down + key / GROUP * columns, columns, padded / GROUP, sums, columns, rows, columns, key > 0);
    }
    for (int64_t row = 0; row < count; row++) {
      store_rows(sums + row * columns, columns, 1, head.size, 1.0f / seen[row].sum, output + (query + row) * output_row, output_row);
      log_sum[query + row] = seen[row].largest + __builtin_log2f(seen[row].sum);
    }
  }
}

template <typename Number>
SD_AVX512 void backward(const AttentionHead<Number> &head, const AttentionGradients<Number> &gradients, const float *log_sum,
                        Scratch &scratch) {
  constexpr int64_t GROUP = IN_CELL<Number>;
  const int64_t keys = round_up(head.keys, LANES), across = keys + APART, columns = round_up(head.size, LANES), cells = head.size / GROUP;
  const float factor = head.scale * LOG2_E;
  constexpr int64_t Q = BACKWARD_QUERIES, K = BACKWARD_KEYS;
  scratch.clear();
  auto *keys_across = scratch.take<uint32_t>(cells * across);
  auto *values_across = scratch.take<uint32_t>(cells * across);
  auto *keys_down = scratch.take<uint32_t>(keys / GROUP * columns);
  auto *queries = scratch.take<uint32_t>(Q * cells);
  auto *queries_down = scratch.take<uint32_t>(Q / GROUP * columns);
  auto *of_output = scratch.take<uint32_t>(Q * cells);
  auto *of_output_down = scratch.take<uint32_t>(Q / GROUP * columns);
  auto *products = scratch.take<float>(Q * K);
  auto *of_powers = scratch.take<float>(Q * K);
  auto *powers_down = scratch.take<uint32_t>(Q / GROUP * K);
  auto *of_products = scratch.take<uint32_t>(Q * K / GROUP);
  // In fp32 rows are in the order `down` as they are.
  auto *of_products_down = IS_BF16<Number> ? scratch.take<uint32_t>(Q / GROUP * K) : of_products;
  auto *of_query = scratch.take<float>(Q * columns);
  auto *of_key = scratch.take<float>(keys * columns);
  auto *of_value = scratch.take<float>(keys * columns);
  put_across(head.key, head.key_row, head.keys, head.size, keys_across, across);
  put_across(head.value, head.value_row, head.keys, head.size, values_across, across);
  put_down(head.key, head.key_row, head.keys, head.size, keys_down, keys, columns);
  for (int64_t query = 0; query < head.queries; query += Q) {
    const int64_t count = std::min(Q, head.queries - query), rows = round_up(count, TILE);
    const Number *at_query = head.query + query * head.query_row;
    const Number *at_output = gradients.output + query * gradients.output_row;
    const Number *at_of_output = gradients.of_output + query * gradients.of_output_row;
    put_rows(at_query, head.query_row, count, head.size, queries, rows);
    put_down(at_query, head.query_row, count, head.size, queries_down, rows, columns);
    put_rows(at_of_output, gradients.of_output_row, count, head.size, of_output, rows);
    put_down(at_of_output, gradients.of_output_row, count, head.size, of_output_down, rows, columns);
    // Rows behind the end have powers of 1, which meet rows of zeros.
    float level[Q] = {}, shared[Q] = {};
    for (int64_t row = 0; row < count; row++) {
      level[row] = log_sum[query + row];
      shared[row] = dot(at_output + row * gradients.output_row, at_of_output + row * gradients.of_output_row, head.size);
    }
    for (int64_t key = 0; key < keys; key += K) {
      const int64_t padded = std::min(K, keys - key);
      product<Number>(queries, cells, 1, keys_across + key, across, cells, products, K, rows, padded, false);
      product<Number>(of_output, cells, 1, values_across + key, across, cells, of_powers, K, rows, padded, false);
      for (int64_t row = 0; row < rows; row += GROUP) {
        for (int64_t at = 0; at < padded; at += LANES) {
          const __mmask16 mask = first_lanes(head.keys - key - at);
          __m512 power[GROUP], of_product[GROUP];
#pragma GCC unroll 2
          for (int i = 0; i < GROUP; i++) {
            const __m512 exponent = _mm512_fmsub_ps(_mm512_loadu_ps(products + (row + i) * K + at), _mm512_set1_ps(factor),
                                                    _mm512_set1_ps(level[row + i]));
            power[i] = _mm512_maskz_mov_ps(mask, exp2_of(exponent));
            const __m512 apart = _mm512_sub_ps(_mm512_loadu_ps(of_powers + (row + i) * K + at), _mm512_set1_ps(shared[row + i]));
            of_product[i] = _mm512_maskz_mul_ps(mask, power[i], apart);
            store_lanes(reinterpret_cast<Number *>(of_products) + (row + i) * K + at, first_lanes(LANES), of_product[i]);
          }
          uint32_t *down = powers_down + row / GROUP * K + at;
          if constexpr (IS_BF16<Number>) {
            _mm512_storeu_si512(down, paired(to_bf16(power[0]), to_bf16(power[1])));
            _mm512_storeu_si512(of_products_down + row / GROUP * K + at, paired(to_bf16(of_product[0]), to_bf16(of_product[1])));
          } else {
            _mm512_storeu_ps(down, power[0]);
          }
        }
      }
      product<Number>(powers_down, 1, K, of_output_down, columns, rows / GROUP, of_value + key * columns, columns, padded, columns, query > 0);
      product<Number>(of_products_down, 1, K, queries_down, columns, rows / GROUP, of_key + key * columns, columns, padded, columns, query > 0);
      product<Number>(of_products, K / GROUP, 1, keys_down + key / GROUP * columns, columns, padded / GROUP, of_query, columns, rows, columns, key > 0);
    }
    store_rows(of_query, columns, count, head.size, head.scale, gradients.of_query + query * gradients.of_query_row, gradients.of_query_row);
  }
  store_rows(of_key, columns, head.keys, head.size, head.scale, gradients.of_key, gradients.of_key_row);
  store_rows(of_value, columns, head.keys, head.size, 1.0f, gradients.of_value, gradients.of_value_row);
}

} // namespace
#else
namespace {

template <typename Number> void forward(const AttentionHead<Number> &, Number *, int64_t, float *, Scratch &) {}
template <typename Number> void backward(const AttentionHead<Number> &, const AttentionGradients<Number> &, const float *, Scratch &) {}

} // namespace
#endif

// Compiled for any processor, as their callers are.
template <typename Number>
void attention_forward(const AttentionHead<Number> &head, Number *output, int64_t output_row, float *log_sum, Scratch &scratch) {
  forward(head, output, output_row, log_sum, scratch);
}

template <typename Number>
void attention_backward(const AttentionHead<Number> &head, const AttentionGradients<Number> &gradients, const float *log_sum, Scratch &scratch) {
  backward(head, gradients, log_sum, scratch);
}

template void attention_forward(const AttentionHead<uint16_t> &, uint16_t *, int64_t, float *, Scratch &);
template void attention_forward(const AttentionHead<float> &, float *, int64_t, float *, Scratch &);
template void attention_backward(const AttentionHead<uint16_t> &, const AttentionGradients<uint16_t> &, const float *, Scratch &);
template void attention_backward(const AttentionHead<float> &, const AttentionGradients<float> &, const float *, Scratch &);

// Attention of one head, in bf16 (`uint16_t`) by the processor's own products of pairs, or in fp32.
#pragma once
#include "products.h"

// One head of one example. Rows are contiguous; `*_row` is the distance of two rows in numbers. `size` is even in bf16.
template <typename Number> struct AttentionHead {
  int64_t queries, keys, size;
  // What a product of a query and a key is multiplied by.
  float scale;
  const Number *query, *key, *value;
  int64_t query_row, key_row, value_row;
};

// What backward knows besides, and what it fills.
template <typename Number> struct AttentionGradients {
  const Number *output, *of_output;
  int64_t output_row, of_output_row;
  Number *of_query, *of_key, *of_value;
  int64_t of_query_row, of_key_row, of_value_row;
};

// Fills the rows of `output` and, of every query, the logarithm to the base of 2 of its sum of exponentials.
template <typename Number>
void attention_forward(const AttentionHead<Number> &head, Number *output, int64_t output_row, float *log_sum, Scratch &scratch);

// `log_sum` is what forward filled.
template <typename Number>
void attention_backward(const AttentionHead<Number> &head, const AttentionGradients<Number> &gradients, const float *log_sum, Scratch &scratch);

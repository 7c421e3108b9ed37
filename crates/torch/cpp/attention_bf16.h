// Attention of one head in bf16, by the processor's own products of bf16 pairs.
#pragma once
#include "bf16_products.h"

// One head of one example. Rows are contiguous; `*_row` is the distance of two rows in numbers. `size` is even.
struct AttentionHead {
  int64_t queries, keys, size;
  // What a product of a query and a key is multiplied by.
  float scale;
  const uint16_t *query, *key, *value;
  int64_t query_row, key_row, value_row;
};

// What backward knows besides, and what it fills.
struct AttentionGradients {
  const uint16_t *output, *of_output;
  int64_t output_row, of_output_row;
  uint16_t *of_query, *of_key, *of_value;
  int64_t of_query_row, of_key_row, of_value_row;
};

// Fills the rows of `output` and, of every query, the logarithm to the base of 2 of its sum of exponentials.
void attention_bf16_forward(const AttentionHead &head, uint16_t *output, int64_t output_row, float *log_sum, Bf16Scratch &scratch);

// `log_sum` is what forward filled.
void attention_bf16_backward(const AttentionHead &head, const AttentionGradients &gradients, const float *log_sum,
                             Bf16Scratch &scratch);

// Products of a few rows with many weights, in bf16.
#pragma once
#include "products.h"

// `rows` [count][inputs] and `weights` [outputs][inputs], side by side in memory. `inputs` and `outputs` are even.
struct FewRows {
  int64_t count, inputs, outputs;
  const uint16_t *weights;
};

// Numbers of 4 bytes that `few_rows_bf16_order` fills.
int64_t few_rows_bf16_room(int64_t count, int64_t inputs);

// Brings the rows into the order that `few_rows_bf16_forward` wants; for all of them at once.
void few_rows_bf16_order(const uint16_t *rows, int64_t count, int64_t inputs, uint32_t *ordered);

// `to` [count][outputs] = rows · weightsᵀ + bias, where there is one, of the outputs `first` to `last`.
void few_rows_bf16_forward(const FewRows &size, const uint32_t *ordered, const uint16_t *bias, uint16_t *to, int64_t first, int64_t last,
                           Scratch &scratch);

// `to` [count][inputs] = gradients [count][outputs] · weights, of the inputs `first` to `last`.
void few_rows_bf16_backward(const FewRows &size, const uint16_t *gradients, uint16_t *to, int64_t first, int64_t last, Scratch &scratch);

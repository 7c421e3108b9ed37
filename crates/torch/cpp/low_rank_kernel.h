// Products of a matrix of low rank with many rows, in bf16 (`uint16_t`) or fp32: what an adapter beside a linear layer is made of.
#pragma once
#include "products.h"

// Order of `rows` [count][size], as products.h has it, with the rows as lanes (`across`) or the numbers (`down`). Lanes behind the end hold zeros, as
// does in bf16 the second row of a last pair that has none.
template <typename Number> std::vector<uint32_t> cells_across(const Number *rows, int64_t count, int64_t size);
template <typename Number> std::vector<uint32_t> cells_down(const Number *rows, int64_t count, int64_t size);

// Lanes for so many numbers.
int64_t whole_lanes(int64_t count);

// Row by row of `to` [last - first][numbers]: `factor` times the product of a row of `cells` cells with `right` [cells][lanes], for the rows `first` to
// `last`. `row` and `to_row` are distances of rows in numbers.
template <typename Number>
void rows_by_cells(const Number *rows, int64_t row, int64_t cells, const uint32_t *right, int64_t lanes, float factor, Number *to,
                   int64_t to_row, int64_t numbers, int64_t first, int64_t last);

// `to` [left_rows][columns], of the columns `first` to `last`: the sum over all `count` rows of left[row][i] · matrix[row][column]. `left` is in the
// order `down`, with `left_lanes` lanes.
template <typename Number>
void sum_of_rows(const uint32_t *left, int64_t left_rows, int64_t left_lanes, const Number *matrix, int64_t count, int64_t columns, float *to,
                 int64_t first, int64_t last, Scratch &scratch);

// Products of a matrix of low rank with many rows, in bf16: what an adapter beside a linear layer is made of.
#pragma once
#include "bf16_products.h"

// Order of `rows` [count][size], as bf16_products.h has it: `across` with the rows as lanes, [size / 2][lanes], or `down` with the numbers as
// lanes, [count / 2][lanes]. Lanes behind the end hold zeros, as does the second row of a last pair that has none.
std::vector<uint32_t> bf16_across(const uint16_t *rows, int64_t count, int64_t size);
std::vector<uint32_t> bf16_down(const uint16_t *rows, int64_t count, int64_t size);

// Lanes for so many numbers.
int64_t bf16_lanes(int64_t count);

// Row by row of `to` [last - first][numbers]: `factor` times the product of a row of 2 · `pairs` numbers with `right` [pairs][lanes], for the rows
// `first` to `last`. `row` and `to_row` are distances of rows in numbers.
void bf16_rows_by(const uint16_t *rows, int64_t row, int64_t pairs, const uint32_t *right, int64_t lanes, float factor, uint16_t *to,
                  int64_t to_row, int64_t numbers, int64_t first, int64_t last);

// `to` [left_rows][columns], of the columns `first` to `last`: the sum over all `count` rows of left[row][i] · matrix[row][column]. `left` is in the
// order `down`, [(count + 1) / 2][left_lanes].
void bf16_sum_over_rows(const uint32_t *left, int64_t left_rows, int64_t left_lanes, const uint16_t *matrix, int64_t count, int64_t columns,
                        float *to, int64_t first, int64_t last, Bf16Scratch &scratch);

// Products of a matrix of low rank with many rows, in bf16: one side of each has 16 numbers or few more, for which general products of matrices
// are not made.
#include "low_rank_bf16.h"

#if defined(__x86_64__)
namespace {

// Columns that are summed up at once, and pairs of rows of a part: together they stay in a core's first cache.
constexpr int64_t COLUMNS = 96, PAIRS = 64;

// Eight rows or one, of whatever count of vectors there is a tile for.
SD_AVX512_INLINE void multiply(int64_t rows, int64_t vectors, const uint32_t *a, int64_t a_row, int64_t a_pair, const uint32_t *b, int64_t b_pair,
                               int64_t pairs, float *c, int64_t c_row, bool adds) {
  const auto take = rows == TILE ? (vectors == 3 ? tile<TILE, 3> : vectors == 2 ? tile<TILE, 2> : tile<TILE, 1>)
                                 : (vectors == 3 ? tile<1, 3> : vectors == 2 ? tile<1, 2> : tile<1, 1>);
  take(a, a_row, a_pair, b, b_pair, pairs, c, c_row, adds);
}

SD_AVX512_INLINE int64_t vectors_of(int64_t lanes) {
  const int64_t left = lanes / LANES;
  return left == 4 ? 2 : std::min<int64_t>(left, 3);
}

// Sums in the order of `interleave` in the order of columns.
SD_AVX512_INLINE void store_columns(const float *sums, int64_t count, float *to) {
  const __m512d first = _mm512_castps_pd(_mm512_loadu_ps(sums)), second = _mm512_castps_pd(_mm512_loadu_ps(sums + LANES));
  const __m512d low = _mm512_permutex2var_pd(first, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), second);
  const __m512d high = _mm512_permutex2var_pd(first, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), second);
  _mm512_mask_storeu_ps(to, first_lanes(count), _mm512_castpd_ps(low));
  _mm512_mask_storeu_ps(to + LANES, first_lanes(count - LANES), _mm512_castpd_ps(high));
}

} // namespace

int64_t bf16_lanes(int64_t count) { return round_up(count, LANES); }

std::vector<uint32_t> bf16_across(const uint16_t *rows, int64_t count, int64_t size) {
  std::vector<uint32_t> to(size / 2 * bf16_lanes(count));
  put_across(rows, size, count, size, to.data(), bf16_lanes(count));
  return to;
}

std::vector<uint32_t> bf16_down(const uint16_t *rows, int64_t count, int64_t size) {
  std::vector<uint32_t> to(round_up(count, 2) / 2 * bf16_lanes(size));
  put_down(rows, size, count, size, to.data(), round_up(count, 2), bf16_lanes(size));
  return to;
}

SD_AVX512 void bf16_rows_by(const uint16_t *rows, int64_t row, int64_t pairs, const uint32_t *right, int64_t lanes, float factor, uint16_t *to,
                            int64_t to_row, int64_t numbers, int64_t first, int64_t last) {
  alignas(64) float sums[TILE * 3 * LANES];
  for (int64_t at = first; at < last;) {
    const int64_t taken = last - at >= TILE ? TILE : 1;
    const auto *pairs_of_rows = reinterpret_cast<const uint32_t *>(rows + at * row);
    for (int64_t lane = 0; lane < lanes;) {
      const int64_t vectors = vectors_of(lanes - lane), width = vectors * LANES;
      multiply(taken, vectors, pairs_of_rows, row / 2, 1, right + lane, lanes, pairs, sums, width, false);
      store_rows(sums, width, taken, std::min(width, numbers - lane), factor, to + at * to_row + lane, to_row);
      lane += width;
    }
    at += taken;
  }
}

SD_AVX512 void bf16_sum_over_rows(const uint32_t *left, int64_t left_rows, int64_t left_lanes, const uint16_t *matrix, int64_t count,
                                  int64_t columns, float *to, int64_t first, int64_t last, Bf16Scratch &scratch) {
  const int64_t pairs = (count + 1) / 2;
  scratch.clear();
  auto *panel = scratch.take<uint32_t>(PAIRS * COLUMNS);
  auto *sums = scratch.take<float>(left_lanes * COLUMNS);
  for (int64_t column = first; column < last; column += COLUMNS) {
    const int64_t taken = std::min(COLUMNS, last - column), lanes = round_up(taken, NUMBERS);
    for (int64_t pair = 0; pair < pairs; pair += PAIRS) {
      const int64_t part = std::min(PAIRS, pairs - pair);
      for (int64_t i = 0; i < part; i++) {
        const int64_t even = 2 * (pair + i);
        const uint16_t *at = matrix + even * columns + column;
        // Behind an odd number of rows the last one stands twice; `left` has zeros for it.
        const uint16_t *odd = even + 1 < count ? at + columns : at;
        for (int64_t number = 0; number < taken; number += NUMBERS) {
          interleave(at + number, odd + number, taken - number, panel + i * COLUMNS + number);
        }
      }
      for (int64_t lane = 0; lane < lanes;) {
        const int64_t vectors = vectors_of(lanes - lane);
        for (int64_t row = 0; row < left_lanes; row += TILE) {
          multiply(TILE, vectors, left + pair * left_lanes + row, 1, left_lanes, panel + lane, COLUMNS, part, sums + row * COLUMNS + lane,
                   COLUMNS, pair > 0);
        }
        lane += vectors * LANES;
      }
    }
    for (int64_t row = 0; row < left_rows; row++) {
      for (int64_t number = 0; number < taken; number += NUMBERS) {
        store_columns(sums + row * COLUMNS + number, taken - number, to + row * columns + column + number);
      }
    }
  }
}
#else

int64_t bf16_lanes(int64_t count) { return count; }
std::vector<uint32_t> bf16_across(const uint16_t *, int64_t, int64_t) { return {}; }
std::vector<uint32_t> bf16_down(const uint16_t *, int64_t, int64_t) { return {}; }
void bf16_rows_by(const uint16_t *, int64_t, int64_t, const uint32_t *, int64_t, float, uint16_t *, int64_t, int64_t, int64_t, int64_t) {}
void bf16_sum_over_rows(const uint32_t *, int64_t, int64_t, const uint16_t *, int64_t, int64_t, float *, int64_t, int64_t, Bf16Scratch &) {}

#endif

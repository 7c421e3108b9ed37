// Products of a matrix of low rank with many rows: one side of each has 16 numbers or few more, for which general products of matrices are not
// made.
#include "low_rank_kernel.h"

#if defined(__x86_64__)
namespace {

// Columns that are summed up at once, and cells of a part: together they stay in a core's first cache.
constexpr int64_t COLUMNS = 96, CELLS = 64;

// Eight rows or one, of whatever count of vectors there is a tile for.
template <typename Number>
SD_AVX512_INLINE void multiply(int64_t rows, int64_t vectors, const uint32_t *a, int64_t a_row, int64_t a_cell, const uint32_t *b, int64_t b_cell,
                               int64_t cells, float *c, int64_t c_row, bool adds) {
  const auto of_eight = vectors == 3 ? tile<TILE, 3, Number> : vectors == 2 ? tile<TILE, 2, Number> : tile<TILE, 1, Number>;
  const auto of_one = vectors == 3 ? tile<1, 3, Number> : vectors == 2 ? tile<1, 2, Number> : tile<1, 1, Number>;
  (rows == TILE ? of_eight : of_one)(a, a_row, a_cell, b, b_cell, cells, c, c_row, adds);
}

// Sums in the order of `interleave` in the order of columns.
SD_AVX512_INLINE void store_columns(const float *sums, int64_t count, float *to) {
  const __m512d first = _mm512_castps_pd(_mm512_loadu_ps(sums)), second = _mm512_castps_pd(_mm512_loadu_ps(sums + LANES));
  const __m512d low = _mm512_permutex2var_pd(first, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), second);
  const __m512d high = _mm512_permutex2var_pd(first, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), second);
  _mm512_mask_storeu_ps(to, first_lanes(count), _mm512_castpd_ps(low));
  _mm512_mask_storeu_ps(to + LANES, first_lanes(count - LANES), _mm512_castpd_ps(high));
}

// 32 columns of the rows of a cell, from `row` on, as cells. Behind an odd number of rows the last one stands twice.
template <typename Number>
SD_AVX512_INLINE void put_columns(const Number *matrix, int64_t row, int64_t count, int64_t columns, int64_t taken, uint32_t *to) {
  const Number *at = matrix + row * columns;
  if constexpr (IS_BF16<Number>) {
    interleave(at, row + 1 < count ? at + columns : at, taken, to);
  } else {
    _mm512_storeu_ps(to, lanes_at(at, 0, taken));
    _mm512_storeu_ps(to + LANES, lanes_at(at, LANES, taken));
  }
}

// Sums of 32 columns in that order, in their own.
template <typename Number> SD_AVX512_INLINE void store_sums(const float *sums, int64_t count, float *to) {
  if constexpr (IS_BF16<Number>) {
    store_columns(sums, count, to);
  } else {
    store_lanes(to, first_lanes(count), _mm512_loadu_ps(sums));
    store_lanes(to + LANES, first_lanes(count - LANES), _mm512_loadu_ps(sums + LANES));
  }
}

template <typename Number> SD_AVX512 void across(const Number *rows, int64_t count, int64_t size, uint32_t *to) {
  put_across(rows, size, count, size, to, round_up(count, LANES));
}

template <typename Number> SD_AVX512 void down(const Number *rows, int64_t count, int64_t size, uint32_t *to) {
  put_down(rows, size, count, size, to, round_up(count, IN_CELL<Number>), round_up(size, LANES));
}

template <typename Number>
SD_AVX512 void rows_by(const Number *rows, int64_t row, int64_t cells, const uint32_t *right, int64_t lanes, float factor, Number *to,
                       int64_t to_row, int64_t numbers, int64_t first, int64_t last) {
  alignas(64) float sums[TILE * 3 * LANES];
  for (int64_t at = first; at < last;) {
    const int64_t taken = last - at >= TILE ? TILE : 1;
    const auto *cells_of_rows = reinterpret_cast<const uint32_t *>(rows + at * row);
    for (int64_t lane = 0; lane < lanes;) {
      const int64_t vectors = vectors_of(lanes - lane), width = vectors * LANES;
      multiply<Number>(taken, vectors, cells_of_rows, row / IN_CELL<Number>, 1, right + lane, lanes, cells, sums, width, false);
      store_rows(sums, width, taken, std::min(width, numbers - lane), factor, to + at * to_row + lane, to_row);
      lane += width;
    }
    at += taken;
  }
}

template <typename Number>
SD_AVX512 void sum_over(const uint32_t *left, int64_t left_rows, int64_t left_lanes, const Number *matrix, int64_t count, int64_t columns,
                        float *to, int64_t first, int64_t last, Scratch &scratch) {
  constexpr int64_t GROUP = IN_CELL<Number>;
  const int64_t cells = (count + GROUP - 1) / GROUP;
  scratch.clear();
  auto *panel = scratch.take<uint32_t>(CELLS * COLUMNS);
  auto *sums = scratch.take<float>(left_lanes * COLUMNS);
  for (int64_t column = first; column < last; column += COLUMNS) {
    const int64_t taken = std::min(COLUMNS, last - column), lanes = round_up(taken, NUMBERS);
    for (int64_t cell = 0; cell < cells; cell += CELLS) {
      const int64_t part = std::min(CELLS, cells - cell);
      for (int64_t i = 0; i < part; i++) {
        for (int64_t at = 0; at < taken; at += NUMBERS) {
          put_columns(matrix + column + at, GROUP * (cell + i), count, columns, taken - at, panel + i * COLUMNS + at);
        }
      }
      for (int64_t lane = 0; lane < lanes;) {
        const int64_t vectors = vectors_of(lanes - lane);
        for (int64_t row = 0; row < left_lanes; row += TILE) {
          multiply<Number>(TILE, vectors, left + cell * left_lanes + row, 1, left_lanes, panel + lane, COLUMNS, part,
                           sums + row * COLUMNS + lane, COLUMNS, cell > 0);
        }
        lane += vectors * LANES;
      }
    }
    for (int64_t row = 0; row < left_rows; row++) {
      for (int64_t at = 0; at < taken; at += NUMBERS) {
        store_sums<Number>(sums + row * COLUMNS + at, taken - at, to + row * columns + column + at);
      }
    }
  }
}

} // namespace

int64_t whole_lanes(int64_t count) { return round_up(count, LANES); }
#else
namespace {

template <typename Number> constexpr int64_t IN_CELL = 4 / sizeof(Number);
int64_t round_up(int64_t count, int64_t) { return count; }
template <typename Number> void across(const Number *, int64_t, int64_t, uint32_t *) {}
template <typename Number> void down(const Number *, int64_t, int64_t, uint32_t *) {}
template <typename Number>
void rows_by(const Number *, int64_t, int64_t, const uint32_t *, int64_t, float, Number *, int64_t, int64_t, int64_t, int64_t) {}
template <typename Number>
void sum_over(const uint32_t *, int64_t, int64_t, const Number *, int64_t, int64_t, float *, int64_t, int64_t, Scratch &) {}

} // namespace

int64_t whole_lanes(int64_t count) { return count; }
#endif

// Compiled for any processor, as their callers are.
template <typename Number> std::vector<uint32_t> cells_across(const Number *rows, int64_t count, int64_t size) {
  std::vector<uint32_t> to(size / IN_CELL<Number> * whole_lanes(count));
  across(rows, count, size, to.data());
  return to;
}

template <typename Number> std::vector<uint32_t> cells_down(const Number *rows, int64_t count, int64_t size) {
  std::vector<uint32_t> to(round_up(count, IN_CELL<Number>) / IN_CELL<Number> * whole_lanes(size));
  down(rows, count, size, to.data());
  return to;
}

template <typename Number>
void rows_by_cells(const Number *rows, int64_t row, int64_t cells, const uint32_t *right, int64_t lanes, float factor, Number *to,
                   int64_t to_row, int64_t numbers, int64_t first, int64_t last) {
  rows_by(rows, row, cells, right, lanes, factor, to, to_row, numbers, first, last);
}

template <typename Number>
void sum_of_rows(const uint32_t *left, int64_t left_rows, int64_t left_lanes, const Number *matrix, int64_t count, int64_t columns, float *to,
                 int64_t first, int64_t last, Scratch &scratch) {
  sum_over(left, left_rows, left_lanes, matrix, count, columns, to, first, last, scratch);
}

#define SD_OF(Number)                                                                                                                        \
  template std::vector<uint32_t> cells_across(const Number *, int64_t, int64_t);                                                             \
  template std::vector<uint32_t> cells_down(const Number *, int64_t, int64_t);                                                               \
  template void rows_by_cells(const Number *, int64_t, int64_t, const uint32_t *, int64_t, float, Number *, int64_t, int64_t, int64_t,       \
                              int64_t);                                                                                                      \
  template void sum_of_rows(const uint32_t *, int64_t, int64_t, const Number *, int64_t, int64_t, float *, int64_t, int64_t, Scratch &);
SD_OF(uint16_t)
SD_OF(float)

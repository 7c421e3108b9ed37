// Products of matrices by AVX-512, of bf16 by its products of pairs, or of fp32: what kernels of this folder are made of. Either adds up in fp32.
//
// Matrices are made of cells of 32 bits, each a pair of bf16 or one number of fp32. Two orders of a matrix are used besides rows:
// - across: cell [i][t] holds number i of row t, of bf16 numbers 2i and 2i + 1, so that 16 rows lie side by side;
// - down: cell [j][c] holds column c of row j, of bf16 of the rows 2j and 2j + 1.
// bf16 goes by `uint16_t`, fp32 by `float`.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

// Whether there are AVX-512's instructions for fp32, and libtorch was not told to do with less.
bool fp32_products_are_supported();

// Whether this processor multiplies pairs of bf16, and libtorch was not told to do with less.
bool bf16_products_are_supported();

// Memory that one thread uses again for the next piece of work.
class Scratch {
public:
  // Starts anew: what was handed out before is free.
  void clear() { used = 0; }
  // Room for `count` numbers of 4 bytes, which begins at a multiple of 64 bytes. Valid until the next `clear`.
  template <typename T> T *take(int64_t count) {
    static_assert(sizeof(T) == 4, "numbers of 4 bytes");
    return reinterpret_cast<T *>(bytes(count * 4));
  }

private:
  struct Block {
    std::unique_ptr<char[]> bytes;
    int64_t size;
  };

  void *bytes(int64_t count);
  std::vector<Block> blocks;
  size_t used = 0;
};

#if defined(__x86_64__)
#include <immintrin.h>

// Of each function by itself: the rest of the program must run on older processors. Those for fp32 run without AVX-512-BF16, too: compilers use
// its instructions only where they are asked for by name.
#define SD_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define SD_AVX512_INLINE SD_AVX512 __attribute__((always_inline)) static inline

namespace {

constexpr int64_t LANES = 16;
// Numbers of bf16 in a vector.
constexpr int64_t NUMBERS = 32;
// Rows of a product that are made at once: with three vectors each they fill the registers.
constexpr int64_t TILE = 8;

// Numbers of a cell.
template <typename Number> constexpr int64_t IN_CELL = 4 / sizeof(Number);
template <typename Number> constexpr bool IS_BF16 = std::is_same<Number, uint16_t>::value;

inline int64_t round_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

SD_AVX512_INLINE __mmask16 first_lanes(int64_t count) {
  return count >= LANES ? __mmask16(0xffff) : count <= 0 ? __mmask16(0) : __mmask16((1u << count) - 1);
}

SD_AVX512_INLINE __m512 to_float(__m256i numbers) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16));
}

SD_AVX512_INLINE __m256i to_bf16(__m512 numbers) { return (__m256i)_mm512_cvtneps_pbh(numbers); }

// Pairs of the lanes of two rows.
SD_AVX512_INLINE __m512i paired(__m256i even, __m256i odd) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

// `sums` and the products of 16 cells with as many.
template <typename Number> SD_AVX512_INLINE __m512 multiply_add(__m512 sums, __m512i left, __m512i right) {
  if constexpr (IS_BF16<Number>) return _mm512_dpbf16_ps(sums, (__m512bh)left, (__m512bh)right);
  return _mm512_fmadd_ps(_mm512_castsi512_ps(left), _mm512_castsi512_ps(right), sums);
}

// c[row][lane] = (c[row][lane] +) the sum over `cells` of a[row][cell] · b[cell][lane], for ROWS rows and VECTORS · 16 lanes.
template <int ROWS, int VECTORS, typename Number = uint16_t>
SD_AVX512 void tile(const uint32_t *a, int64_t a_row, int64_t a_cell, const uint32_t *b, int64_t b_cell, int64_t cells, float *c,
                    int64_t c_row, bool adds) {
  __m512 sums[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; row++) {
#pragma GCC unroll 4
    for (int vector = 0; vector < VECTORS; vector++) {
      sums[row][vector] = adds ? _mm512_loadu_ps(c + row * c_row + vector * LANES) : _mm512_setzero_ps();
    }
  }
  for (int64_t cell = 0; cell < cells; cell++) {
    __m512i lanes[VECTORS];
#pragma GCC unroll 4
    for (int vector = 0; vector < VECTORS; vector++) lanes[vector] = _mm512_loadu_si512(b + cell * b_cell + vector * LANES);
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
      const __m512i broadcast = _mm512_set1_epi32(a[row * a_row + cell * a_cell]);
#pragma GCC unroll 4
      for (int vector = 0; vector < VECTORS; vector++) {
        sums[row][vector] = multiply_add<Number>(sums[row][vector], broadcast, lanes[vector]);
      }
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; row++) {
#pragma GCC unroll 4
    for (int vector = 0; vector < VECTORS; vector++) _mm512_storeu_ps(c + row * c_row + vector * LANES, sums[row][vector]);
  }
}

// Vectors of the next tile, of so many lanes that are left: as many as fill the registers, and no single one behind them.
inline int64_t vectors_of(int64_t lanes) {
  const int64_t left = lanes / LANES;
  return left == 4 ? 2 : std::min<int64_t>(left, 3);
}

// The same for `rows`, a multiple of TILE, and `lanes`, a multiple of 16.
template <typename Number = uint16_t>
SD_AVX512 void product(const uint32_t *a, int64_t a_row, int64_t a_cell, const uint32_t *b, int64_t b_cell, int64_t cells, float *c,
                       int64_t c_row, int64_t rows, int64_t lanes, bool adds) {
  for (int64_t lane = 0; lane < lanes;) {
    const int64_t vectors = vectors_of(lanes - lane);
    for (int64_t row = 0; row < rows; row += TILE) {
      const auto multiply = vectors == 3 ? tile<TILE, 3, Number> : vectors == 2 ? tile<TILE, 2, Number> : tile<TILE, 1, Number>;
      multiply(a + row * a_row, a_row, a_cell, b + lane, b_cell, cells, c + row * c_row + lane, c_row, adds);
    }
    lane += vectors * LANES;
  }
}

SD_AVX512_INLINE __mmask32 first_numbers(int64_t count) {
  return count >= NUMBERS ? ~__mmask32(0) : count <= 0 ? __mmask32(0) : (__mmask32(1) << count) - 1;
}

// 32 columns of two rows as pairs, in the order in which instructions give them: of each eight columns the first four in the first vector.
// `count` columns are there; zeros stand for the others.
SD_AVX512_INLINE void interleave(const uint16_t *even, const uint16_t *odd, int64_t count, uint32_t *to) {
  // A load with a mask takes longer, even with a full one.
  const bool is_full = count >= NUMBERS;
  const __m512i one = is_full ? _mm512_loadu_si512(even) : _mm512_maskz_loadu_epi16(first_numbers(count), even);
  const __m512i other = is_full ? _mm512_loadu_si512(odd) : _mm512_maskz_loadu_epi16(first_numbers(count), odd);
  _mm512_storeu_si512(to, _mm512_unpacklo_epi16(one, other));
  _mm512_storeu_si512(to + LANES, _mm512_unpackhi_epi16(one, other));
}

// Numbers of a row as 16 lanes of bf16, with zeros behind the row's end.
SD_AVX512_INLINE __m256i numbers_at(const uint16_t *row, int64_t column, int64_t size) {
  return _mm256_maskz_loadu_epi16(first_lanes(size - column), row + column);
}

// The same as fp32.
template <typename Number> SD_AVX512_INLINE __m512 lanes_at(const Number *row, int64_t column, int64_t size) {
  if constexpr (IS_BF16<Number>) return to_float(numbers_at(row, column, size));
  else return _mm512_maskz_loadu_ps(first_lanes(size - column), row + column);
}

// Stores lanes as numbers of their own kind.
SD_AVX512_INLINE void store_lanes(uint16_t *to, __mmask16 mask, __m512 lanes) { _mm256_mask_storeu_epi16(to, mask, to_bf16(lanes)); }
SD_AVX512_INLINE void store_lanes(float *to, __mmask16 mask, __m512 lanes) { _mm512_mask_storeu_ps(to, mask, lanes); }

// `to` [to_rows / 2][columns] or, of fp32, [to_rows][columns]: rows in the order `down`, zeros where there is no row or number. `columns` is a
// multiple of 16.
template <typename Number>
SD_AVX512 void put_down(const Number *from, int64_t from_row, int64_t rows, int64_t size, uint32_t *to, int64_t to_rows, int64_t columns) {
  for (int64_t row = 0; row < to_rows; row += IN_CELL<Number>) {
    for (int64_t column = 0; column < columns; column += LANES) {
      uint32_t *cells = to + row / IN_CELL<Number> * columns + column;
      if constexpr (IS_BF16<Number>) {
        const __m256i even = row < rows ? numbers_at(from + row * from_row, column, size) : _mm256_setzero_si256();
        const __m256i odd = row + 1 < rows ? numbers_at(from + (row + 1) * from_row, column, size) : _mm256_setzero_si256();
        _mm512_storeu_si512(cells, paired(even, odd));
      } else {
        _mm512_storeu_ps(cells, row < rows ? lanes_at(from + row * from_row, column, size) : _mm512_setzero_ps());
      }
    }
  }
}

// Turns 16 × 16 numbers of 32 bits about their diagonal.
SD_AVX512_INLINE void transpose(__m512i rows[16]) {
  __m512i pairs[16], quads[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    quads[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    quads[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    quads[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    quads[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  // quads[4g + c] holds, in its 128-bit part p, column 4p + c of the rows 4g to 4g + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    const __m512i low = _mm512_shuffle_i32x4(quads[c], quads[4 + c], 0x88), high = _mm512_shuffle_i32x4(quads[8 + c], quads[12 + c], 0x88);
    const __m512i low_odd = _mm512_shuffle_i32x4(quads[c], quads[4 + c], 0xdd);
    const __m512i high_odd = _mm512_shuffle_i32x4(quads[8 + c], quads[12 + c], 0xdd);
    rows[c] = _mm512_shuffle_i32x4(low, high, 0x88);
    rows[8 + c] = _mm512_shuffle_i32x4(low, high, 0xdd);
    rows[4 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0x88);
    rows[12 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd);
  }
}

// `to` [size / 2][to_rows] or, of fp32, [size][to_rows]: rows in the order `across`, zeros where there is no row. `to_rows` is a multiple of 16.
template <typename Number>
SD_AVX512 void put_across(const Number *from, int64_t from_row, int64_t rows, int64_t size, uint32_t *to, int64_t to_rows) {
  const int64_t cells = size / IN_CELL<Number>;
  for (int64_t row = 0; row < to_rows; row += LANES) {
    for (int64_t cell = 0; cell < cells; cell += LANES) {
      const __mmask16 mask = first_lanes(cells - cell);
      __m512i square[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        const Number *numbers = from + (row + i) * from_row + IN_CELL<Number> * cell;
        square[i] = row + i < rows ? _mm512_maskz_loadu_epi32(mask, numbers) : _mm512_setzero_si512();
      }
      transpose(square);
      const int64_t count = std::min<int64_t>(LANES, cells - cell);
      for (int64_t i = 0; i < count; i++) _mm512_storeu_si512(to + (cell + i) * to_rows + row, square[i]);
    }
  }
}

// Rows of sums, times `factor`.
template <typename Number>
SD_AVX512 void store_rows(const float *from, int64_t from_row, int64_t rows, int64_t size, float factor, Number *to, int64_t to_row) {
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t column = 0; column < size; column += LANES) {
      const __m512 numbers = _mm512_mul_ps(_mm512_loadu_ps(from + row * from_row + column), _mm512_set1_ps(factor));
      store_lanes(to + row * to_row + column, first_lanes(size - column), numbers);
    }
  }
}

} // namespace
#endif

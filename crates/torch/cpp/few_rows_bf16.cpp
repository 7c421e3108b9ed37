// Products of a few rows with many weights, in bf16, that read the weights once, as they lie in memory. A general product of matrices brings
// them into another order first, which pays where many rows use it: for 64 rows that is a third of the time, for 16 more than half.
#include "few_rows_bf16.h"

#if defined(__x86_64__)
namespace {

// Pairs of a part of the sum, whose rows stay in a core's caches.
constexpr int64_t FORWARD_PAIRS = 256, BACKWARD_PAIRS = 64;
constexpr int64_t FORWARD_OUTPUTS = 96;
// Two times three vectors: three lines of the cache.
constexpr int64_t BACKWARD_INPUTS = 96;

// So few rows are multiplied along the sum, 32 numbers at a time, without an order of their own: of more, one vector holds 16 at once.
constexpr int64_t FEWEST = 32;
// Numbers of that part of the sum which stays in a core's first cache.
constexpr int64_t part_of(int64_t rows) { return rows <= 16 ? 1024 : 512; }

// Weights of a tile for so many vectors of rows: what fills the registers.
constexpr int weights_of(int vectors) { return vectors == 4 ? 6 : 8; }

// `sums` [count][lanes] for `count` weights, VECTORS · 16 rows and `pairs` of the sum.
template <int VECTORS>
SD_AVX512 void take_weights(const uint32_t *weights, int64_t weight_row, int64_t count, const uint32_t *ordered, int64_t lanes, int64_t pairs,
                            float *sums, bool adds) {
  constexpr int WEIGHTS = weights_of(VECTORS);
  int64_t weight = 0;
  for (; weight + WEIGHTS <= count; weight += WEIGHTS) {
    tile<WEIGHTS, VECTORS>(weights + weight * weight_row, weight_row, 1, ordered, lanes, pairs, sums + weight * lanes, lanes, adds);
  }
  for (; weight < count; weight++) {
    tile<1, VECTORS>(weights + weight * weight_row, weight_row, 1, ordered, lanes, pairs, sums + weight * lanes, lanes, adds);
  }
}

// Adds to `sums` [8][WEIGHTS] vectors, whose lanes make a sum together, the products of 8 rows in the order of `few_rows_bf16_order` with
// WEIGHTS weights, for `steps` times 32 numbers; of the last of them only those of `mask`.
template <int WEIGHTS>
SD_AVX512 void along(const uint16_t *weights, int64_t weight_row, const uint16_t *ordered, int64_t steps, __mmask32 mask, float *sums,
                     bool adds) {
  __m512 kept[TILE][WEIGHTS];
#pragma GCC unroll 8
  for (int row = 0; row < TILE; row++) {
#pragma GCC unroll 3
    for (int weight = 0; weight < WEIGHTS; weight++) {
      kept[row][weight] = adds ? _mm512_loadu_ps(sums + (row * WEIGHTS + weight) * LANES) : _mm512_setzero_ps();
    }
  }
  for (int64_t step = 0; step < steps; step++) {
    const __mmask32 loaded = step + 1 < steps ? ~__mmask32(0) : mask;
    __m512i numbers[WEIGHTS];
#pragma GCC unroll 3
    for (int weight = 0; weight < WEIGHTS; weight++) {
      const uint16_t *from = weights + weight * weight_row + step * NUMBERS;
      _mm_prefetch(reinterpret_cast<const char *>(from) + 1024, _MM_HINT_T0);
      numbers[weight] = _mm512_maskz_loadu_epi16(loaded, from);
    }
#pragma GCC unroll 8
    for (int row = 0; row < TILE; row++) {
      const __m512i others = _mm512_loadu_si512(ordered + (step * TILE + row) * NUMBERS);
#pragma GCC unroll 3
      for (int weight = 0; weight < WEIGHTS; weight++) {
        kept[row][weight] = _mm512_dpbf16_ps(kept[row][weight], (__m512bh)others, (__m512bh)numbers[weight]);
      }
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < TILE; row++) {
#pragma GCC unroll 3
    for (int weight = 0; weight < WEIGHTS; weight++) _mm512_storeu_ps(sums + (row * WEIGHTS + weight) * LANES, kept[row][weight]);
  }
}

// `to` of at most 32 rows.
SD_AVX512 void forward_of_fewest(const FewRows &size, const uint16_t *ordered, const uint16_t *bias, uint16_t *to, int64_t first,
                                 int64_t last) {
  constexpr int64_t WEIGHTS = 3;
  const int64_t blocks = (size.count + TILE - 1) / TILE, part = part_of(size.count), steps = (size.inputs + NUMBERS - 1) / NUMBERS;
  alignas(64) float sums[FEWEST * WEIGHTS * LANES];
  for (int64_t output = first; output < last;) {
    const int64_t count = last - output >= WEIGHTS ? WEIGHTS : 1;
    const auto take = count == WEIGHTS ? along<WEIGHTS> : along<1>;
    for (int64_t input = 0; input < size.inputs; input += part) {
      const int64_t numbers = std::min(part, size.inputs - input), tail = numbers % NUMBERS;
      const __mmask32 mask = first_numbers(tail == 0 ? NUMBERS : tail);
      for (int64_t block = 0; block < blocks; block++) {
        take(size.weights + output * size.inputs + input, size.inputs, ordered + (block * steps + input / NUMBERS) * TILE * NUMBERS,
             (numbers + NUMBERS - 1) / NUMBERS, mask, sums + block * TILE * count * LANES, input > 0);
      }
    }
    for (int64_t row = 0; row < size.count; row++) {
      for (int64_t weight = 0; weight < count; weight++) {
        const float sum = _mm512_reduce_add_ps(_mm512_loadu_ps(sums + (row * count + weight) * LANES));
        const __m512 shift = bias == nullptr ? _mm512_setzero_ps() : to_float(numbers_at(bias + output + weight, 0, 1));
        _mm256_mask_storeu_epi16(to + row * size.outputs + output + weight, 1, to_bf16(_mm512_add_ps(_mm512_set1_ps(sum), shift)));
      }
    }
    output += count;
  }
}

// 32 sums in that order, as bf16 in the order of columns.
SD_AVX512_INLINE __m512i columns_of(const float *sums) {
  const __m512i first = _mm512_castsi256_si512(to_bf16(_mm512_loadu_ps(sums)));
  const __m512i second = _mm512_castsi256_si512(to_bf16(_mm512_loadu_ps(sums + LANES)));
  // Numbers of 64 bits: part p of the first vector, then part p of the second.
  return _mm512_permutex2var_epi64(first, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), second);
}

} // namespace

int64_t few_rows_bf16_room(int64_t count, int64_t inputs) {
  return count <= FEWEST ? round_up(count, TILE) * round_up(inputs, NUMBERS) / 2 : round_up(count, LANES) * inputs / 2;
}

void few_rows_bf16_order(const uint16_t *rows, int64_t count, int64_t inputs, uint32_t *ordered) {
  if (count > FEWEST) return put_across(rows, inputs, count, inputs, ordered, round_up(count, LANES));
  // Eight rows side by side, 32 numbers of each.
  const int64_t steps = (inputs + NUMBERS - 1) / NUMBERS;
  auto *to = reinterpret_cast<uint16_t *>(ordered);
  for (int64_t row = 0; row < round_up(count, TILE); row++) {
    uint16_t *begin = to + (row / TILE * steps * TILE + row % TILE) * NUMBERS;
    for (int64_t step = 0; step < steps; step++) {
      const int64_t numbers = row < count ? std::min(NUMBERS, inputs - step * NUMBERS) : 0;
      std::fill_n(std::copy_n(rows + row * inputs + step * NUMBERS, numbers, begin + step * TILE * NUMBERS), NUMBERS - numbers, uint16_t(0));
    }
  }
}

SD_AVX512 void few_rows_bf16_forward(const FewRows &size, const uint32_t *ordered, const uint16_t *bias, uint16_t *to, int64_t first,
                                     int64_t last, Scratch &scratch) {
  if (size.count <= FEWEST) return forward_of_fewest(size, reinterpret_cast<const uint16_t *>(ordered), bias, to, first, last);
  const int64_t lanes = round_up(size.count, LANES), pairs = size.inputs / 2;
  scratch.clear();
  auto *sums = scratch.take<float>(FORWARD_OUTPUTS * lanes);
  for (int64_t output = first; output < last; output += FORWARD_OUTPUTS) {
    const int64_t count = std::min(FORWARD_OUTPUTS, last - output);
    for (int64_t pair = 0; pair < pairs; pair += FORWARD_PAIRS) {
      const auto *weights = reinterpret_cast<const uint32_t *>(size.weights) + output * pairs + pair;
      const int64_t part = std::min(FORWARD_PAIRS, pairs - pair);
      for (int64_t lane = 0; lane < lanes;) {
        const int64_t vectors = std::min<int64_t>(4, (lanes - lane) / LANES);
        const auto take = vectors == 4 ? take_weights<4> : vectors == 3 ? take_weights<3> : vectors == 2 ? take_weights<2> : take_weights<1>;
        take(weights, pairs, count, ordered + pair * lanes + lane, lanes, part, sums + lane, pair > 0);
        lane += vectors * LANES;
      }
    }
    for (int64_t at = 0; at < count; at += LANES) {
      const __m512 shift = bias == nullptr ? _mm512_setzero_ps() : to_float(numbers_at(bias + output, at, count));
      const __mmask16 mask = first_lanes(count - at);
      for (int64_t row = 0; row < size.count; row += LANES) {
        __m512i square[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) square[i] = _mm512_castps_si512(_mm512_loadu_ps(sums + (at + i) * lanes + row));
        transpose(square);
        const int64_t rows = std::min(LANES, size.count - row);
        for (int64_t i = 0; i < rows; i++) {
          const __m512 numbers = _mm512_add_ps(_mm512_castsi512_ps(square[i]), shift);
          _mm256_mask_storeu_epi16(to + (row + i) * size.outputs + output + at, mask, to_bf16(numbers));
        }
      }
    }
  }
}

SD_AVX512 void few_rows_bf16_backward(const FewRows &size, const uint16_t *gradients, uint16_t *to, int64_t first, int64_t last,
                                      Scratch &scratch) {
  const int64_t pairs = size.outputs / 2;
  const auto *rows = reinterpret_cast<const uint32_t *>(gradients);
  scratch.clear();
  auto *panel = scratch.take<uint32_t>(BACKWARD_PAIRS * BACKWARD_INPUTS);
  auto *sums = scratch.take<float>(size.count * BACKWARD_INPUTS);
  for (int64_t input = first; input < last; input += BACKWARD_INPUTS) {
    const int64_t count = std::min(BACKWARD_INPUTS, last - input), lanes = round_up(count, NUMBERS);
    for (int64_t pair = 0; pair < pairs; pair += BACKWARD_PAIRS) {
      const int64_t part = std::min(BACKWARD_PAIRS, pairs - pair);
      for (int64_t i = 0; i < part; i++) {
        const uint16_t *even = size.weights + 2 * (pair + i) * size.inputs + input, *odd = even + size.inputs;
        for (int64_t at = 0; at < count; at += NUMBERS) interleave(even + at, odd + at, count - at, panel + i * BACKWARD_INPUTS + at);
      }
      for (int64_t lane = 0; lane < lanes;) {
        const int64_t left = (lanes - lane) / LANES, vectors = left == 4 || left == 2 ? 2 : 3;
        for (int64_t row = 0; row < size.count;) {
          const int64_t taken = size.count - row >= TILE ? TILE : 1;
          const auto take = taken == TILE ? (vectors == 3 ? tile<TILE, 3> : tile<TILE, 2>) : (vectors == 3 ? tile<1, 3> : tile<1, 2>);
          take(rows + row * pairs + pair, pairs, 1, panel + lane, BACKWARD_INPUTS, part, sums + row * BACKWARD_INPUTS + lane, BACKWARD_INPUTS,
               pair > 0);
          row += taken;
        }
        lane += vectors * LANES;
      }
    }
    for (int64_t row = 0; row < size.count; row++) {
      for (int64_t at = 0; at < count; at += NUMBERS) {
        _mm512_mask_storeu_epi16(to + row * size.inputs + input + at, first_numbers(count - at), columns_of(sums + row * BACKWARD_INPUTS + at));
      }
    }
  }
}
#else

int64_t few_rows_bf16_room(int64_t, int64_t) { return 0; }
void few_rows_bf16_order(const uint16_t *, int64_t, int64_t, uint32_t *) {}
void few_rows_bf16_forward(const FewRows &, const uint32_t *, const uint16_t *, uint16_t *, int64_t, int64_t, Scratch &) {}
void few_rows_bf16_backward(const FewRows &, const uint16_t *, uint16_t *, int64_t, int64_t, Scratch &) {}

#endif

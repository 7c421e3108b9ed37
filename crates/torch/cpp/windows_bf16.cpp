// Windows of three by three pixels in bf16, by permutations of whole vectors: number by number they take as long as a fifth of the product.
#include "windows_bf16.h"
#include "products.h"

#if defined(__x86_64__)
namespace {

// A vector holds 32 numbers, so that as many vectors as pixels hold a window of 32 channels. They are taken two by two, the last alone.
constexpr int VECTORS = WINDOW_PIXELS, COUPLES = (VECTORS + 1) / 2;
static_assert(WINDOW_CHANNELS == NUMBERS, "a vector of channels");

// A permutation of the numbers of nine vectors.
struct Permutation {
  alignas(64) uint16_t places[VECTORS][COUPLES][NUMBERS] = {};
  __mmask32 masks[VECTORS][COUPLES] = {};

  // Number `i` of the result is number `source(i)`.
  template <typename Source> explicit Permutation(Source source) {
    for (int i = 0; i < VECTORS * NUMBERS; i++) {
      const int from = source(i), couple = from / (2 * NUMBERS), vector = i / NUMBERS, lane = i % NUMBERS;
      places[vector][couple][lane] = from % (2 * NUMBERS);
      masks[vector][couple] |= __mmask32(1) << lane;
    }
  }
};

// Pixel by pixel to channel by channel, and back.
const Permutation TO_CHANNELS([](int i) { return i % WINDOW_PIXELS * WINDOW_CHANNELS + i / WINDOW_PIXELS; });
const Permutation TO_PIXELS([](int i) { return i % WINDOW_CHANNELS * WINDOW_PIXELS + i / WINDOW_CHANNELS; });

// Vector `vector` of the result.
SD_AVX512_INLINE __m512i permuted(const Permutation &permutation, int vector, const __m512i *from) {
  __m512i numbers = _mm512_setzero_si512();
#pragma GCC unroll 5
  for (int couple = 0; couple < COUPLES; couple++) {
    const __m512i first = from[2 * couple], second = from[std::min(2 * couple + 1, VECTORS - 1)];
    const __m512i places = _mm512_load_si512(permutation.places[vector][couple]);
    numbers = _mm512_or_si512(numbers, _mm512_maskz_permutex2var_epi16(permutation.masks[vector][couple], first, places, second));
  }
  return numbers;
}

SD_AVX512_INLINE void add(float *sums, __m256i numbers) { _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), to_float(numbers))); }

} // namespace

SD_AVX512 void bf16_window_of(const uint16_t *const *pixels, int64_t first, uint16_t *to) {
  __m512i from[VECTORS];
#pragma GCC unroll 9
  for (int pixel = 0; pixel < VECTORS; pixel++) from[pixel] = _mm512_loadu_si512(pixels[pixel] + first);
#pragma GCC unroll 9
  for (int vector = 0; vector < VECTORS; vector++) _mm512_storeu_si512(to + vector * NUMBERS, permuted(TO_CHANNELS, vector, from));
}

SD_AVX512 void bf16_add_window(const uint16_t *from, float *const *sums) {
  __m512i numbers[VECTORS];
#pragma GCC unroll 9
  for (int vector = 0; vector < VECTORS; vector++) numbers[vector] = _mm512_loadu_si512(from + vector * NUMBERS);
#pragma GCC unroll 9
  for (int pixel = 0; pixel < VECTORS; pixel++) {
    const __m512i channels = permuted(TO_PIXELS, pixel, numbers);
    add(sums[pixel], _mm512_castsi512_si256(channels));
    add(sums[pixel] + LANES, _mm512_extracti64x4_epi64(channels, 1));
  }
}
#else

void bf16_window_of(const uint16_t *const *, int64_t, uint16_t *) {}
void bf16_add_window(const uint16_t *, float *const *) {}

#endif

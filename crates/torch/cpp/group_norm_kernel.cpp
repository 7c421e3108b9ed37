// GroupNorm of some groups of one image by AVX-512. Means and deviations are taken one after the other, in fp64 over short sums in fp32.
#include "group_norm_kernel.h"
#include "functions.h"
#include <cmath>

#if defined(__x86_64__)
namespace {

// Vectors that are added up in fp32 before they are added to sums in fp64.
constexpr int64_t RUN = 256;

// Vectors of numbers that lie `stride` apart: all pixels of 16 channels (channels_last), or of one.
struct Column {
  int64_t start, stride, steps;
  // Of all vectors, and of the last one.
  __mmask16 mask, last;

  __mmask16 at(int64_t step) const { return step + 1 < steps ? mask : last; }
};

int64_t columns_of(const NormedPart &part) { return part.channels_last ? (part.channels + LANES - 1) / LANES : part.channels; }

SD_AVX512_INLINE Column column_of(const NormedPart &part, int64_t index) {
  if (part.channels_last) {
    const __mmask16 mask = first_lanes(part.channels - index * LANES);
    return {index * LANES, part.row, part.pixels, mask, mask};
  }
  const int64_t steps = (part.pixels + LANES - 1) / LANES;
  return {index * part.row, LANES, steps, first_lanes(LANES), first_lanes(part.pixels - (steps - 1) * LANES)};
}

template <typename Number> SD_AVX512_INLINE __m512 load(const Number *numbers, __mmask16 mask) {
  if constexpr (IS_BF16<Number>) return to_float(_mm256_maskz_loadu_epi16(mask, numbers));
  else return _mm512_maskz_loadu_ps(mask, numbers);
}

// What the lanes of a column have of an array with a number for each channel, which is as long as a multiple of 16.
SD_AVX512_INLINE __m512 of_column(const NormedPart &part, const float *channels, int64_t index) {
  return part.channels_last ? _mm512_loadu_ps(channels + index * LANES) : _mm512_set1_ps(channels[index]);
}

// Sums of lanes, in fp64.
struct Sums {
  __m512d low, high;
};

SD_AVX512_INLINE void add(Sums &sums, __m512 lanes) {
  sums.low = _mm512_add_pd(sums.low, _mm512_cvtps_pd(_mm512_castps512_ps256(lanes)));
  sums.high = _mm512_add_pd(sums.high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(lanes, 1)));
}

// Puts the sums of a column to those of its channels.
SD_AVX512_INLINE void store(const NormedPart &part, int64_t index, const Sums &sums, double *channels) {
  if (part.channels_last) {
    _mm512_storeu_pd(channels + index * LANES, sums.low);
    _mm512_storeu_pd(channels + index * LANES + LANES / 2, sums.high);
  } else {
    channels[index] = _mm512_reduce_add_pd(_mm512_add_pd(sums.low, sums.high));
  }
}

// `sum`, and vector `step` of a column less `mean`, or the square of that.
template <bool SQUARED, typename Number>
SD_AVX512_INLINE __m512 with_term(__m512 sum, const Column &column, int64_t step, const Number *from, __m512 mean) {
  const __mmask16 mask = column.at(step);
  const __m512 apart = _mm512_maskz_sub_ps(mask, load(from + column.start + step * column.stride, mask), mean);
  return SQUARED ? _mm512_fmadd_ps(apart, apart, sum) : _mm512_add_ps(apart, sum);
}

// The sums over all pixels of a number less `means`, or of its square.
template <bool SQUARED, typename Number>
SD_AVX512 void moments(const NormedPart &part, const Number *from, const float *means, double *channels) {
  for (int64_t index = 0; index < columns_of(part); index++) {
    const Column column = column_of(part, index);
    const __m512 mean = of_column(part, means, index);
    Sums all = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    for (int64_t begin = 0; begin < column.steps; begin += RUN) {
      // Two that do not wait for each other.
      __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
      const int64_t end = std::min(column.steps, begin + RUN);
      int64_t step = begin;
      for (; step + 1 < end; step += 2) {
        even = with_term<SQUARED>(even, column, step, from, mean);
        odd = with_term<SQUARED>(odd, column, step + 1, from, mean);
      }
      if (step < end) even = with_term<SQUARED>(even, column, step, from, mean);
      add(all, _mm512_add_ps(even, odd));
    }
    store(part, index, all, channels);
  }
}

// The sum of the channels of a group.
double of_group(const NormedPart &part, const double *channels, int64_t group) {
  double sum = 0;
  for (int64_t channel = group * part.in_group; channel < (group + 1) * part.in_group; channel++) sum += channels[channel];
  return sum;
}

// A number for each group as one for each channel.
void spread(const NormedPart &part, const float *groups, float *channels) {
  for (int64_t channel = 0; channel < part.channels; channel++) channels[channel] = groups[channel / part.in_group];
}

// Arrays with a number for each channel; behind the last one there is room for a whole vector.
struct Channels {
  float *mean, *factor, *scale, *shift;
  double *one, *other;

  Channels(const NormedPart &part, Scratch &scratch) {
    scratch.clear();
    const int64_t count = round_up(part.channels, LANES);
    for (float **each : {&mean, &factor, &scale, &shift}) std::fill_n(*each = scratch.take<float>(count), count, 0.0f);
    for (double **each : {&one, &other}) *each = reinterpret_cast<double *>(scratch.take<float>(2 * count));
  }

  // `weight` · (x − mean) · factor + `bias` is x · scale + shift.
  void put_scales(const NormedPart &part) {
    for (int64_t channel = 0; channel < part.channels; channel++) {
      scale[channel] = part.weight[channel] * factor[channel];
      shift[channel] = part.bias[channel] - mean[channel] * scale[channel];
    }
  }
};

// The gradient of the normed number, from that of what SiLU makes of it.
SD_AVX512_INLINE __m512 through_silu(__m512 normed, __m512 gradient) {
  const __m512 one = _mm512_set1_ps(1.0f), share = sigmoid(normed);
  const __m512 slope = _mm512_fmadd_ps(_mm512_mul_ps(normed, share), _mm512_sub_ps(one, share), share);
  return _mm512_mul_ps(gradient, slope);
}

template <typename Number>
SD_AVX512 void forward(const NormedPart &part, const Number *from, Number *to, float *means, float *factors, Scratch &scratch) {
  Channels channels(part, scratch);
  const int64_t groups = part.channels / part.in_group;
  const double count = static_cast<double>(part.in_group) * static_cast<double>(part.pixels);
  moments<false>(part, from, channels.mean, channels.one);
  for (int64_t group = 0; group < groups; group++) means[group] = static_cast<float>(of_group(part, channels.one, group) / count);
  spread(part, means, channels.mean);
  moments<true>(part, from, channels.mean, channels.one);
  for (int64_t group = 0; group < groups; group++) {
    factors[group] = static_cast<float>(1.0 / std::sqrt(of_group(part, channels.one, group) / count + part.epsilon));
  }
  spread(part, factors, channels.factor);
  channels.put_scales(part);
  for (int64_t index = 0; index < columns_of(part); index++) {
    const Column column = column_of(part, index);
    const __m512 scale = of_column(part, channels.scale, index), shift = of_column(part, channels.shift, index);
    for (int64_t step = 0; step < column.steps; step++) {
      const int64_t place = column.start + step * column.stride;
      const __mmask16 mask = column.at(step);
      __m512 normed = _mm512_fmadd_ps(load(from + place, mask), scale, shift);
      if (part.activates) normed = _mm512_mul_ps(normed, sigmoid(normed));
      store_lanes(to + place, mask, normed);
    }
  }
}

template <typename Number>
SD_AVX512 void backward(const NormedPart &part, const Number *from, const Number *gradient, const float *means, const float *factors,
                        Number *of_input, float *of_weight, float *of_bias, Scratch &scratch) {
  Channels channels(part, scratch);
  spread(part, means, channels.mean);
  spread(part, factors, channels.factor);
  channels.put_scales(part);
  // Sums over the pixels of the gradient of the normed number, and of that times the number before weight and bias.
  for (int64_t index = 0; index < columns_of(part); index++) {
    const Column column = column_of(part, index);
    const __m512 scale = of_column(part, channels.scale, index), shift = of_column(part, channels.shift, index);
    const __m512 mean = of_column(part, channels.mean, index), factor = of_column(part, channels.factor, index);
    Sums all = {_mm512_setzero_pd(), _mm512_setzero_pd()}, all_times = all;
    for (int64_t begin = 0; begin < column.steps; begin += RUN) {
      __m512 sum = _mm512_setzero_ps(), sum_times = _mm512_setzero_ps();
      const int64_t end = std::min(column.steps, begin + RUN);
      for (int64_t step = begin; step < end; step++) {
        const int64_t place = column.start + step * column.stride;
        const __mmask16 mask = column.at(step);
        const __m512 number = load(from + place, mask);
        // Zero in lanes that are not there.
        __m512 of_normed = load(gradient + place, mask);
        if (part.activates) of_normed = through_silu(_mm512_fmadd_ps(number, scale, shift), of_normed);
        sum = _mm512_add_ps(sum, of_normed);
        sum_times = _mm512_fmadd_ps(of_normed, _mm512_mul_ps(_mm512_sub_ps(number, mean), factor), sum_times);
      }
      add(all, sum);
      add(all_times, sum_times);
    }
    store(part, index, all, channels.one);
    store(part, index, all_times, channels.other);
  }
  for (int64_t channel = 0; channel < part.channels; channel++) {
    of_bias[channel] = static_cast<float>(channels.one[channel]);
    of_weight[channel] = static_cast<float>(channels.other[channel]);
    channels.one[channel] *= part.weight[channel];
    channels.other[channel] *= part.weight[channel];
  }
  // The gradient is factor · (weight · of_normed − a − b · (x − mean) · factor), with the means a and b over the group.
  const double count = static_cast<double>(part.in_group) * static_cast<double>(part.pixels);
  auto *const slope = scratch.take<float>(round_up(part.channels, LANES)), *const level = scratch.take<float>(round_up(part.channels, LANES));
  for (int64_t group = 0; group < part.channels / part.in_group; group++) {
    const double factor = factors[group], a = of_group(part, channels.one, group) / count, b = of_group(part, channels.other, group) / count;
    for (int64_t channel = group * part.in_group; channel < (group + 1) * part.in_group; channel++) {
      slope[channel] = static_cast<float>(-b * factor * factor);
      // With the slope as it is rounded: where the mean is large, the two have to cancel.
      level[channel] = static_cast<float>(-static_cast<double>(slope[channel]) * means[group] - factor * a);
    }
  }
  for (int64_t index = 0; index < columns_of(part); index++) {
    const Column column = column_of(part, index);
    const __m512 scale = of_column(part, channels.scale, index), shift = of_column(part, channels.shift, index);
    const __m512 by = of_column(part, slope, index), plus = of_column(part, level, index);
    for (int64_t step = 0; step < column.steps; step++) {
      const int64_t place = column.start + step * column.stride;
      const __mmask16 mask = column.at(step);
      const __m512 number = load(from + place, mask);
      __m512 of_normed = load(gradient + place, mask);
      if (part.activates) of_normed = through_silu(_mm512_fmadd_ps(number, scale, shift), of_normed);
      store_lanes(of_input + place, mask, _mm512_fmadd_ps(of_normed, scale, _mm512_fmadd_ps(number, by, plus)));
    }
  }
}

} // namespace
#else
namespace {

template <typename Number> void forward(const NormedPart &, const Number *, Number *, float *, float *, Scratch &) {}
template <typename Number>
void backward(const NormedPart &, const Number *, const Number *, const float *, const float *, Number *, float *, float *, Scratch &) {}

} // namespace
#endif

// Compiled for any processor, as their callers are.
template <typename Number>
void group_norm_forward(const NormedPart &part, const Number *from, Number *to, float *means, float *factors, Scratch &scratch) {
  forward(part, from, to, means, factors, scratch);
}

template <typename Number>
void group_norm_backward(const NormedPart &part, const Number *from, const Number *gradient, const float *means, const float *factors,
                         Number *of_input, float *of_weight, float *of_bias, Scratch &scratch) {
  backward(part, from, gradient, means, factors, of_input, of_weight, of_bias, scratch);
}

template void group_norm_forward(const NormedPart &, const uint16_t *, uint16_t *, float *, float *, Scratch &);
template void group_norm_forward(const NormedPart &, const float *, float *, float *, float *, Scratch &);
template void group_norm_backward(const NormedPart &, const uint16_t *, const uint16_t *, const float *, const float *, uint16_t *, float *,
                                  float *, Scratch &);
template void group_norm_backward(const NormedPart &, const float *, const float *, const float *, const float *, float *, float *, float *,
                                  Scratch &);

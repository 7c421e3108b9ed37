// GroupNorm of some groups of one image, with SiLU behind it where asked for, in bf16 (`uint16_t`) or fp32.
#pragma once
#include "products.h"

// Channels of whole groups of one image. Either the channels of a pixel lie side by side and its pixels `row` numbers apart (channels_last), or
// the pixels of a channel side by side and `row` apart from those of the next.
struct NormedPart {
  int64_t channels, pixels, in_group, row;
  bool channels_last;
  // Whether SiLU follows.
  bool activates;
  float epsilon;
  // Of every channel.
  const float *weight, *bias;
};

// Fills `to`, which lies in memory as `from` does, and of every group the mean and the reciprocal of the deviation.
template <typename Number>
void group_norm_forward(const NormedPart &part, const Number *from, Number *to, float *means, float *factors, Scratch &scratch);

// Fills `of_input`, which lies in memory as `from` and `gradient` do, and the gradients of weight and bias by this image alone.
template <typename Number>
void group_norm_backward(const NormedPart &part, const Number *from, const Number *gradient, const float *means, const float *factors,
                         Number *of_input, float *of_weight, float *of_bias, Scratch &scratch);

// Windows of three by three pixels in bf16: from rows of channels, one for each pixel, to the order of weights, which has the nine numbers of
// a channel side by side, and back.
#pragma once
#include <cstdint>

// Channels that are moved at once, and pixels of a window.
constexpr int64_t WINDOW_CHANNELS = 32, WINDOW_PIXELS = 9;

// `to` [32][9]: the numbers of 32 channels, `first` and those behind it, of nine pixels.
void bf16_window_of(const uint16_t *const *pixels, int64_t first, uint16_t *to);

// Adds `from` [32][9] to the sums of 32 channels of nine pixels.
void bf16_add_window(const uint16_t *from, float *const *sums);

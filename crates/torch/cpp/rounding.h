// Stochastic rounding of a part of a tensor.
#pragma once
#include <cstdint>

// Rounds `count` numbers from element `first` of a tensor on, a multiple of 4, by the random bits that `key` gives those elements.
void sd_round_part(const float *from, uint16_t *to, int64_t first, int64_t count, uint64_t key);

// Stochastic rounding of fp32 to bf16: up or down with the probabilities that make the mean right.
#include "shim.h"
#include <ATen/Parallel.h>
#include <cmath>
#include <cstring>

namespace {

// The output function of SplitMix64 (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195) on a counter.
inline uint64_t word(uint64_t key, uint64_t counter) {
  uint64_t z = key + (counter + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

} // namespace

extern "C" {

// target[i] = values[i], rounded down or up by 16 random bits that depend on `key` and i alone. Each word of 64 bits
// serves four elements, the lowest bits the first. Numbers that bf16 has, infinities and NaN stay what they are.
// `values` is fp32, `target` bf16, both contiguous and on the CPU.
int sd_round_stochastically(tensor target, tensor values, uint64_t key) {
  return sd_guard([&] {
    c10::NoGradGuard no_grad;
    TORCH_CHECK(values->scalar_type() == at::kFloat && target->scalar_type() == at::kBFloat16, "fp32 to bf16 only");
    TORCH_CHECK(values->is_contiguous() && target->is_contiguous() && values->numel() == target->numel(),
                "both tensors must be contiguous and of one size");
    TORCH_CHECK(values->is_cpu() && target->is_cpu(), "both tensors must lie in host memory");
    const float *from = values->const_data_ptr<float>();
    uint16_t *to = reinterpret_cast<uint16_t *>(target->mutable_data_ptr());
    const int64_t count = values->numel(), words = (count + 3) / 4;
    at::parallel_for(0, words, 16384, [&](int64_t begin, int64_t end) {
      for (int64_t w = begin; w < end; w++) {
        const uint64_t random = word(key, static_cast<uint64_t>(w));
        const int64_t last = std::min<int64_t>(count, 4 * w + 4);
        for (int64_t i = 4 * w; i < last; i++) {
          uint32_t bits;
          std::memcpy(&bits, from + i, 4);
          if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
            to[i] = static_cast<uint16_t>((bits >> 16) | 0x40u);
            continue;
          }
          bits += static_cast<uint32_t>((random >> (16 * (i - 4 * w))) & 0xFFFFu);
          to[i] = static_cast<uint16_t>(bits >> 16);
        }
      }
    });
    target->unsafeGetTensorImpl()->bump_version();
  });
}
}

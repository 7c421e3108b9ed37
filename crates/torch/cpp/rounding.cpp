// Stochastic rounding of fp32 to bf16: up or down with the probabilities that make the mean right.
#include "rounding.h"
#include "parallel.h"
#include "shim.h"
#include <ATen/Version.h>
#include <cstring>

namespace {

// Random words at a time: those and the numbers that they serve stay in the nearest cache.
constexpr int64_t WORDS = 256;

// The output function of SplitMix64 (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195) on a counter.
inline uint64_t word(uint64_t key, uint64_t counter) {
  uint64_t z = key + (counter + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// As `sd_round_part`. The sum of a number's bits and 16 random ones is cut off; what is no number stays none. Loops without a branch,
// which vectors do not have, in whatever instructions the caller is compiled for: integers are the same in all of them.
__attribute__((always_inline)) inline void round_part(const float *__restrict from, uint16_t *__restrict to, int64_t first,
                                                      int64_t count, uint64_t key) {
  uint64_t words[WORDS];
  uint16_t random[4 * WORDS];
  for (int64_t at = 0; at < count; at += 4 * WORDS) {
    const int64_t size = std::min(4 * WORDS, count - at), needed = (size + 3) / 4;
    const uint64_t counter = static_cast<uint64_t>((first + at) / 4);
    for (int64_t w = 0; w < needed; w++) words[w] = word(key, counter + static_cast<uint64_t>(w));
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the lowest bits of a word serve the first element");
    std::memcpy(random, words, static_cast<size_t>(needed) * sizeof(uint64_t));
    for (int64_t i = 0; i < size; i++) {
      uint32_t bits;
      std::memcpy(&bits, from + at + i, 4);
      const uint32_t rounded = (bits + random[i]) >> 16, no_number = (bits >> 16) | 0x40u;
      const bool is_number = static_cast<int32_t>(bits & 0x7FFFFFFFu) <= 0x7F800000;
      to[at + i] = static_cast<uint16_t>(is_number ? rounded : no_number);
    }
  }
}

using RoundPart = void (*)(const float *, uint16_t *, int64_t, int64_t, uint64_t);

void round_part_anywhere(const float *from, uint16_t *to, int64_t first, int64_t count, uint64_t key) {
  round_part(from, to, first, count, key);
}

#ifdef __x86_64__
__attribute__((target("avx2"))) void round_part_avx2(const float *from, uint16_t *to, int64_t first, int64_t count, uint64_t key) {
  round_part(from, to, first, count, key);
}

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void round_part_avx512(const float *from, uint16_t *to, int64_t first,
                                                                                    int64_t count, uint64_t key) {
  round_part(from, to, first, count, key);
}
#endif

// By the instructions that libtorch's own kernels were chosen for.
RoundPart chosen() {
#ifdef __x86_64__
  const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") return round_part_avx512;
  if (capability == "AVX2") return round_part_avx2;
#endif
  return round_part_anywhere;
}

} // namespace

void sd_round_part(const float *from, uint16_t *to, int64_t first, int64_t count, uint64_t key) {
  static const RoundPart round = chosen();
  round(from, to, first, count, key);
}

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
    sd_parallel_for(values->numel(), 32768, [&](int64_t begin, int64_t end) {
      sd_round_part(from + begin, to + begin, begin, end - begin, key);
    });
    target->unsafeGetTensorImpl()->bump_version();
  });
}
}

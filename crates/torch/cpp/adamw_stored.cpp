// One AdamW step over numbers that are kept in bf16: a part of each tensor at a time is unpacked, updated and rounded back, so that
// fp32 is there within a core's cache only.
#include "parallel.h"
#include "rounding.h"
#include "shim.h"
#include <ATen/core/LegacyTypeDispatch.h>
#include <cstring>

namespace {

// Numbers of a part: four tensors of it in fp32 fit a core's cache. A multiple of every vector's length, as libtorch's kernel takes
// what is left at a tensor's end in other operations than the rest.
constexpr int64_t PART = 16384;

float *floats(void *data) { return static_cast<float *>(data); }
uint16_t *halves(void *data) { return static_cast<uint16_t *>(data); }

void widen(const uint16_t *__restrict from, float *__restrict to, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, 4);
  }
}

inline float widened(uint16_t number) {
  const uint32_t bits = static_cast<uint32_t>(number) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// To the nearest, of two that are as near the even one, as c10's BFloat16.
inline uint16_t nearest(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const bool is_number = static_cast<int32_t>(bits & 0x7FFFFFFFu) <= 0x7F800000;
  return static_cast<uint16_t>(is_number ? rounded : 0x7FC0u);
}

void round_to_nearest(const float *__restrict from, uint16_t *__restrict to, int64_t count) {
  for (int64_t i = 0; i < count; i++) to[i] = nearest(from[i]);
}

// Kahan's summation: what bf16 lacks is kept beside it.
void add_compensation(const uint16_t *__restrict compensation, float *__restrict numbers, int64_t count) {
  for (int64_t i = 0; i < count; i++) numbers[i] += widened(compensation[i]);
}

void round_with_compensation(const float *__restrict from, uint16_t *__restrict to, uint16_t *__restrict compensation,
                             int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    to[i] = nearest(from[i]);
    compensation[i] = nearest(from[i] - widened(to[i]));
  }
}

// A tensor in fp32, which is worked on in place, or in bf16.
struct Operand {
  void *data;
  bool is_narrow;

  explicit Operand(const at::Tensor &tensor, int64_t count)
      : data(tensor.data_ptr()), is_narrow(tensor.scalar_type() == at::kBFloat16) {
    TORCH_CHECK(is_narrow || tensor.scalar_type() == at::kFloat, "adamw_stored: fp32 and bf16 only");
    TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous() && tensor.numel() == count,
                "adamw_stored: tensors must lie in host memory, contiguous and of one size");
  }

  // Numbers from `begin` on in fp32, in `scratch` where they are not.
  float *unpacked(int64_t begin, int64_t count, float *scratch) const {
    if (!is_narrow) return floats(data) + begin;
    widen(halves(data) + begin, scratch, count);
    return scratch;
  }

  // Puts them back, rounded by chance.
  void pack(const float *numbers, int64_t begin, int64_t count, uint64_t key) const {
    if (is_narrow) sd_round_part(numbers, halves(data) + begin, begin, count, key);
  }
};

} // namespace

extern "C" {

// One step of libtorch's fused kernel over each part. `keys`: of the roundings of the parameter, of `exp_avg` and of `exp_avg_sq`.
// The parameter is rounded by chance, or, where `by_chance` is 0, to the nearest; what that lacks is in `compensation`, which may be
// null. `step` is what the kernel has for it: one number in fp32, the steps that were done before this one.
int sd_adamw_stored(tensor parameter, tensor compensation, tensor gradient, tensor exp_avg, tensor exp_avg_sq, tensor step,
                    const uint64_t *keys, int by_chance, double lr, double beta1, double beta2, double weight_decay, double eps) {
  return sd_guard([&] {
    c10::NoGradGuard no_grad;
    const int64_t count = parameter->numel();
    const Operand weights(*parameter, count), gradients(*gradient, count);
    const Operand first(*exp_avg, count), second(*exp_avg_sq, count);
    uint16_t *lacking = nullptr;
    if (compensation) {
      const Operand of_weights(*compensation, count);
      TORCH_CHECK(of_weights.is_narrow && weights.is_narrow && !by_chance, "adamw_stored: compensation is of bf16 to the nearest");
      lacking = halves(of_weights.data);
    }
    step->add_(1);
    sd_parallel_for(count, PART, [&](int64_t from, int64_t to) {
      // Guards are those of a thread. Nothing here is recorded, so the kernel is called without going through autograd.
      at::AutoDispatchBelowADInplaceOrView guard;
      const int64_t most = std::min(PART, to - from);
      const at::Tensor scratch = at::empty({4 * most}, at::kFloat);
      float *const room = scratch.mutable_data_ptr<float>();
      for (int64_t begin = from; begin < to; begin += PART) {
        const int64_t size = std::min(PART, to - begin);
        float *const p = weights.unpacked(begin, size, room);
        if (lacking) add_compensation(lacking + begin, p, size);
        float *const g = gradients.unpacked(begin, size, room + most);
        float *const m = first.unpacked(begin, size, room + 2 * most);
        float *const v = second.unpacked(begin, size, room + 3 * most);
        const auto part = [size](float *numbers) { return at::from_blob(numbers, {size}, at::kFloat); };
        at::_fused_adamw_({part(p)}, {part(g)}, {part(m)}, {part(v)}, {}, {*step}, lr, beta1, beta2, weight_decay, eps, false, false,
                          std::nullopt, std::nullopt);
        if (by_chance) {
          weights.pack(p, begin, size, keys[0]);
        } else if (lacking) {
          round_with_compensation(p, halves(weights.data) + begin, lacking + begin, size);
        } else if (weights.is_narrow) {
          round_to_nearest(p, halves(weights.data) + begin, size);
        }
        first.pack(m, begin, size, keys[1]);
        second.pack(v, begin, size, keys[2]);
      }
    });
    for (auto written : {parameter, compensation, exp_avg, exp_avg_sq}) {
      if (written) written->unsafeGetTensorImpl()->bump_version();
    }
  });
}
}

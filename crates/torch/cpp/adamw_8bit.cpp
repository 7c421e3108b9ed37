// One AdamW step whose moments are kept in 8 bits by blocks: read, updated and written back a block at a time.
#include "parallel.h"
#include "shim.h"
#include <cfloat>
#include <cmath>
#include <cstring>

namespace {

constexpr int64_t BLOCK = 256;

// The 256 rising values of a code; what lies half-way between each two, and infinity; and how many middles are below all floats
// with the same first 16 bits, which no more than one middle lies among.
struct Map {
  const float *values, *middles;
  const uint8_t *first;

  // The number of middles below `quotient`: the nearest value, of two that are as near the lower one. NaN gives the last.
  uint8_t code(float quotient) const {
    uint32_t bits;
    std::memcpy(&bits, &quotient, 4);
    const int code = first[bits >> 16];
    return static_cast<uint8_t>(code + (middles[code] < quotient));
  }
};

// Codes of a block of numbers, and the largest absolute one, by which they are divided.
void write(const float *numbers, int64_t count, const Map &map, uint8_t *codes, float *largest) {
  float most = 0, not_a_number = 0;
  for (int64_t i = 0; i < count; i++) {
    const float size = std::fabs(numbers[i]);
    most = size > most ? size : most;
    not_a_number += size != size;
  }
  if (not_a_number > 0) most = NAN;
  const float factor = 1.0f / (most < FLT_MIN ? FLT_MIN : most);
  for (int64_t i = 0; i < count; i++) codes[i] = map.code(numbers[i] * factor);
  *largest = most;
}

void check(const at::Tensor &tensor, at::ScalarType type, int64_t numel) {
  TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == type && tensor.numel() == numel,
              "adamw_8bit: tensors must lie in host memory, contiguous and of matching sizes");
}

// Values, middles and beginnings of the search.
Map map_of(const tensor *tensors) {
  check(*tensors[0], at::kFloat, 256);
  check(*tensors[1], at::kFloat, 256);
  check(*tensors[2], at::kByte, 1 << 16);
  return {tensors[0]->const_data_ptr<float>(), tensors[1]->const_data_ptr<float>(), tensors[2]->const_data_ptr<uint8_t>()};
}

} // namespace

extern "C" {

// `numbers`: beta1, 1 - beta1, beta2, 1 - beta2, 1 - lr * weight_decay, sqrt(1 - beta2^t), eps, lr / (1 - beta1^t).
// Each product and sum is rounded to fp32 as tensor operations one after the other would.
int sd_adamw_8bit(tensor parameter, tensor gradient, tensor codes1, tensor largest1, const tensor *map1,
                  tensor codes2, tensor largest2, const tensor *map2, const float *numbers) {
  return sd_guard([&] {
    c10::NoGradGuard no_grad;
    const int64_t count = parameter->numel(), blocks = (count + BLOCK - 1) / BLOCK;
    check(*parameter, at::kFloat, count);
    check(*gradient, at::kFloat, count);
    for (auto codes : {codes1, codes2}) check(*codes, at::kByte, count);
    for (auto largest : {largest1, largest2}) check(*largest, at::kFloat, blocks);
    const Map first = map_of(map1), second = map_of(map2);
    float *p = parameter->mutable_data_ptr<float>();
    const float *g = gradient->const_data_ptr<float>();
    uint8_t *c1 = codes1->mutable_data_ptr<uint8_t>(), *c2 = codes2->mutable_data_ptr<uint8_t>();
    float *l1 = largest1->mutable_data_ptr<float>(), *l2 = largest2->mutable_data_ptr<float>();
    const float beta1 = numbers[0], rest1 = numbers[1], beta2 = numbers[2], rest2 = numbers[3], decay = numbers[4],
                root_correction = numbers[5], eps = numbers[6], rate = numbers[7];
    sd_parallel_for(blocks, 16, [&](int64_t begin, int64_t end) {
      float m[BLOCK], v[BLOCK];
      for (int64_t block = begin; block < end; block++) {
        const int64_t at = block * BLOCK, size = std::min(BLOCK, count - at);
        const float scale1 = l1[block], scale2 = l2[block];
        for (int64_t i = 0; i < size; i++) {
          m[i] = first.values[c1[at + i]] * scale1;
          v[i] = second.values[c2[at + i]] * scale2;
        }
        for (int64_t i = 0; i < size; i++) {
          const float gradient = g[at + i];
          m[i] = m[i] * beta1 + gradient * rest1;
          v[i] = v[i] * beta2 + gradient * gradient * rest2;
          const float root = std::sqrt(v[i]) / root_correction + eps;
          p[at + i] = p[at + i] * decay - m[i] / root * rate;
        }
        write(m, size, first, c1 + at, l1 + block);
        write(v, size, second, c2 + at, l2 + block);
      }
    });
    for (auto written : {parameter, codes1, largest1, codes2, largest2}) written->unsafeGetTensorImpl()->bump_version();
  });
}
}

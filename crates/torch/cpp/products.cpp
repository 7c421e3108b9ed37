// What products need besides their kernels: whether there are any, and memory.
#include "products.h"
#include <ATen/Version.h>

bool fp32_products_are_supported() {
#if defined(__x86_64__)
  static const bool are_supported = at::get_cpu_capability() == "AVX512";
  return are_supported;
#else
  return false;
#endif
}

bool bf16_products_are_supported() {
#if defined(__x86_64__)
  static const bool are_supported = fp32_products_are_supported() && __builtin_cpu_supports("avx512bf16");
  return are_supported;
#else
  return false;
#endif
}

void *Scratch::bytes(int64_t count) {
  constexpr int64_t LINE = 64;
  if (used == blocks.size()) blocks.push_back({nullptr, 0});
  auto &block = blocks[used++];
  if (block.size < count + LINE) block = {std::unique_ptr<char[]>(new char[count + LINE]), count + LINE};
  const auto address = reinterpret_cast<uintptr_t>(block.bytes.get());
  return reinterpret_cast<void *>((address + LINE - 1) / LINE * LINE);
}

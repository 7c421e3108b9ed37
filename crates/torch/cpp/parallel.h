// A loop over libtorch's threads.
#pragma once
#include <ATen/ATen.h>
#include <ATen/TensorIterator.h>
#include <algorithm>

// Calls `body(begin, end)` for parts of 0..count that begin at multiples of `grain`, on several threads at once where there is more
// than one. `at::parallel_for` is a template of OpenMP's pragmas, which without -fopenmp is a plain loop; and -fopenmp may link another
// OpenMP than the one libtorch brings along, with threads of its own. The loop of an iterator is compiled within libtorch.
template <typename Body> void sd_parallel_for(int64_t count, int64_t grain, const Body &body) {
  const int64_t tasks = (count + grain - 1) / grain;
  if (tasks <= 1) {
    if (tasks == 1) body(int64_t{0}, count);
    return;
  }
  // Only the addresses of its numbers are looked at.
  at::Tensor numbers = at::empty({tasks}, at::kByte);
  const char *const begin = static_cast<const char *>(numbers.const_data_ptr());
  auto iterator = at::TensorIterator::borrowing_nullary_op(numbers);
  iterator.for_each(
      [&](char **data, const int64_t *, int64_t size) {
        const int64_t first = data[0] - begin;
        body(first * grain, std::min(count, (first + size) * grain));
      },
      1);
}

// What process_group.cpp hands out as pointers, and what cuda/process_group_nccl.cpp, in a shared object of its own, adds to it.
#pragma once
#include <chrono>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/version.h>

// The stand-ins for headers that the wheel lacks are right for this version; those of another have to be looked at first.
static_assert(TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 11);

namespace sd {

struct Store {
  c10::intrusive_ptr<c10d::Store> store;
};

// To be raised with every change to these: the other object may be from an older build.
constexpr int layout = 1;

struct Group {
  int made_with;
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  // How long an operation may take.
  std::chrono::milliseconds timeout;
  // Of tensors on a GPU; null where Gloo alone is there.
  c10::intrusive_ptr<c10d::Backend> nccl;
};

} // namespace sd

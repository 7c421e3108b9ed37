// NCCL for the tensors on a GPU of a group that exists. libsdtrain_nccl.so, which scripts/build_nccl makes of this file, is opened after
// libtorch_cuda.so, where ProcessGroupNCCL is. Compiled and opened without a GPU; not yet run on one.
#define USE_C10D_NCCL
#include "../cpp/process_group.h"
#include "../cpp/shim.h"
#include <c10/util/env.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

// Options and group are made here and used in libtorch_cuda.so. What they hold depends on nccl.h, which must be the one that libtorch was
// built with; the sizes are those that libtorch_cuda.so of 2.11.0 asks memory for (in `ProcessGroupNCCL::shrink`).
static_assert(NCCL_MAJOR == 2 && NCCL_MINOR == 28);
static_assert(sizeof(c10d::ProcessGroupNCCL) == 1112 && sizeof(c10d::ProcessGroupNCCL::Options) == 248);

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Of this object alone: the program's own is not to be seen from here.
std::string &sd_error_slot() {
  thread_local std::string message;
  return message;
}

EXPORTED const char *sd_nccl_last_error() { return sd_error_slot().c_str(); }

// All ranks call it, and each waits for the others. `device`: the number of this rank's GPU.
EXPORTED int sd_group_add_nccl(void *group, void *store, int device) {
  return sd_guard([&] {
    auto &ranks = *static_cast<sd::Group *>(group);
    TORCH_CHECK(ranks.made_with == sd::layout, "libsdtrain_nccl.so and the program are of different builds");
    int version = 0;
    TORCH_CHECK(ncclGetVersion(&version) == ncclSuccess, "NCCL does not tell its version");
    TORCH_CHECK(version / 100 == NCCL_VERSION_CODE / 100, "the NCCL that is loaded calls itself ", version,
                ", and libsdtrain_nccl.so was built for ", NCCL_VERSION_CODE);
    // When an operation fails or lasts too long, NCCL's watchdog is to free the GPU from it and no more. By its default it ends the
    // process with SIGABRT, before the ranks have found out whose fault it was.
    c10::utils::set_env("TORCH_NCCL_ASYNC_ERROR_HANDLING", std::to_string(c10d::CleanUpOnly).c_str(),
                        /*overwrite=*/false);
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = ranks.timeout;
    c10::intrusive_ptr<c10d::Store> meeting =
        c10::make_intrusive<c10d::PrefixStore>("nccl", static_cast<sd::Store *>(store)->store);
    auto nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(std::move(meeting), ranks.group->getRank(),
                                                            ranks.group->getSize(), std::move(options));
    // Now, when all ranks are known to be here, and not within the first step.
    nccl->eagerConnectSingleDevice(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
    ranks.group->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL, nccl);
    ranks.nccl = nccl;
  });
}

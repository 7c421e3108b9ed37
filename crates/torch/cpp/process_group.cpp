// torch.distributed's C++ core: the store that ranks meet at, a group of them over Gloo, and the reducer of DistributedDataParallel.
#define USE_C10D_GLOO
#include "process_group.h"
#include "shim.h"
#include <cstdint>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

using sd::Group;
using sd::Store;

namespace {

// Gloo's `wait` waits. NCCL's lets the GPU wait and the thread go on, and nobody would hear in time of an operation that has failed or
// stands still: here the thread waits as well. It looks often, since a step may have dozens of operations.
void finish(c10d::Work &work, bool is_on_gpu, const Group &group) {
  if (is_on_gpu) {
    const auto until = std::chrono::steady_clock::now() + group.timeout;
    while (!work.isCompleted()) {
      TORCH_CHECK(std::chrono::steady_clock::now() < until, "NCCL has not finished an operation within ",
                  group.timeout.count(), " ms");
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    if (work.exception()) std::rethrow_exception(work.exception());
  }
  work.wait();
}

// Operations on a GPU that a reducer has begun, and nobody has waited for.
using Begun = std::vector<c10::intrusive_ptr<c10d::Work>>;

// Adds gradients up. c10d's own way divides by the number of ranks, which our losses know already.
class Sum : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  Sum(c10::intrusive_ptr<c10d::ProcessGroup> ranks, std::shared_ptr<Begun> begun)
      : CppCommHookInterface(std::move(ranks)), begun_(std::move(begun)) {}
  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket &bucket) override {
    std::vector<at::Tensor> tensors = {bucket.getBufferRef()};
    auto work = state_->allreduce(tensors);
    if (tensors[0].is_cuda()) begun_->push_back(work);
    return work->getFuture();
  }

 private:
  std::shared_ptr<Begun> begun_;
};

struct Reducer {
  Group ranks;
  std::shared_ptr<Begun> begun = std::make_shared<Begun>();
  std::unique_ptr<c10d::Reducer> reducer;
};

std::vector<uint8_t> bytes(const uint8_t *data, size_t length) { return {data, data + length}; }

} // namespace

using take_bytes = void (*)(void *target, const uint8_t *data, size_t length);

extern "C" {

int sd_store_connect(const char *host, uint16_t port, int is_host, int64_t timeout_ms, const char *prefix, void **store) {
  return sd_guard([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_host != 0;
    // Who is missing is asked afterwards, by name.
    options.waitWorkers = false;
    options.multiTenant = true;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    c10::intrusive_ptr<c10d::Store> tcp = c10::make_intrusive<c10d::TCPStore>(host, options);
    *store = new Store{c10::make_intrusive<c10d::PrefixStore>(prefix, std::move(tcp))};
  });
}

void sd_store_free(void *store) { delete static_cast<Store *>(store); }

int sd_store_set(void *store, const char *key, const uint8_t *data, size_t length) {
  return sd_guard([&] { static_cast<Store *>(store)->store->set(key, bytes(data, length)); });
}

// Hands the value to `take`, after it was waited for as long as the store's timeout.
int sd_store_get(void *store, const char *key, void *target, take_bytes take) {
  return sd_guard([&] {
    const auto value = static_cast<Store *>(store)->store->get(key);
    take(target, value.data(), value.size());
  });
}

int sd_store_has(void *store, const char *key, int *found) {
  return sd_guard([&] { *found = static_cast<Store *>(store)->store->check({key}); });
}

int sd_store_add(void *store, const char *key, int64_t amount, int64_t *sum) {
  return sd_guard([&] { *sum = static_cast<Store *>(store)->store->add(key, amount); });
}

// `host` is this rank's address that others reach it at; null: what its name resolves to.
int sd_group_gloo(void *store, int rank, int size, int64_t timeout_ms, const char *host, void **group) {
  return sd_guard([&] {
    const auto &meeting = static_cast<Store *>(store)->store;
    const auto timeout = std::chrono::milliseconds(timeout_ms);
    // The default looks at GLOO_SOCKET_IFNAME first.
    auto options = host ? c10d::ProcessGroupGloo::Options::create(timeout)
                        : c10d::ProcessGroupGloo::Options::create_default(timeout);
    if (host) options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(host));
    auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(meeting, rank, size, options);
    auto all = c10::make_intrusive<c10d::ProcessGroup>(meeting, rank, size);
    all->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO, gloo);
    all->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
    *group = new Group{sd::layout, std::move(all), std::chrono::milliseconds(timeout_ms), {}};
  });
}

void sd_group_free(void *group) {
  // NCCL wants to be told of its end. Every operation was waited for, and no other rank is: it may have gone. There is nobody to hear of
  // an error.
  (void)sd_guard([&] {
    const std::unique_ptr<Group> owned(static_cast<Group *>(group));
    if (owned->nccl) owned->nccl->abort();
  });
}

// In place. `largest`: the largest of each number in place of their sum.
int sd_group_all_reduce(void *group, tensor values, int largest) {
  return sd_guard([&] {
    std::vector<at::Tensor> tensors = {*values};
    c10d::AllreduceOptions options;
    if (largest) options.reduceOp = c10d::ReduceOp::MAX;
    const auto &ranks = *static_cast<Group *>(group);
    finish(*ranks.group->allreduce(tensors, options), values->is_cuda(), ranks);
  });
}

int sd_group_broadcast(void *group, tensor values, int root) {
  return sd_guard([&] {
    std::vector<at::Tensor> tensors = {*values};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    const auto &ranks = *static_cast<Group *>(group);
    finish(*ranks.group->broadcast(tensors, options), values->is_cuda(), ranks);
  });
}

// `all` has `size` times the numbers of `own`, those of rank 0 first.
int sd_group_all_gather(void *group, tensor all, tensor own) {
  return sd_guard([&] {
    // Gloo asks for one dimension each.
    auto whole = all->view(-1), part = own->view(-1);
    const auto &ranks = *static_cast<Group *>(group);
    finish(*ranks.group->_allgather_base(whole, part), all->is_cuda(), ranks);
  });
}

// `own` gets this rank's part, by number, of the sum of every rank's `all`.
int sd_group_reduce_scatter(void *group, tensor own, tensor all) {
  return sd_guard([&] {
    auto part = own->view(-1), whole = all->view(-1);
    const auto &ranks = *static_cast<Group *>(group);
    finish(*ranks.group->_reduce_scatter_base(part, whole), all->is_cuda(), ranks);
  });
}

// Every one of `parameters` must get a gradient in each backward pass that is waited for; they come in the order of the list. All ranks
// make theirs together.
int sd_reducer_new(void *group, const tensor *parameters, int count, void **reducer) {
  return sd_guard([&] {
    auto made = std::make_unique<Reducer>(Reducer{*static_cast<Group *>(group)});
    const auto &ranks = made->ranks.group;
    std::vector<at::Tensor> tensors;
    for (int i = 0; i < count; i++) tensors.push_back(*parameters[i]);
    auto [buckets, limits] = c10d::compute_bucket_assignment_by_size(
        tensors, {c10d::kDefaultFirstBucketBytes, c10d::kDefaultBucketBytesCap});
    std::vector<bool> expect_sparse(tensors.size(), false);
    made->reducer = std::make_unique<c10d::Reducer>(
        tensors, buckets, ranks, expect_sparse, c10d::kDefaultBucketBytesCap, /*find_unused_parameters=*/false,
        /*gradient_as_bucket_view=*/true, std::unordered_map<size_t, std::string>(), c10d::kDefaultFirstBucketBytes,
        /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>());
    made->reducer->register_comm_hook(std::make_unique<Sum>(ranks, made->begun));
    // It would fill its final buckets after the first pass, by the order in which gradients came in it, and add up in another order
    // from then on. Here the order is known: every pass has the same buckets.
    made->reducer->push_rebuilt_params_for_all_indices();
    TORCH_CHECK(made->reducer->rebuild_buckets(), "c10d does not take the order of the gradients");
    *reducer = made.release();
  });
}

void sd_reducer_free(void *reducer) {
  // Its destructor may throw; there is nobody left to be told.
  (void)sd_guard([&] { delete static_cast<Reducer *>(reducer); });
}

// Before the forward pass whose backward pass is to add up what was accumulated.
int sd_reducer_begin(void *reducer) {
  return sd_guard([&] {
    auto &all = *static_cast<Reducer *>(reducer);
    all.reducer->check_finalized();
    all.begun->clear();
    all.reducer->prepare_for_forward();
    all.reducer->prepare_for_backward({});
  });
}

// After that backward pass, which on a CPU has waited for the sums itself: that no parameter was left out, and that the sums are there.
int sd_reducer_end(void *reducer) {
  return sd_guard([&] {
    auto &all = *static_cast<Reducer *>(reducer);
    all.reducer->check_finalized();
    for (const auto &work : *all.begun) finish(*work, /*is_on_gpu=*/true, all.ranks);
    all.begun->clear();
  });
}
}

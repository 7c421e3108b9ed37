// The memory of large tensors on the host: what is freed is kept for a tensor of the same size.
#include "shim.h"
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <deque>
#include <list>
#include <mutex>
#include <sys/mman.h>
#include <unordered_map>

namespace {

// Smaller tensors are malloc's.
constexpr size_t LARGE = 1 << 20;
constexpr size_t PAGE = 4 << 10;
constexpr size_t LARGE_PAGE = 2 << 20;

struct Block {
  void *memory;
  size_t size;
};

// A step of training makes and frees the same sizes again and again, and a block that comes from the system costs the clearing of its
// pages each time. There are never more bytes in use and kept than were in use at once: what is kept takes no memory that
// would not have been needed anyway, and the oldest makes room.
class Blocks {
public:
  // At least `bytes` bytes at the beginning of a page; null where the system has none.
  void *take(size_t bytes) {
    const size_t size = (bytes + PAGE - 1) / PAGE * PAGE;
    const std::lock_guard<std::mutex> lock(mutex_);
    void *memory = reuse(size);
    if (!memory) {
      const size_t most = std::max(most_in_use_, in_use_ + size);
      while (kept_ && in_use_ + kept_ + size > most) give_oldest_back();
      memory = map(size);
      if (!memory && kept_) {
        // The process may not have as much as it once had.
        while (kept_) give_oldest_back();
        memory = map(size);
      }
      if (!memory) return nullptr;
    }
    sizes_.emplace(memory, size);
    in_use_ += size;
    most_in_use_ = std::max(most_in_use_, in_use_);
    return memory;
  }

  // Whether `memory` came from `take`; then it is kept.
  bool keep(void *memory) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = sizes_.find(memory);
    if (found == sizes_.end()) return false;
    const size_t size = found->second;
    sizes_.erase(found);
    in_use_ -= size;
    kept_ += size;
    by_age_.push_back({memory, size});
    by_size_[size].push_back(std::prev(by_age_.end()));
    return true;
  }

  // Nothing is kept any longer, and how much was in use before counts no more.
  void give_back() {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (kept_) give_oldest_back();
    most_in_use_ = in_use_;
  }

private:
  using Ages = std::list<Block>;

  // The block of this size that was freed last: the caches may still have it.
  void *reuse(size_t size) {
    const auto found = by_size_.find(size);
    if (found == by_size_.end()) return nullptr;
    const auto block = found->second.back();
    found->second.pop_back();
    if (found->second.empty()) by_size_.erase(found);
    void *memory = block->memory;
    by_age_.erase(block);
    kept_ -= size;
    return memory;
  }

  void give_oldest_back() {
    const Block block = by_age_.front();
    // The oldest of all is the oldest of its size.
    const auto found = by_size_.find(block.size);
    found->second.pop_front();
    if (found->second.empty()) by_size_.erase(found);
    by_age_.pop_front();
    kept_ -= block.size;
    munmap(block.memory, block.size);
  }

  static void *map(size_t size) {
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
    // Whole pages of 2 MiB inside: they are written to for the first time in half the time, and read in two thirds. A system without
    // such pages, or without one to spare, goes on with small ones.
    const auto begin = reinterpret_cast<uintptr_t>(memory);
    const uintptr_t first = (begin + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE, end = (begin + size) / LARGE_PAGE * LARGE_PAGE;
    if (first < end) madvise(reinterpret_cast<void *>(first), end - first, MADV_HUGEPAGE);
#endif
    return memory;
  }

  std::mutex mutex_;
  std::unordered_map<void *, size_t> sizes_; // of what is in use
  Ages by_age_;                              // what is kept, the oldest first
  std::unordered_map<size_t, std::deque<Ages::iterator>> by_size_;
  size_t in_use_ = 0, kept_ = 0, most_in_use_ = 0;
};

// Never destroyed: tensors of other static objects may outlive it.
Blocks &blocks() {
  static auto *blocks = new Blocks;
  return *blocks;
}

void release(void *memory) {
  if (memory && !blocks().keep(memory)) c10::free_cpu(memory);
}

struct BlockAllocator final : public c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void *memory = bytes < LARGE ? c10::alloc_cpu(bytes) : blocks().take(bytes);
    TORCH_CHECK(memory || !bytes, "can't allocate memory: you tried to allocate ", bytes, " bytes");
    return {memory, memory, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void *target, const void *source, size_t bytes) const override { default_copy_data(target, source, bytes); }
};

} // namespace

extern "C" {

// From here on large tensors on the host lie in blocks; those that are there already stay where they are.
int sd_use_block_allocator() {
  return sd_guard([] {
    static auto *allocator = new BlockAllocator;
    c10::SetCPUAllocator(allocator, /*priority=*/200);
  });
}

void sd_return_freed_blocks() { blocks().give_back(); }
}

// The memory of large tensors on the host: what is freed is kept for the next ones, and no more is held than was in use at once.
#include "shim.h"
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <map>
#include <mutex>
#include <set>
#include <sys/mman.h>
#include <unordered_map>

namespace {

// Smaller tensors are malloc's.
constexpr size_t LARGE = 1 << 20;
constexpr size_t PAGE = 4 << 10;
// What is asked of the system at a time, at least; it costs nothing before it is written to.
constexpr size_t REGION = 256 << 20;
// What the system's large pages are multiples of.
constexpr size_t LARGE_PAGE = 2 << 20;

using Address = uintptr_t;

constexpr size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Free memory: neighbours are joined.
class Ranges {
public:
  void add(Address address, size_t size) {
    bytes_ += size;
    auto next = by_address_.lower_bound(address);
    if (next != by_address_.end() && next->first == address + size) {
      size += next->second;
      next = remove(next);
    }
    if (next != by_address_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == address) {
        address = before->first;
        size += before->second;
        remove(before);
      }
    }
    insert(address, size);
  }

  // The beginning of the smallest range that has `size` bytes; 0 where none has.
  Address take(size_t size) {
    const auto found = by_size_.lower_bound({size, 0});
    if (found == by_size_.end()) return 0;
    const auto [whole, address] = *found;
    remove(by_address_.find(address));
    bytes_ -= size;
    if (whole > size) insert(address + size, whole - size);
    return address;
  }

  // The end of the largest range, at most `size` bytes of it.
  std::pair<Address, size_t> cut(size_t size) {
    const auto [whole, address] = *by_size_.rbegin();
    remove(by_address_.find(address));
    size = std::min(size, whole);
    bytes_ -= size;
    if (whole > size) insert(address, whole - size);
    return {address + whole - size, size};
  }

  size_t bytes() const { return bytes_; }

  // Gives all of it back to the system, addresses and all.
  void unmap() {
    for (const auto &[address, size] : by_address_) munmap(reinterpret_cast<void *>(address), size);
    by_address_.clear();
    by_size_.clear();
    bytes_ = 0;
  }

private:
  using ByAddress = std::map<Address, size_t>;

  void insert(Address address, size_t size) {
    by_address_.emplace(address, size);
    by_size_.emplace(size, address);
  }

  ByAddress::iterator remove(ByAddress::iterator range) {
    by_size_.erase({range->second, range->first});
    return by_address_.erase(range);
  }

  ByAddress by_address_;
  std::set<std::pair<size_t, Address>> by_size_;
  size_t bytes_ = 0;
};

// A step of training makes and frees the same tensors again and again, and memory that comes from the system costs the clearing of its
// pages each time. What is freed keeps its pages as long as no more of them are held than were in use at once: so nothing is
// held that would not have been needed anyway, and a step that has run once finds all it needs.
class Blocks {
public:
  // At least `bytes` bytes at the beginning of a page; null where the system has none.
  void *take(size_t bytes) {
    const size_t size = round_up(bytes, PAGE);
    const std::lock_guard<std::mutex> lock(mutex_);
    Address address = warm_.take(size);
    if (!address) {
      const size_t most = std::max(most_in_use_, in_use_ + size);
      const size_t held = in_use_ + warm_.bytes() + size;
      if (held > most) cool(held - most);
      address = cold_.take(size);
    }
    if (!address && map(size)) address = cold_.take(size);
    if (!address) return nullptr;
    void *memory = reinterpret_cast<void *>(address);
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
    warm_.add(reinterpret_cast<Address>(memory), size);
    return true;
  }

  // Nothing is kept any longer, and how much was in use before counts no more.
  void give_back() {
    const std::lock_guard<std::mutex> lock(mutex_);
    cool(warm_.bytes());
    most_in_use_ = in_use_;
  }

private:
  // Gives the pages of so many free bytes back; their addresses stay.
  void cool(size_t size) {
    while (size && warm_.bytes()) {
      const auto [address, part] = warm_.cut(size);
      madvise(reinterpret_cast<void *>(address), part, MADV_DONTNEED);
      cold_.add(address, part);
      size -= part;
    }
  }

  // A region or, where the process may not have so much (`ulimit -v`, `ulimit -d`), just what is needed, in the place of all that is free.
  bool map(size_t size) {
    if (map_region(std::max(REGION, round_up(size, LARGE_PAGE)))) return true;
    cold_.unmap();
    warm_.unmap();
    return map_region(size);
  }

  bool map_region(size_t region) {
    void *memory = mmap(nullptr, region, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
#ifdef MADV_HUGEPAGE
    // Weights are written to for the first time in half the time, and read in two thirds. A system without such pages, or
    // without one to spare, goes on with small ones.
    madvise(memory, region, MADV_HUGEPAGE);
#endif
    cold_.add(reinterpret_cast<Address>(memory), region);
    return true;
  }

  std::mutex mutex_;
  std::unordered_map<void *, size_t> sizes_; // of what is in use
  Ranges warm_, cold_;                       // free with pages, and without
  size_t in_use_ = 0, most_in_use_ = 0;
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

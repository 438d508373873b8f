// pool: caching free lists for host memory.
#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include <sys/mman.h>

#include "engine/cpu/backend.h"

namespace vvtq::engine::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLarge = size_t{16} << 20;     // from here on a block is worth asking what is left
constexpr size_t kReserve = size_t{256} << 20;  // for all that is not a tensor

/// Sizes are rounded up to one of eight steps between powers of two, so that blocks find new users.
size_t block_size(size_t bytes) {
    if (bytes <= 512) return std::max(kAlignment, std::bit_ceil(bytes));
    const size_t step = std::max(kAlignment, std::bit_floor(bytes - 1) / 8);
    return (bytes + step - 1) / step * step;
}

class HostPool final : public Pool {
  public:
    void* allocate(size_t bytes) override {
        const size_t size = block_size(bytes);
        void* memory = nullptr;
        {
            std::lock_guard lock(mutex_);
            std::vector<void*>& list = free_[size];
            if (!list.empty()) {
                memory = list.back();
                list.pop_back();
            }
        }
        if (memory == nullptr) memory = from_system(size);
        {
            std::lock_guard lock(mutex_);
            in_use_ += size;
            peak_ = std::max(peak_, in_use_);
        }
#ifndef NDEBUG
        std::memset(memory, 0xFF, size);
#endif
        return memory;
    }

    void release(void* memory, size_t bytes) noexcept override {
        const size_t size = block_size(bytes);
        std::lock_guard lock(mutex_);
        in_use_ -= size;
        free_[size].push_back(memory);
    }

    void trim() override {
        std::lock_guard lock(mutex_);
        for (auto& [size, list] : free_) {
            for (void* memory : list) std::free(memory);
            list.clear();
        }
    }

    size_t in_use() const override {
        std::lock_guard lock(mutex_);
        return in_use_;
    }
    size_t peak() const override {
        std::lock_guard lock(mutex_);
        return peak_;
    }
    void reset_peak() override {
        std::lock_guard lock(mutex_);
        peak_ = in_use_;
    }

  private:
    /// Throws OutOfMemory before the machine runs out: Linux hands out more than there is, and then kills.
    void* from_system(size_t size) {
        if (size >= kLarge && available_memory() < size + kReserve) {
            trim();
            const size_t left = available_memory();
            if (left < size + kReserve) refuse(size, left);
        }
        const bool huge = size >= 2 * kHugePage;
        const size_t alignment = huge ? kHugePage : kAlignment;
        void* memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
        if (memory == nullptr) refuse(size, available_memory());
        if (huge) madvise(memory, size, MADV_HUGEPAGE);  // a hint: failing is harmless
        return memory;
    }
    [[noreturn]] static void refuse(size_t size, size_t left) {
        throw OutOfMemory(
            concat("out of memory: ", size >> 20, " MiB were asked for, ", left >> 20, " MiB are left"));
    }

    mutable std::mutex mutex_;
    std::map<size_t, std::vector<void*>> free_;
    size_t in_use_ = 0;
    size_t peak_ = 0;
};

}  // namespace

Pool& pool() {
    static HostPool* const instance = new HostPool;  // outlives every static tensor
    return *instance;
}

}  // namespace vvtq::engine::cpu

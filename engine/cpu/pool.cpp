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
    static void* from_system(size_t size) {
        const bool huge = size >= 2 * kHugePage;
        const size_t alignment = huge ? kHugePage : kAlignment;
        void* memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
        if (memory == nullptr) run_error("out of host memory: ", size, " bytes were asked for");
        if (huge) madvise(memory, size, MADV_HUGEPAGE);  // a hint: failing is harmless
        return memory;
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

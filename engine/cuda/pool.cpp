#include "engine/cuda/pool.h"

#include <algorithm>
#include <bit>

#include "engine/cuda/backend.h"
#include "engine/cuda/runtime.h"

namespace vvtq::engine::cuda {
namespace {

constexpr size_t kAlignment = 512;

/// Sizes are rounded up to one of sixteen steps between powers of two, so that blocks find new users.
size_t block_size(size_t bytes) {
    if (bytes <= 16 * kAlignment)
        return std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    const size_t step = std::bit_floor(bytes - 1) / 16;
    return (bytes + step - 1) / step * step;
}

std::string mebibytes(size_t bytes) { return concat((bytes + (size_t{1} << 20) - 1) >> 20, " MiB"); }

}  // namespace

void* DevicePool::allocate(size_t bytes) {
    const size_t size = block_size(bytes);
    std::lock_guard lock(mutex_);
    std::vector<void*>& list = free_[current_][size];
    void* memory = nullptr;
    if (!list.empty()) {
        memory = list.back();
        list.pop_back();
        cached_ -= size;
    } else {
        memory = from_device(size);
        blocks_[memory] = {size, current_};
    }
    in_use_ += size;
    peak_ = std::max(peak_, in_use_);
#ifndef NDEBUG
    VVTQ_CUDA(cudaMemsetAsync(memory, 0xFF, size, gpu().stream));
#endif
    return memory;
}

void* DevicePool::from_device(size_t size) {
    gpu();
    void* memory = nullptr;
    cudaError_t status = cudaMalloc(&memory, size);
    if (status == cudaErrorMemoryAllocation &&
        current_ == kCommon) {  // while recording nothing may be waited for
        cudaGetLastError();
        trim_locked();
        status = cudaMalloc(&memory, size);
    }
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        size_t free = 0, total = 0;
        cudaMemGetInfo(&free, &total);
        throw OutOfMemory(concat("out of GPU memory: ", mebibytes(size), " were asked for, ",
                                 mebibytes(in_use_), " are in use, ", mebibytes(free), " of ",
                                 mebibytes(total), " are free"));
    }
    check_status(status, "cudaMalloc");
    return memory;
}

void DevicePool::release(void* memory, size_t) noexcept {
    std::lock_guard lock(mutex_);
    const auto block = blocks_.find(memory);
    if (block == blocks_.end()) return;
    in_use_ -= block->second.size;
    cached_ += block->second.size;
    free_[block->second.arena][block->second.size].push_back(memory);
}

void DevicePool::trim_locked() {
    cudaStreamSynchronize(gpu().stream);
    for (auto& [size, list] : free_[kCommon]) {
        for (void* memory : list) {
            cudaFree(memory);
            blocks_.erase(memory);
            cached_ -= size;
        }
        list.clear();
    }
}

void DevicePool::trim() {
    std::lock_guard lock(mutex_);
    trim_locked();
}

size_t DevicePool::in_use() const {
    std::lock_guard lock(mutex_);
    return in_use_;
}

size_t DevicePool::peak() const {
    std::lock_guard lock(mutex_);
    return peak_;
}

void DevicePool::reset_peak() {
    std::lock_guard lock(mutex_);
    peak_ = in_use_;
}

size_t DevicePool::cached() const {
    std::lock_guard lock(mutex_);
    return cached_;
}

int DevicePool::make_arena() {
    std::lock_guard lock(mutex_);
    const int arena = ++arenas_;
    free_[arena] = std::move(free_[kCommon]);
    free_[kCommon].clear();
    for (const auto& [size, list] : free_[arena]) {
        for (void* memory : list) blocks_[memory].arena = arena;
    }
    return arena;
}

void DevicePool::drop_arena(int arena) {
    std::lock_guard lock(mutex_);
    for (auto& [size, list] : free_[arena]) {
        std::vector<void*>& common = free_[kCommon][size];
        common.insert(common.end(), list.begin(), list.end());
    }
    free_.erase(arena);
    for (auto& [memory, block] : blocks_) {
        if (block.arena == arena) block.arena = kCommon;
    }
}

DevicePool::InArena::InArena(DevicePool& pool, int arena) : pool_(pool), before_(pool.current_) {
    pool_.current_ = arena;
}
DevicePool::InArena::~InArena() { pool_.current_ = before_; }

DevicePool& device_pool() {
    static DevicePool* const instance = new DevicePool;  // outlives every static tensor
    return *instance;
}

Pool& pool() {
    gpu();
    return device_pool();
}

}  // namespace vvtq::engine::cuda

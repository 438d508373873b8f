// host_memory: vectors in host memory that a device copies from directly.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

#include "engine/device.h"

namespace vvtq::engine {

/// Allocates by Runtime::allocate_host, page-locked for a GPU; for the CPU usual memory. A vector takes its
/// allocator along where it is swapped, moved or assigned.
template <typename T>
class HostAllocator {
  public:
    using value_type = T;
    using is_always_equal = std::false_type;
    using propagate_on_container_copy_assignment = std::true_type;
    using propagate_on_container_move_assignment = std::true_type;
    using propagate_on_container_swap = std::true_type;

    explicit HostAllocator(Device device = Device::cpu) : device_(device) {}
    template <typename U>
    HostAllocator(const HostAllocator<U>& other) : device_(other.device()) {}

    /// The device whose copies may read the memory without waiting.
    Device device() const { return device_; }
    T* allocate(size_t count) {
        if (device_ == Device::cpu) return std::allocator<T>().allocate(count);
        return static_cast<T*>(runtime(device_).allocate_host(count * sizeof(T)));
    }
    void deallocate(T* memory, size_t count) noexcept {
        if (device_ == Device::cpu) return std::allocator<T>().deallocate(memory, count);
        runtime(device_).release_host(memory, count * sizeof(T));
    }
    template <typename U>
    bool operator==(const HostAllocator<U>& other) const {
        return device_ == other.device();
    }

  private:
    Device device_;
};

}  // namespace vvtq::engine

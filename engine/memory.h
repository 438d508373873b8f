// memory: devices, their caching pools, and the storage behind tensors.
#pragma once

#include <cstddef>
#include <memory>

namespace vvtq::engine {

enum class Device { cpu, cuda };

const char* name_of(Device device);

/// Bytes of one device, handed out from free lists so that a training step allocates nothing from the system
/// after the first. Thread-safe.
class Pool {
  public:
    virtual ~Pool() = default;
    /// 64-byte aligned memory of at least `bytes`. Throws Error(Fault::run) that says how much was asked for.
    virtual void* allocate(size_t bytes) = 0;
    virtual void release(void* memory, size_t bytes) noexcept = 0;
    /// Returns cached blocks to the system.
    virtual void trim() = 0;

    /// Bytes held by live tensors, and the most that ever were since `reset_peak`.
    virtual size_t in_use() const = 0;
    virtual size_t peak() const = 0;
    virtual void reset_peak() = 0;
};

/// The pool of a device. Throws Error(Fault::input) where this build or machine has no such device.
Pool& pool(Device device);

/// Owns bytes of one device; returned to the device's pool on destruction.
class Storage {
  public:
    Storage(size_t bytes, Device device);
    /// Stands for memory of the device and has none: `data` is null.
    explicit Storage(Device device) : data_(nullptr), bytes_(0), device_(device) {}
    ~Storage();
    Storage(const Storage&) = delete;
    Storage& operator=(const Storage&) = delete;

    void* data() const { return data_; }
    size_t bytes() const { return bytes_; }
    Device device() const { return device_; }

  private:
    void* data_;
    size_t bytes_;
    Device device_;
};

}  // namespace vvtq::engine

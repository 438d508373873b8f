// device: what a program may ask of a device beside kernels and memory: copies, waiting, and replaying.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "engine/memory.h"

namespace vvtq::engine {

class Tensor;

/// A marked place in a device's work.
class Event {
  public:
    virtual ~Event() = default;
    /// Marks the place behind all kernels enqueued so far.
    virtual void record() = 0;
    /// The host waits until the place is passed; returns at once where nothing was recorded.
    virtual void wait() = 0;
    /// Milliseconds of device time from `earlier` to this place; waits for it.
    virtual double since(const Event& earlier) = 0;
};

/// Brings host bytes to a fixed place of a device, beside the kernels that run there.
class Upload {
  public:
    virtual ~Upload() = default;
    /// Where the caller writes the next bytes; waits until their last use is over.
    virtual void* host() = 0;
    /// Enqueues the copy: kernels enqueued later see the new bytes, earlier ones the old.
    virtual void send() = 0;
    /// The same of the first `bytes` bytes, out of memory of `allocate_host` that stays as it is until `wait`
    /// has returned.
    virtual void send_from(const void* host, size_t bytes) = 0;
    /// The host waits until what send_from was given has been read.
    virtual void wait() = 0;
};

/// Work recorded once, and enqueued as a whole.
class Graph {
  public:
    virtual ~Graph() = default;
    virtual void replay() = 0;
};

/// One device as seen from outside the kernels. Work is done in the order it is enqueued; the host waits only
/// where it says so. On the CPU work is done when its call returns.
class Runtime {
  public:
    virtual ~Runtime() = default;

    /// "NVIDIA H200, 139 GiB", "CPU, 16 threads".
    virtual std::string description() const = 0;
    /// Bytes that tensors can still take, what the pool has cached included.
    virtual size_t free_memory() const = 0;
    virtual void synchronize() = 0;
    /// Copies that wait, host -> device and back.
    virtual void upload(const void* host, void* device, size_t bytes) = 0;
    virtual void download(const void* device, void* host, size_t bytes) = 0;
    /// Enqueues a copy to memory of `allocate_host`, to be read behind an event.
    virtual void enqueue_download(const void* device, void* host, size_t bytes) = 0;
    /// Host memory for copies that do not wait. May be called by any thread.
    virtual void* allocate_host(size_t bytes) = 0;
    virtual void release_host(void* memory, size_t bytes) noexcept = 0;

    virtual std::unique_ptr<Event> make_event() = 0;
    virtual std::unique_ptr<Upload> make_upload(void* device, size_t bytes) = 0;
    /// Records what `work` enqueues without running it; memory that it takes from the pool stays the graph's
    /// own. Null where the device has no graphs.
    virtual std::unique_ptr<Graph> record_graph(const std::function<void()>& work) = 0;
};

/// Throws Error(Fault::input), one line, where this build or machine has no such device.
Runtime& runtime(Device device);

/// An upload to the memory of a tensor, on its device; the tensor must outlive it.
std::unique_ptr<Upload> upload_to(const Tensor& target);

/// Whether the device can be used; `kernels` and `runtime` say why it cannot.
bool is_available(Device device);

/// How many GPUs this process sees; 0 without CUDA. Takes none of them, but calls CUDA: do not fork
/// afterwards.
int gpu_count();

/// Which GPU this process works on, counted from 0; has effect before its first use only.
void choose_gpu(int index);
int chosen_gpu();

/// Whether f32 products on CUDA may round their factors to TF32, 10 bits after the point. Off at start.
void allow_tf32(bool on);
bool tf32_allowed();

}  // namespace vvtq::engine

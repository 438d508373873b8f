#include "engine/cuda/runtime.h"

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/cuda/backend.h"
#include "engine/cuda/pool.h"

namespace vvtq::engine::cuda {
namespace {

constexpr int kLeastMajor = 8;  // compute capability: bf16 arithmetic

std::string version_text(int version) { return concat(version / 1000, '.', version % 1000 / 10); }

/// Says in one line why there is no GPU to work on.
[[noreturn]] void refuse(cudaError_t status) {
    if (status == cudaErrorInsufficientDriver) {
        int driver = 0, needed = 0;
        cudaDriverGetVersion(&driver);
        cudaRuntimeGetVersion(&needed);
        if (driver == 0) {
            input_error("`device` cuda: no NVIDIA driver and so no CUDA device was found; use `device` cpu");
        }
        input_error("`device` cuda: the NVIDIA driver is for CUDA ", version_text(driver),
                    ", this build needs ", version_text(needed), ": update the driver, or use `device` cpu");
    }
    if (status == cudaErrorNoDevice || status == cudaSuccess) {
        input_error("`device` cuda: no CUDA device was found; use `device` cpu");
    }
    input_error("`device` cuda: no CUDA device can be used: ", cudaGetErrorString(status),
                "; use `device` cpu");
}

Gpu open_gpu() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0) refuse(status);
    Gpu gpu{};
    gpu.index = chosen_gpu();
    if (gpu.index < 0 || gpu.index >= count) {
        input_error("`gpu` ", gpu.index, ": this machine has ", count,
                    count == 1 ? " GPU, number 0" : " GPUs, from 0");
    }
    cudaDeviceProp properties{};
    if (const cudaError_t wrong = cudaGetDeviceProperties(&properties, gpu.index); wrong != cudaSuccess)
        refuse(wrong);
    if (properties.major < kLeastMajor) {
        input_error("`device` cuda: ", properties.name, " has compute capability ", properties.major, '.',
                    properties.minor, ", ", kLeastMajor, ".0 is needed (Ampere or later); use `device` cpu");
    }
    if (const cudaError_t wrong = cudaSetDevice(gpu.index); wrong != cudaSuccess) refuse(wrong);
    if (has_kernels() != cudaSuccess) {
        cudaGetLastError();
        input_error("`device` cuda: this build has no kernels for ", properties.name, ", compute capability ",
                    properties.major, '.', properties.minor,
                    ": build it on this machine, or use `device` cpu");
    }
    gpu.multiprocessors = properties.multiProcessorCount;
    gpu.shared_memory = properties.sharedMemPerBlockOptin;
    VVTQ_CUDA(cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking));
    return gpu;
}

class GpuEvent final : public Event {
  public:
    void record() override { VVTQ_CUDA(cudaEventRecord(handle_.event, gpu().stream)); }
    void wait() override { VVTQ_CUDA(cudaEventSynchronize(handle_.event)); }
    double since(const Event& earlier) override {
        wait();
        float ms = 0;
        VVTQ_CUDA(
            cudaEventElapsedTime(&ms, static_cast<const GpuEvent&>(earlier).handle_.event, handle_.event));
        return static_cast<double>(ms);
    }

  private:
    EventHandle handle_{cudaEventDefault};
};

cudaStream_t copy_stream() {
    static const cudaStream_t stream = [] {
        cudaStream_t made = nullptr;
        gpu();
        VVTQ_CUDA(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
        return made;
    }();
    return stream;
}

/// Page-locked memory. It takes milliseconds to get and to give back, so it is kept for the next user.
class HostPool {
  public:
    void* allocate(size_t bytes) {
        {
            const std::lock_guard lock(mutex_);
            std::vector<void*>& list = free_[bytes];
            if (!list.empty()) {
                void* memory = list.back();
                list.pop_back();
                return memory;
            }
        }
        VVTQ_CUDA(cudaSetDevice(gpu().index));  // of this thread, which may be new
        void* memory = nullptr;
        VVTQ_CUDA(cudaMallocHost(&memory, std::max<size_t>(1, bytes)));
        return memory;
    }
    void release(void* memory, size_t bytes) {
        const std::lock_guard lock(mutex_);
        free_[bytes].push_back(memory);
    }

  private:
    std::mutex mutex_;
    std::map<size_t, std::vector<void*>> free_;
};

HostPool& host_pool() {
    static HostPool* const instance = new HostPool;  // outlives every static vector
    return *instance;
}

/// Two page-locked slots, made when first needed, and two on the device, so that one batch is written while
/// another is copied; a copy within the device then brings it to its fixed place in order with the kernels.
class GpuUpload final : public Upload {
  public:
    GpuUpload(void* target, size_t bytes) : target_(target), bytes_(bytes) {
        for (Slot& slot : slots_) {
            slot.device = Tensor({static_cast<int64_t>(bytes)}, DType::u8, Device::cuda);
            VVTQ_CUDA(
                cudaEventRecord(slot.used.event, gpu().stream));  // earlier kernels may still use its memory
        }
    }
    ~GpuUpload() override {
        for (Slot& slot : slots_) {
            cudaEventSynchronize(slot.used.event);
            if (slot.host != nullptr) host_pool().release(slot.host, bytes_);
        }
    }
    void* host() override {
        Slot& slot = slots_[at_];
        VVTQ_CUDA(cudaEventSynchronize(slot.used.event));  // its last bytes have reached the target
        if (slot.host == nullptr) slot.host = host_pool().allocate(bytes_);
        return slot.host;
    }
    void send() override { send(slots_[at_], slots_[at_].host, bytes_); }
    void send_from(const void* host, size_t bytes) override {
        Slot& slot = slots_[at_];
        VVTQ_CUDA(cudaStreamWaitEvent(copy_stream(), slot.used.event));
        send(slot, host, bytes);
    }
    void wait() override {
        for (const Slot& slot : slots_) VVTQ_CUDA(cudaEventSynchronize(slot.sent.event));
    }

  private:
    struct Slot {
        void* host = nullptr;
        Tensor device;
        EventHandle sent{cudaEventDisableTiming}, used{cudaEventDisableTiming};
    };
    void send(Slot& slot, const void* host, size_t bytes) {
        at_ = 1 - at_;
        VVTQ_CUDA(cudaMemcpyAsync(slot.device.raw(), host, bytes, cudaMemcpyHostToDevice, copy_stream()));
        VVTQ_CUDA(cudaEventRecord(slot.sent.event, copy_stream()));
        VVTQ_CUDA(cudaStreamWaitEvent(gpu().stream, slot.sent.event));
        VVTQ_CUDA(cudaMemcpyAsync(target_, slot.device.raw(), bytes, cudaMemcpyDeviceToDevice, gpu().stream));
        VVTQ_CUDA(cudaEventRecord(slot.used.event, gpu().stream));
    }
    void* target_;
    size_t bytes_;
    Slot slots_[2];
    int at_ = 0;
};

class GpuGraph final : public Graph {
  public:
    explicit GpuGraph(const std::function<void()>& work) : arena_(device_pool().make_arena()) {
        cudaGraph_t graph = nullptr;
        try {
            // relaxed: the pool may ask for memory while the work is recorded
            VVTQ_CUDA(cudaStreamBeginCapture(gpu().stream, cudaStreamCaptureModeRelaxed));
            try {
                const DevicePool::InArena scope(device_pool(), arena_);
                work();
            } catch (...) {
                cudaStreamEndCapture(gpu().stream, &graph);
                cudaGetLastError();
                throw;
            }
            VVTQ_CUDA(cudaStreamEndCapture(gpu().stream, &graph));
            VVTQ_CUDA(cudaGraphInstantiate(&executable_, graph, 0));
        } catch (...) {
            if (graph != nullptr) cudaGraphDestroy(graph);
            device_pool().drop_arena(arena_);
            throw;
        }
        cudaGraphDestroy(graph);
    }
    ~GpuGraph() override {
        cudaStreamSynchronize(gpu().stream);
        cudaGraphExecDestroy(executable_);
        device_pool().drop_arena(arena_);
    }
    void replay() override { VVTQ_CUDA(cudaGraphLaunch(executable_, gpu().stream)); }

  private:
    int arena_;
    cudaGraphExec_t executable_ = nullptr;
};

class GpuRuntime final : public Runtime {
  public:
    GpuRuntime() { gpu(); }
    std::string description() const override {
        cudaDeviceProp properties{};
        VVTQ_CUDA(cudaGetDeviceProperties(&properties, gpu().index));
        return concat(properties.name, ", ", properties.totalGlobalMem >> 30, " GiB");
    }
    size_t free_memory() const override {
        size_t free = 0, total = 0;
        VVTQ_CUDA(cudaMemGetInfo(&free, &total));
        return free + device_pool().cached();
    }
    void synchronize() override { VVTQ_CUDA(cudaStreamSynchronize(gpu().stream)); }
    void upload(const void* host, void* device, size_t bytes) override {
        if (bytes == 0) return;
        VVTQ_CUDA(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, gpu().stream));
        synchronize();
    }
    void download(const void* device, void* host, size_t bytes) override {
        if (bytes == 0) return;
        VVTQ_CUDA(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, gpu().stream));
        synchronize();
    }
    void enqueue_download(const void* device, void* host, size_t bytes) override {
        VVTQ_CUDA(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, gpu().stream));
    }
    void* allocate_host(size_t bytes) override { return host_pool().allocate(bytes); }
    void release_host(void* memory, size_t bytes) noexcept override { host_pool().release(memory, bytes); }
    std::unique_ptr<Event> make_event() override { return std::make_unique<GpuEvent>(); }
    std::unique_ptr<Upload> make_upload(void* device, size_t bytes) override {
        return std::make_unique<GpuUpload>(device, bytes);
    }
    std::unique_ptr<Graph> record_graph(const std::function<void()>& work) override {
        return std::make_unique<GpuGraph>(work);
    }
};

}  // namespace

void check_status(cudaError_t status, const char* call) {
    if (status == cudaSuccess) return;
    std::string name(call);
    if (const size_t open = name.find('('); open != std::string::npos) name.resize(open);
    run_error("CUDA: ", name, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ')');
}

const Gpu& gpu() {
    static const Gpu opened = open_gpu();
    return opened;
}

Runtime& runtime() {
    static GpuRuntime* const instance = new GpuRuntime;  // outlives every static tensor
    return *instance;
}

int gpu_count() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace vvtq::engine::cuda

// nccl_communicator: sums and copies over the processes of a job by NCCL, one process a GPU, on a stream of
// its own.
#include <nccl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "engine/cuda/backend.h"
#include "engine/cuda/runtime.h"
#include "engine/hex.h"

namespace vvtq::engine::cuda {
namespace {

void check_nccl(ncclResult_t status, const char* call) {
    if (status == ncclSuccess) return;
    std::string detail = ncclGetLastError(nullptr);
    std::replace(detail.begin(), detail.end(), '\n', ' ');
    detail.erase(detail.find_last_not_of(' ') + 1);
    run_error("NCCL: ", call, ": ", ncclGetErrorString(status), detail.empty() ? "" : ": ", detail);
}

#define VVTQ_NCCL(function, ...) check_nccl(function(__VA_ARGS__), #function)

/// Before NCCL's first call; what the user has set stays. NVLS adds in an order that differs between calls,
/// and its multicast memory can put the GPUs of a shared machine out of service. With one algorithm and one
/// protocol the order of additions depends on the sizes alone. The time of a ring grows with the number of
/// processes, that of a tree with its logarithm.
void prepare_environment(int size) {
    constexpr int kMostInRing = 16;
    setenv("NCCL_NVLS_ENABLE", "0", 0);
    setenv("NCCL_ALGO", size <= kMostInRing ? "Ring" : "ring;allreduce:tree", 0);
    setenv("NCCL_PROTO", "Simple", 0);
}

ncclUniqueId agree_on_id(const CommunicatorOptions& options) {
    ncclUniqueId id{};
    if (options.rank == 0) VVTQ_NCCL(ncclGetUniqueId, &id);
    if (options.size == 1) return id;
    VVTQ_CHECK(options.exchange != nullptr, "no exchange");
    const std::string own = options.rank == 0 ? to_hex({id.internal, sizeof id.internal}) : "";
    const std::string bytes = from_hex(options.exchange(own).at(0));
    if (bytes.size() != sizeof id.internal) run_error("NCCL: rank 0 sent an id of ", bytes.size(), " bytes");
    std::memcpy(id.internal, bytes.data(), bytes.size());
    return id;
}

cudaStream_t make_urgent_stream() {
    int least = 0, most = 0;
    VVTQ_CUDA(cudaDeviceGetStreamPriorityRange(&least, &most));
    cudaStream_t stream = nullptr;
    VVTQ_CUDA(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, most));
    return stream;
}

ncclDataType_t type_of(DType dtype) {
    switch (dtype) {
        case DType::f32:
            return ncclFloat32;
        case DType::f64:
            return ncclFloat64;
        case DType::bf16:
            return ncclBfloat16;
        default:
            internal_error("the sum of ", name_of(dtype));
    }
}

void* address_of(const Tensor& x) {
    VVTQ_CHECK(x.device() == Device::cuda, "a tensor on ", name_of(x.device()));
    return x.raw();
}

class NcclCommunicator final : public Communicator {
  public:
    explicit NcclCommunicator(const CommunicatorOptions& options) : Communicator(options.rank, options.size) {
        gpu();  // makes it this thread's
        prepare_environment(size());
        const ncclUniqueId id = agree_on_id(options);
        VVTQ_NCCL(ncclCommInitRank, &comm_, size(), id, rank());
    }
    ~NcclCommunicator() override {
        cudaStreamSynchronize(stream_);
        ncclCommDestroy(comm_);
        cudaStreamDestroy(stream_);
    }

    std::string description() const override {
        int version = 0;
        VVTQ_NCCL(ncclGetVersion, &version);
        return concat("NCCL ", version / 10000, '.', version / 100 % 100, '.', version % 100);
    }

    void all_reduce(const std::vector<Tensor>& tensors) override {
        for (const Tensor& x : tensors) {
            type_of(x.dtype());
            address_of(x);
        }
        fork();
        VVTQ_NCCL(ncclGroupStart);  // one launch
        for (const Tensor& x : tensors) {
            void* const at = x.raw();
            const auto count = static_cast<size_t>(x.numel());
            if (count == 0) continue;
            VVTQ_NCCL(ncclAllReduce, at, at, count, type_of(x.dtype()), ncclSum, comm_, stream_);
        }
        VVTQ_NCCL(ncclGroupEnd);
    }

    void all_gather(const Tensor& part, const Tensor& all) override {
        VVTQ_CHECK(part.dtype() == all.dtype() && all.numel() == part.numel() * size(), part.shape().str(),
                   " of ", size(), " processes to ", all.shape().str());
        const void* const from = address_of(part);
        void* const to = address_of(all);
        if (part.numel() == 0) return;
        fork();
        VVTQ_NCCL(ncclAllGather, from, to, part.bytes(), ncclInt8, comm_, stream_);
    }

    void broadcast(const Tensor& x, int root) override {
        VVTQ_CHECK(root >= 0 && root < size(), "rank ", root, " of ", size());
        void* const at = address_of(x);
        if (x.numel() == 0) return;
        fork();
        VVTQ_NCCL(ncclBroadcast, at, at, x.bytes(), ncclInt8, root, comm_, stream_);
    }

    void wait() override {
        if (!pending_) return;
        pending_ = false;
        VVTQ_CUDA(cudaEventRecord(joined_.event, stream_));
        VVTQ_CUDA(cudaStreamWaitEvent(gpu().stream, joined_.event));
    }

  private:
    /// What is enqueued from here on this stream waits for all kernels enqueued so far.
    void fork() {
        VVTQ_CUDA(cudaEventRecord(forked_.event, gpu().stream));
        VVTQ_CUDA(cudaStreamWaitEvent(stream_, forked_.event));
        pending_ = true;
    }

    EventHandle forked_{cudaEventDisableTiming}, joined_{cudaEventDisableTiming};
    cudaStream_t stream_ = make_urgent_stream();
    ncclComm_t comm_ = nullptr;
    bool pending_ = false;  // an operation that no `wait` has followed yet
};

}  // namespace

std::unique_ptr<Communicator> communicator(const CommunicatorOptions& options) {
    return std::make_unique<NcclCommunicator>(options);
}

}  // namespace vvtq::engine::cuda

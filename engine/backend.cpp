#include "engine/backend.h"

#include "engine/check.h"
#include "engine/cpu/backend.h"
#ifdef VVTQ_HAS_CUDA
#include "engine/cuda/backend.h"
#endif
#include "engine/trace.h"

namespace vvtq::engine {

namespace {

#ifdef VVTQ_HAS_GLOO
constexpr auto gloo = cpu::communicator;
#else
std::unique_ptr<Communicator> gloo(const CommunicatorOptions&) {
    input_error("`dist_backend` gloo: this build has no Gloo: install libgloo-dev and configure again");
}
#endif

#if defined(VVTQ_HAS_NCCL)
constexpr auto nccl = cuda::communicator;
#elif defined(VVTQ_HAS_CUDA)
std::unique_ptr<Communicator> nccl(const CommunicatorOptions&) {
    input_error(
        "`dist_backend` nccl: this build has no NCCL: set NCCL_ROOT to its folder and configure again");
}
#endif

}  // namespace

const Backend& backend(Device device) {
    static const Backend of_cpu{cpu::kernels, cpu::pool, cpu::runtime, gloo};
    if (device == Device::cpu) return of_cpu;
#ifdef VVTQ_HAS_CUDA
    static const Backend of_cuda{cuda::kernels, cuda::pool, cuda::runtime, nccl};
    return of_cuda;
#else
    input_error("`device` cuda: this build has no CUDA backend; use `device` cpu");
#endif
}

const Kernels& kernels(Device device) {
    const Kernels& own = backend(device).kernels();
    const Kernels* traced = KernelTrace::table(device, own);
    return traced != nullptr ? *traced : own;
}
Pool& pool(Device device) { return backend(device).pool(); }
Runtime& runtime(Device device) { return backend(device).runtime(); }
std::unique_ptr<Communicator> make_communicator(Device device, const CommunicatorOptions& options) {
    VVTQ_CHECK(options.size > 0 && options.rank >= 0 && options.rank < options.size, "rank ", options.rank,
               " of ", options.size);
    return backend(device).communicator(options);
}


int gpu_count() {
#ifdef VVTQ_HAS_CUDA
    return cuda::gpu_count();
#else
    return 0;
#endif
}

}  // namespace vvtq::engine

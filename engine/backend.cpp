#include "engine/backend.h"

#include "engine/check.h"
#include "engine/cpu/backend.h"
#ifdef VVTQ_HAS_CUDA
#include "engine/cuda/backend.h"
#endif

namespace vvtq::engine {

const Backend& backend(Device device) {
    static const Backend of_cpu{cpu::kernels, cpu::pool, cpu::runtime};
    if (device == Device::cpu) return of_cpu;
#ifdef VVTQ_HAS_CUDA
    static const Backend of_cuda{cuda::kernels, cuda::pool, cuda::runtime};
    return of_cuda;
#else
    input_error("--device cuda: this build has no CUDA backend; use --device cpu");
#endif
}

const Kernels& kernels(Device device) { return backend(device).kernels(); }
Pool& pool(Device device) { return backend(device).pool(); }
Runtime& runtime(Device device) { return backend(device).runtime(); }

}  // namespace vvtq::engine

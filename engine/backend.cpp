#include "engine/backend.h"

#include "engine/check.h"
#include "engine/cpu/backend.h"
#ifdef VVTQ_HAS_CUDA
#include "engine/cuda/backend.h"
#endif
#include "engine/trace.h"

namespace vvtq::engine {

const Backend& backend(Device device) {
    static const Backend of_cpu{cpu::kernels, cpu::pool, cpu::runtime};
    if (device == Device::cpu) return of_cpu;
#ifdef VVTQ_HAS_CUDA
    static const Backend of_cuda{cuda::kernels, cuda::pool, cuda::runtime};
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


int gpu_count() {
#ifdef VVTQ_HAS_CUDA
    return cuda::gpu_count();
#else
    return 0;
#endif
}

}  // namespace vvtq::engine

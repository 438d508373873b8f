#include "engine/kernels.h"

#include "engine/cpu/backend.h"
#ifdef VVTQ_HAS_CUDA
#include "engine/cuda/backend.h"
#endif

namespace vvtq::engine {

const Kernels& kernels(Device device) {
    if (device == Device::cpu) return cpu::kernels();
#ifdef VVTQ_HAS_CUDA
    return cuda::kernels();
#else
    input_error("--device cuda: this build has no CUDA backend; use --device cpu");
#endif
}

}  // namespace vvtq::engine

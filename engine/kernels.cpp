#include "engine/kernels.h"

#include "engine/cpu/backend.h"

namespace vvtq::engine {

const Kernels& kernels(Device device) {
    if (device == Device::cpu) return cpu::kernels();
    input_error("--device cuda: this build has no CUDA backend; use --device cpu");
}

}  // namespace vvtq::engine

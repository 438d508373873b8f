#include "engine/memory.h"

#include "engine/check.h"
#include "engine/cpu/backend.h"
#ifdef VVTQ_HAS_CUDA
#include "engine/cuda/backend.h"
#endif

namespace vvtq::engine {

const char* name_of(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

Pool& pool(Device device) {
    if (device == Device::cpu) return cpu::pool();
#ifdef VVTQ_HAS_CUDA
    return cuda::pool();
#else
    input_error("--device cuda: this build has no CUDA backend; use --device cpu");
#endif
}

Storage::Storage(size_t bytes, Device device)
    : data_(pool(device).allocate(bytes)), bytes_(bytes), device_(device) {}

Storage::~Storage() { pool(device_).release(data_, bytes_); }

}  // namespace vvtq::engine

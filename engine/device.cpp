#include "engine/device.h"

#include "engine/check.h"
#include "engine/tensor.h"

namespace vvtq::engine {
namespace {

int gpu_index = 0;
bool tf32 = false;

}  // namespace

std::unique_ptr<Upload> upload_to(const Tensor& target) {
    return runtime(target.device()).make_upload(target.raw(), target.bytes());
}

bool is_available(Device device) {
    try {
        runtime(device);
        return true;
    } catch (const Error&) {
        return false;
    }
}

void choose_gpu(int index) { gpu_index = index; }
int chosen_gpu() { return gpu_index; }

void allow_tf32(bool on) { tf32 = on; }
bool tf32_allowed() { return tf32; }

}  // namespace vvtq::engine

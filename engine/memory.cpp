#include "engine/memory.h"

namespace vvtq::engine {

const char* name_of(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

Storage::Storage(size_t bytes, Device device)
    : data_(pool(device).allocate(bytes)), bytes_(bytes), device_(device) {}

Storage::~Storage() { pool(device_).release(data_, bytes_); }

}  // namespace vvtq::engine

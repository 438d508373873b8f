// backend: what a folder below engine/ brings for its device.
#pragma once

#include "engine/communicator.h"
#include "engine/device.h"
#include "engine/kernels.h"

namespace vvtq::engine {

/// Each function makes its part ready on first use.
struct Backend {
    const Kernels& (*kernels)();
    Pool& (*pool)();
    Runtime& (*runtime)();
    std::unique_ptr<Communicator> (*communicator)(const CommunicatorOptions&);
};

/// The only place that knows which backends this build has. Throws Error(Fault::input) where the device's is
/// missing.
const Backend& backend(Device device);

}  // namespace vvtq::engine

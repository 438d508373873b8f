// compute: where and how precisely a run computes.
#pragma once

#include "engine/dtype.h"
#include "engine/memory.h"

namespace vvtq::apps {

struct Compute {
    engine::Device device;
    engine::DType dtype;       // of activations
    engine::DType parameters;  // master copies, gradients, moments
};

}  // namespace vvtq::apps

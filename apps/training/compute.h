// compute: where and how precisely a run computes.
#pragma once

#include "engine/dtype.h"
#include "engine/memory.h"
#include "nn/inference.h"

namespace vvtq::apps {

/// Whether forward passes without training work on 8-bit codes (nn::Products::integers).
enum class Integer { never, where_possible, always };

struct Compute {
    engine::Device device;
    engine::DType dtype;       // of activations
    engine::DType parameters;  // master copies, gradients, moments
    Integer integer = Integer::never;

    /// Once `integer` is decided.
    nn::Products products() const {
        return integer == Integer::always ? nn::Products::integers : nn::Products::floats;
    }
};

}  // namespace vvtq::apps

// memory_fit: what a batch would need where it did not fit into the device's memory.
#pragma once

#include <cstdint>

#include "apps/training/compute.h"
#include "nn/model.h"
#include "nn/optimizer.h"

namespace vvtq::apps {

/// Runs steps of two small batches, takes from their peaks what one of `batch_size` pictures needs, of which
/// one of `parts` equal parts is computed at a time, and throws Error(Fault::input) that says so and names a
/// batch size that fits. Give up all tensors of the failed step before. The model's parameters are not to be
/// used afterwards.
[[noreturn]] void refuse_batch(nn::Model& model, nn::Adamw& optimizer, const Compute& compute,
                               bool regularize, int64_t batch_size, int64_t parts = 1);

}  // namespace vvtq::apps

// batch: what layers have to know of the batch of a training step, where one forward pass sees a part of it.
#pragma once

#include <utility>

#include "engine/communicator.h"
#include "engine/tensor.h"

namespace vvtq::nn {

/// What the draws of a training step depend on: the same for an image, whoever computes it.
struct Draws {
    Draws(engine::Tensor random_key = {}, engine::Tensor batch_places = {})  // implicit: a key alone will do
        : key(std::move(random_key)), places(std::move(batch_places)) {}
    engine::Tensor key;     // (1)? i64, see random_key(); needed in training mode only
    engine::Tensor places;  // (B)? i32: the place of each picture in the step's batch; undefined: 0, 1, ...
};

/// How statistics of a batch are taken in training mode (specification section 10).
struct BatchShare {
    /// The pictures are this process's equal part of a batch that all of them have: gradient scales of
    /// activations and moments of batch norms are those of the whole. Null: the pictures are the whole batch.
    engine::Communicator* processes = nullptr;
    bool update_running_stats = true;
    int64_t parts() const { return processes == nullptr ? 1 : processes->size(); }
};

}  // namespace vvtq::nn

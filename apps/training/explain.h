// explain: which layer first gave a value that is not finite.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "apps/training/device_batch.h"
#include "data/loader.h"
#include "nn/model.h"

namespace vvtq::apps {

bool is_finite(const nn::Tensor& x);
/// The name of the first parameter with values that are not finite; empty where there is none.
std::string parameter_not_finite(const nn::Model& model);

/// Repeats `forward` off the tape with every output checked: the op and the layer whose output is not finite
/// first; empty where all are.
std::string where_not_finite(const std::function<void()>& forward);

/// Loads batch `index` of an epoch into `place` once more; false where a signal arrived before it was there.
bool load_again(data::Loader& loader, uint64_t epoch, int64_t index, DeviceBatch& place);

}  // namespace vvtq::apps

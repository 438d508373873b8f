// telling_shapes: the tensors of a state file whose shapes tell a model's sizes.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "nn/model.h"

namespace vvtq::apps {

struct TellingShapes {
    std::vector<std::pair<std::string, std::vector<int64_t>>> present;  // name and shape
    std::vector<std::string> absent;                                    // what a deeper model would have
};

/// Of any sizes with a patch_size of at least 1, whether or not such a model can be built.
TellingShapes telling_shapes(const nn::ModelConfig& config);

}  // namespace vvtq::apps

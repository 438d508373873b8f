// normalization: from 8-bit pixels to what a model sees.
#pragma once

#include <array>

namespace vvtq::data {

/// Channel means and standard deviations of pixels in [0, 1].
struct Normalization {
    std::array<float, 3> mean = {0.485F, 0.456F, 0.406F};
    std::array<float, 3> std = {0.229F, 0.224F, 0.225F};
};

}  // namespace vvtq::data

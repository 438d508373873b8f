// normalization: from 8-bit pixels to what a model sees.
#pragma once

#include <array>

namespace vvtq::data {

/// Channel means and standard deviations of pixels in [0, 1].
struct Normalization {
    std::array<double, 3> mean = {0.485, 0.456, 0.406};
    std::array<double, 3> std = {0.229, 0.224, 0.225};
};

}  // namespace vvtq::data

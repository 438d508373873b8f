// normalization: from 8-bit pixels to what a model sees.
#pragma once

namespace vvtq::data {

/// Channel means and deviations of pixels in [0, 1].
struct Normalization {
    float mean[3] = {0.485F, 0.456F, 0.406F};
    float deviation[3] = {0.229F, 0.224F, 0.225F};
};

}  // namespace vvtq::data

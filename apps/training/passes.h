// passes: the order of a training run: which epochs go over the pictures once, with how many crops of each
// (specification section 6).
#pragma once

#include <vector>

namespace vvtq::apps {

/// One walk over the pictures. With several crops of each picture it counts as that many epochs.
struct Pass {
    int epoch;  ///< first epoch; learning rate and regularizer weight are taken there
    int crops;  ///< crops of each picture, and epochs it counts for
    bool operator==(const Pass&) const = default;
};

/// `warmup_epochs` with single crops, then passes of `num_crops`, then the last up to `num_crops` epochs one
/// by one. Of these, those from epoch `first` on, where a pass begins.
std::vector<Pass> plan_passes(int epochs, int warmup_epochs, int num_crops, int first = 0);

}  // namespace vvtq::apps

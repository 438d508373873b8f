#include "apps/training/passes.h"

#include <algorithm>

#include "engine/check.h"

namespace vvtq::apps {

std::vector<Pass> plan_passes(int epochs, int warmup_epochs, int num_crops, int first) {
    VVTQ_CHECK(epochs >= 0 && warmup_epochs >= 0 && num_crops >= 1 && first >= 0, "epochs ", epochs,
               ", warmup_epochs ", warmup_epochs, ", num_crops ", num_crops);
    std::vector<Pass> passes;
    int epoch = first;
    while (epoch < epochs) {
        const bool single = epoch < warmup_epochs || epoch >= epochs - num_crops;
        passes.push_back({epoch, single ? 1 : num_crops});
        epoch += passes.back().crops;
    }
    return passes;
}

}  // namespace vvtq::apps

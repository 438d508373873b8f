#include "nn/schedule.h"

#include <cmath>
#include <numbers>

#include "engine/check.h"

namespace vvtq::nn {

double CosineSchedule::at(double epoch) const {
    VVTQ_CHECK(epochs > 0 && epoch >= 0, "epoch ", epoch, " of ", epochs);
    if (epoch < warmup_epochs) return warmup_lr + epoch * (lr - warmup_lr) / warmup_epochs;
    return min_lr + 0.5 * (lr - min_lr) * (1.0 + std::cos(std::numbers::pi * epoch / epochs));
}

}  // namespace vvtq::nn

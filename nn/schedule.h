// schedule: learning rate per epoch (specification section 7).
#pragma once

namespace vvtq::nn {

/// lr(t) = warmup_lr + t (lr - warmup_lr) / warmup_epochs for t < warmup_epochs, then
/// min_lr + 0.5 (lr - min_lr)(1 + cos(pi t / epochs)), t counted from 0 with the warm-up included.
struct CosineSchedule {
    double lr;
    double min_lr = 0.0;
    double warmup_lr = 1e-6;
    int warmup_epochs = 0;
    int epochs;

    double at(double epoch) const;
};

}  // namespace vvtq::nn

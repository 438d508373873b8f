// evaluate: how often a model is right.
#pragma once

#include <optional>
#include <string>

#include "apps/training/compute.h"
#include "apps/training/log.h"
#include "apps/training/processes.h"
#include "data/loader.h"
#include "nn/model.h"

namespace vvtq::apps {

struct Accuracy {
    double loss;  // mean cross-entropy
    double acc1;  // per cent
    double acc5;
};

/// Measures `model` in evaluation mode over all batches of `loader`, which are those of this process, and
/// writes the published lines. The loader may have been started before. Nothing where a signal arrived at one
/// of the processes. Throws Error(Fault::run) naming the layer where the loss is not finite.
std::optional<Accuracy> evaluate(nn::Model& model, data::Loader& loader, const Compute& compute, RunLog& log,
                                 int print_freq, const Processes& processes = {});

}  // namespace vvtq::apps

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

/// Measures `model` in evaluation mode over all of `dataset`, and writes the published lines. `options` say
/// which batches are those of this process. Nothing where a signal arrived at one of them. Throws
/// Error(Fault::run) naming the layer where the loss is not finite.
std::optional<Accuracy> evaluate(nn::Model& model, const data::Dataset& dataset,
                                 const data::LoaderOptions& options, const Compute& compute, RunLog& log,
                                 int print_freq, const Processes& processes = {});

}  // namespace vvtq::apps

// start_model: the model that a run begins with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "apps/options/options.h"
#include "apps/training/checkpoint.h"
#include "apps/training/compute.h"
#include "apps/training/training_data.h"

namespace vvtq::apps {

/// A model with its start values: those of `resumed` where it is not null, else of --finetune where it is
/// given, else drawn; with quantizers for `vvtq train`. Takes --wbits and --abits from a file that has them.
/// What the log should say is added to `notes`. Throws Error(Fault::input) where a checkpoint does not fit,
/// and where a run cannot train such a model.
std::unique_ptr<nn::Model> build_model(Options& options, const TrainingData& data, const Compute& compute,
                                       const Checkpoint* resumed, std::vector<std::string>& notes);

}  // namespace vvtq::apps

// evaluate: how often a model is right.
#pragma once

#include <optional>
#include <string>

#include "apps/log.h"
#include "data/loader.h"
#include "nn/model.h"

namespace vvtq::apps {

struct Accuracy {
    double loss;  // mean cross-entropy
    double acc1;  // per cent
    double acc5;
};

/// Measures `model` in evaluation mode over all of `dataset`, writes the published lines, and puts the model
/// back into training mode. Nothing where a signal arrived. Throws Error(Fault::run) naming the layer where
/// the loss is not finite.
std::optional<Accuracy> evaluate(nn::Model& model, const data::Dataset& dataset,
                                 const data::LoaderOptions& options, engine::DType dtype, RunLog& log,
                                 int print_freq);

/// "Acc@5" of fewer than five classes counts them all.
int64_t top_count(const nn::Tensor& logits, int64_t k);

}  // namespace vvtq::apps

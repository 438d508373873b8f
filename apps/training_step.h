// training_step: one step of training, the same for `train`, `pretrain` and `bench step`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/model.h"
#include "nn/optimizer.h"

namespace vvtq::apps {

/// What one step learns from.
struct StepInput {
    nn::Tensor pictures;      // (B, C, S, S), normalized
    nn::Tensor soft_targets;  // (B, K) class distributions; undefined: `labels` with `smoothing`
    std::vector<int> labels;  // (B)
    double smoothing = 0.0;
    double lr = 0.0;
    bool regularize = false;          // whether the bin regularizer is computed
    double regularizer_weight = 0.0;  // lambda
    uint64_t random_key = 0;          // stochastic depth
};

struct StepResult {
    double loss;         // without the regularizer
    double regularizer;  // lambda times the sum over layers; 0 without
    nn::Tensor logits;   // (B, K)
};

/// Forward, loss, regularizer, backward, AdamW. Throws Error(Fault::run) naming the layer where the loss, or
/// a parameter of a quantizer after the update, is not finite; parameters are then as before a bad loss.
StepResult training_step(nn::Model& model, nn::Adamw& optimizer, const StepInput& input);

/// Throws Error(Fault::run) naming the first parameter or moment with values that are not finite.
void check_state_finite(const nn::Model& model, const nn::Adamw& optimizer);

}  // namespace vvtq::apps

// model_sizes: what the models' checks of their sizes have in common.
#pragma once

#include <vector>

#include "nn/model.h"

namespace vvtq::nn {

/// int(ratio width).
int64_t hidden_width(int64_t width, double ratio);
/// Picture size, channels, classes, MLP ratio and stochastic depth rate. Throws Error(Fault::input).
void check_pictures(const ModelConfig& config);
/// depths and heads of a model with stages: as many of both, widths embed_dim 2^s that heads divide. Throws
/// Error(Fault::input).
void check_stages(const ModelConfig& config);
/// Throws Error(Fault::internal) unless pictures are (B, in_chans, img_size, img_size).
void check_shape(const Tensor& pictures, const ModelConfig& config);
/// From 0 to `rate` over the blocks, twice each: stochastic depth of both branches.
std::vector<double> rising_rates(double rate, int64_t blocks);

}  // namespace vvtq::nn

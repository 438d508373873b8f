// model_sizes: what the models' checks of their sizes have in common.
#pragma once

#include <vector>

#include "nn/model.h"

namespace vvtq::nn {

/// int(ratio width).
int64_t hidden_width(int64_t width, double ratio);
/// Whether common fields within their bounds fit each other: patches tile a picture, at most 2^14 of them; an
/// MLP has hidden values. Throws Error(Fault::input) naming the fields.
void check_common(const ModelConfig& config);
/// The same for depths and heads: as many of both, widths embed_dim 2^s that heads divide.
void check_stages(const ModelConfig& config);
/// The common fields and those of stages. `depth` and `num_heads` as single numbers are not used by such a
/// model; its checkpoints have held them from the first version on.
std::vector<Field> stage_fields();
/// Throws Error(Fault::internal) unless pictures are (B, in_chans, img_size, img_size).
void check_shape(const Tensor& pictures, const ModelConfig& config);
/// From 0 to `rate` over the blocks, twice each: stochastic depth of both branches.
std::vector<double> rising_rates(double rate, int64_t blocks);

}  // namespace vvtq::nn

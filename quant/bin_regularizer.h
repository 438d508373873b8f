// bin_regularizer: pulls weights to the middle of their bins so that they stop oscillating (specification
// section 5).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "nn/model.h"

namespace vvtq::quant {

/// Whether the model's forward passes compute the regularizer.
void regularize(nn::Model& model, bool on);

struct BinRegularizer {
    nn::Variable total;  // (1), sum over layers; the constant 0 without layers
    std::vector<std::pair<std::string, nn::Tensor>> layers;  // path of the layer, its term (1)
};

/// Of the weights as the latest forward pass saw them: mean((y - u)^2) + sum over bins of var(u in bin), for
/// every LSQ weight quantizer of `model`, in module order; u = clamp(w / a, Qn, Qp) a, y = round(.) a held
/// constant, a bin = the weights of one code, variance with n - 1. Throws Error(Fault::internal) where that
/// pass was not asked for it.
BinRegularizer bin_regularizer(const nn::Model& model);

/// lambda(epoch) = 0 before 0.25 E, then 0.01 + 0.5 (0 - 0.01)(1 + cos(pi (t - 0.25 E) / (0.75 E))).
double bin_regularizer_weight(double epoch, double epochs);

}  // namespace vvtq::quant

// bin_regularizer: pulls weights to the middle of their bins so that they stop oscillating (specification
// section 5).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "nn/module.h"

namespace vvtq::quant {

struct BinRegularizer {
    nn::Variable total;  // (1), sum over layers; the constant 0 without layers
    std::vector<std::pair<std::string, nn::Variable>> layers;  // path of the layer, its term (1)
};

/// mean((y - u)^2) + sum over bins of var(u in bin), for every LSQ weight quantizer below `model`, in module
/// order; u = clamp(w / a, Qn, Qp) a, y = round(.) a held constant, a bin = the weights of one code, variance
/// with n - 1.
BinRegularizer bin_regularizer(nn::Module& model);

/// lambda(epoch) = 0 before 0.25 E, then 0.01 + 0.5 (0 - 0.01)(1 + cos(pi (t - 0.25 E) / (0.75 E))).
double bin_regularizer_weight(double epoch, double epochs);

}  // namespace vvtq::quant

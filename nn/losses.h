// losses: what training minimizes (specification section 5).
#pragma once

#include <vector>

#include "nn/module.h"

namespace vvtq::nn {

/// -1/B sum_i p_i . log_softmax(z_i); z (B, K) logits, p (B, K) target distributions. Shape (1).
Variable soft_cross_entropy(const Variable& logits, const Tensor& targets);

/// Cross-entropy against class indices with label smoothing s: target 1 - s + s/K, the others s/K. Shape (1).
/// labels (B) i32, each within 0..K-1.
Variable cross_entropy(const Variable& logits, const Tensor& labels, double smoothing);

/// Labels on a device. Throws where one is outside 0..classes-1.
Tensor label_tensor(const std::vector<int>& labels, int64_t classes,
                    engine::Device device = engine::Device::cpu);

/// (2) i64: how many of B rows have their label as the largest logit, and among the 5 largest (all where
/// there are fewer classes). Ties: lower index first.
Tensor count_top(const Tensor& logits, const Tensor& labels);

}  // namespace vvtq::nn

// losses: what training minimizes (specification section 5).
#pragma once

#include <vector>

#include "nn/module.h"

namespace vvtq::nn {

/// -1/B sum_i p_i . log_softmax(z_i); z (B, K) logits, p (B, K) target distributions. Shape (1).
Variable soft_cross_entropy(const Variable& logits, const Tensor& targets);

/// Cross-entropy against class indices with label smoothing s: target 1 - s + s/K, the others s/K. Shape (1).
/// Throws where a label is outside 0..K-1.
Variable cross_entropy(const Variable& logits, const std::vector<int>& labels, double smoothing);

/// How many of B rows have their label among the k largest logits (ties: lower index first).
int64_t count_top_k(const Tensor& logits, const std::vector<int>& labels, int64_t k);

}  // namespace vvtq::nn

// token_order: orders of tokens, or of the columns of a weight, as gather_tokens takes them.
#pragma once

#include <vector>

#include "autograd/ops.h"

namespace vvtq::nn {

/// An order from its index, a permutation of 0..N-1, on the CPU.
autograd::TokenOrder order_of(const std::vector<int64_t>& index);

/// The same on another device; undefined ones stay so.
autograd::TokenOrder on_device(const autograd::TokenOrder& order, engine::Device device);

}  // namespace vvtq::nn

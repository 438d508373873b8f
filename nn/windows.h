// windows: which tokens of a picture attend to one another in a Swin transformer (Liu et al. 2021).
#pragma once

#include "nn/attention.h"
#include "nn/token_order.h"

namespace vvtq::nn {

/// A square of `side` x `side` tokens in row order, cut into windows of `size` x `size` after it was rolled
/// up and left by `shift`. Where it was rolled, tokens of one window that were not neighbours get -100 on
/// their scores. The position bias of tokens i, j of a window is entry (dy + size - 1)(2 size - 1) + dx +
/// size - 1 of the table, (dy, dx) from j to i. Tensors are on the CPU, the mask of `dtype`. Throws where
/// windows do not tile the square.
TokenGroups windows_of(int64_t side, int64_t size, int64_t shift, engine::DType dtype);

/// The order in which four tokens (even row, even column), (odd, even), (even, odd), (odd, odd) of each 2 x 2
/// square follow one another, squares in row order. `side` is even.
autograd::TokenOrder merge_order(int64_t side);

/// The same on another device.
TokenGroups on_device(const TokenGroups& groups, engine::Device device);

}  // namespace vvtq::nn

// convolution: the layers of SReT's stem and of its poolings. Pictures travel as tokens (B, height width, C).
#pragma once

#include "nn/layers.h"

namespace vvtq::nn {

/// 3 x 3 convolution with padding 1 behind a quantizer, both of 8 bits always; the quantizer is a slot beside
/// it. Weight (O, C, 3, 3).
class Convolution : public Module {
  public:
    Convolution(int64_t in, int64_t out, engine::DType dtype);

    /// Quantized pictures as `shape` describes them -> (B, positions, O).
    Variable forward(const Quantized& x, const engine::Convolution& shape);

  private:
    Linear product_;
    autograd::TokenOrder channels_last_;  // of the 9 C columns of a weight (C, 3, 3)
};

/// The same with one group for each input channel and O = 2 C: weight (2 C, 1, 3, 3).
class GroupedConvolution : public Module {
  public:
    GroupedConvolution(int64_t in, engine::DType dtype);

    Variable forward(const Quantized& x, const engine::Convolution& shape);

  private:
    Linear weight_;
};

/// max(0, batch normalization) over (..., C), eps 1e-5. Parameters weight, bias; buffers running_mean,
/// running_var and num_batches_tracked, which training updates.
class BatchNormRelu : public Module {
  public:
    BatchNormRelu(int64_t width, engine::DType dtype);

    Variable forward(const Variable& x);

  private:
    Variable& weight_;
    Variable& bias_;
    Tensor& running_mean_;
    Tensor& running_var_;
    Tensor& batches_;
};

}  // namespace vvtq::nn

// inference: forward passes of a trained model, one after another.
#pragma once

#include <memory>

#include "autograd/integer_codes.h"
#include "nn/model.h"

namespace vvtq::nn {

/// How the products of quantized tensors are computed.
enum class Products { floats, integers };

/// While it lives, ops on this thread are off the tape, and the weights of `model` are quantized once for all
/// forward passes on pictures of `dtype`. With Products::integers, for a model on the CPU in f32, the passes
/// also work on 8-bit codes where the quantizers allow it (IntegerCodes); the logits are the same, bit for
/// bit while sums of codes stay below 2^24.
class Inference {
  public:
    Inference(Model& model, engine::DType dtype, Products products)
        : codes_(products == Products::integers ? std::make_unique<autograd::IntegerCodes>() : nullptr),
          weights_(model, dtype) {}

  private:
    autograd::NoGrad off_tape_;
    std::unique_ptr<autograd::IntegerCodes> codes_;
    PreparedWeights weights_;
};

}  // namespace vvtq::nn

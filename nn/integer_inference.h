// integer_inference: a model that computes on 8-bit codes.
#pragma once

#include "autograd/integer_codes.h"
#include "nn/model.h"

namespace vvtq::nn {

/// While it lives, ops on this thread are off the tape, the weights of `model` are prepared as i8 codes, once
/// for all forward passes, and those work on integer codes where the quantizers allow it (IntegerCodes). The
/// model is on the CPU in f32, and gives the logits that it gives without, bit for bit while sums of codes
/// stay below 2^24.
class IntegerInference {
  public:
    explicit IntegerInference(Model& model) : weights_(model, engine::DType::f32) {}

  private:
    autograd::NoGrad off_tape_;
    autograd::IntegerCodes codes_;
    PreparedWeights weights_;
};

}  // namespace vvtq::nn

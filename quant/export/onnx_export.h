// onnx_export: a model as ONNX, from the ops of one forward pass in evaluation mode. So every family has it,
// and it cannot differ from what the model computes.
#pragma once

#include "nn/model.h"
#include "quant/export/onnx_quantize.h"

namespace vvtq::quant {

struct OnnxOptions {
    OnnxStyle style = OnnxStyle::uint8;
    int opset = 0;        // 0: the lowest that has what is used
    bool pixels = false;  // the input is bytes 0..255, which the model normalizes: (x / 255 - mean) / std
    std::vector<double> mean = {}, std = {};  // of each channel
};

/// Of a model on the CPU, of f32, whose quantizers have their start values; it is in evaluation mode
/// afterwards. Input `pictures` (batch, channels, S, S) f32, or `pixels`, of bytes; output `logits` (batch,
/// classes). Codes are those of the model's own forward pass, but for values beside a rounding tie. Throws
/// Error(Fault::input) where an op has no such form, and for an `opset` that is unknown or too low.
OnnxModel export_onnx(nn::Model& model, const OnnxOptions& options);

}  // namespace vvtq::quant

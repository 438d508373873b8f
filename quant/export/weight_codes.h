// weight_codes: a quantized weight as integers and steps.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "nn/quantizer.h"

namespace vvtq::quant {

/// Element i of the weight, in row-major order, is steps[i / inner % steps.size()] codes[i].
struct WeightCodes {
    int bits = 0;  // codes -2^(b-1) .. 2^(b-1) - 1, of 1 bit -1 and 1
    std::vector<int8_t> codes;
    std::vector<float> steps;
    int64_t inner = 1;
    bool learned = true;  // whether the steps are a parameter, `alpha`; else they follow from the weight
};

/// Of a layer's weight on the CPU, of f32, as its quantizer makes them. Nothing where the slot has no
/// quantizer, where it is one that gives no such codes, and for a weight of 1 bit with a 0, whose sign is 0.
/// The quantizer maps steps times codes to the same codes again.
std::optional<WeightCodes> weight_codes(const nn::QuantizerSlot& slot);

}  // namespace vvtq::quant

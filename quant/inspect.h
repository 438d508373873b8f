// inspect: what a quantizer did to a tensor.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/kernels.h"
#include "nn/quantizer.h"

namespace vvtq::quant {

struct Inspection {
    std::vector<int> codes;          // q of every element
    std::vector<int64_t> occupancy;  // how many elements have code Qn, Qn+1, ..., Qp
    double clipped_share = 0;        // share of elements with v outside [Qn, Qp]
    double signal_to_noise_db = 0;   // 10 log10(sum x^2 / sum (x - y)^2); infinite where y = x
};

/// Of x (not empty) under the quantizer, all of one dtype.
Inspection inspect(const engine::Tensor& x, const engine::QuantParams& quantizer);
/// The same of any quantizer that describes itself by steps: codes and clipping follow from its description,
/// the signal-to-noise ratio from its own output. Throws Error(Fault::internal) where it has no step yet.
Inspection inspect(nn::Quantizer& quantizer, const engine::Tensor& x);

/// Where all elements of x have one code (of 1 bit: one sign), what the quantizer makes of the first; else
/// nothing.
std::optional<double> only_value(nn::Quantizer& quantizer, const engine::Tensor& x);

/// The occupancy as a bar chart of text, one line a code: "  -2     3  ###". The longest bar has `width`
/// marks; a code that is used has at least one.
std::string occupancy_chart(const Inspection& inspection, engine::CodeRange range, int width = 60);

}  // namespace vvtq::quant

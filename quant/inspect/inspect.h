// quant/inspect/: what quantizers do to their tensors, and what that costs. inspect (element by element)
// -> figures (of all elements) -> operations (the products of a forward pass) -> stand_in (another quantizer
// for a while) -> allocate (bits for each quantizer within a budget).
//
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
    std::vector<double> values;      // x
    std::vector<double> positions;   // v = (x - offset) / step of every element, in units of codes
    std::vector<int> codes;          // q of every element
    std::vector<int64_t> occupancy;  // how many elements have code Qn, Qn+1, ..., Qp
    engine::CodeRange range{0, 0};
    double clipped_share = 0;  // share of elements that pass no gradient: v outside [Qn, Qp]
    double clipped_below = 0;  // of them, those below
    double clipped_above = 0;
    double signal_to_noise_db = 0;  // 10 log10(sum x^2 / sum (x - y)^2); infinite where y = x
    double signal = 0, noise = 0;   // those sums

    /// Adds the elements of another tensor under the same quantizer.
    void append(const Inspection& more);
};

/// Of x (not empty) under the quantizer, all of one dtype.
Inspection inspect(const engine::Tensor& x, const engine::QuantParams& quantizer);
/// The same of any quantizer, with the signal-to-noise ratio of its own output. LSQ's codes are those of its
/// kernels, with one step or one for each head. Of 1 bit without a step, that of an element is the size of
/// its output, its code is its sign, and it is clipped where |x| > 1: no gradient passes there. Of another
/// quantizer with one step, codes and clipping follow from its description. Throws Error(Fault::internal)
/// where it has no step yet, and where it has several and is not LSQ.
Inspection inspect(nn::Quantizer& quantizer, const engine::Tensor& x);

/// Where all elements of x have one code (of 1 bit: one sign), what the quantizer makes of the first; else
/// nothing.
std::optional<double> only_value(nn::Quantizer& quantizer, const engine::Tensor& x);

/// The occupancy as a bar chart of text, one line a code: "  -2     3  ###". The longest bar has `width`
/// marks; a code that is used has at least one.
std::string occupancy_chart(const Inspection& inspection, engine::CodeRange range, int width = 60);

}  // namespace vvtq::quant

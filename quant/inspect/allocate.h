// allocate: which quantizer gets how many bits, within a budget.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace vvtq::quant {

/// What a model loses where one quantizer alone is of another width.
struct BitLoss {
    std::string path;
    double as_float = 0, two_bit = 0;  // loss where it is float, and where it has 2 bits
};

/// The loss to expect of `bits` bits: as_float + (two_bit - as_float) 4^(2 - bits), as the power of rounding
/// noise falls by 4 with each bit; not below as_float.
double expected_loss(const BitLoss& loss, int bits);

/// Starts from `widths`, then gives one bit more to the quantizer of `losses` with the greatest gain of
/// expected loss for its price, again and again, as long as the sum stays within `budget`; at most 8 bits.
/// `cost(widths)` is the price of all. Quantizers with nothing to gain keep their width.
std::map<std::string, int> allocate_bits(
    const std::vector<BitLoss>& losses, std::map<std::string, int> widths, double budget,
    const std::function<double(const std::map<std::string, int>&)>& cost);

}  // namespace vvtq::quant

// figures: what is said of the elements of a tensor and of their codes.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/inspect/inspect.h"

namespace vvtq::quant {

/// -sum p log2 p over the shares p of the codes, in bits: that of a tensor whose codes all occur equally
/// often is the quantizer's width.
double entropy_bits(const std::vector<int64_t>& occupancy);

/// How far positions v lie from the codes and from the edges between them, in units of codes.
struct Distances {
    double center = 0;         // mean |v - q| of the elements within the range
    double boundary = 0;       // mean distance of v, clipped ones too, to the nearest edge where q changes
    double near_boundary = 0;  // share of elements nearer than kNearBoundary to one
};
inline constexpr double kNearBoundary = 0.05;
Distances distances(const Inspection& inspection);

/// Mean of (v - the mean v of the elements with the same code)^2, in units of codes.
double variance_in_bins(const Inspection& inspection);

/// How the values of a tensor vary.
struct Variation {
    double least = 0, most = 0, mean = 0, deviation = 0;  // deviation: sqrt(E (x - mean)^2)
    double magnitude = 0;                                 // mean |x|
    double outlier = 0;                                   // max |x| / deviation
    double kurtosis = 0;                                  // E (x - mean)^4 / deviation^4; 3 of normal numbers
};
/// `values` not empty. Of equal values outlier and kurtosis are not finite.
Variation variation(const std::vector<double>& values);

/// Counts of the values in bins of equal width from the least to the most.
struct Histogram {
    double low = 0, high = 0;
    std::vector<int64_t> counts;
};
/// Of equal values, one bin around them has all.
Histogram histogram(const std::vector<double>& values, int bins);

/// The signal-to-noise ratio in dB of normal numbers under the best quantizer of 2^bits equal steps (Max
/// 1960), 1 to 8 bits: what a trained step can be measured by.
double normal_signal_to_noise_db(int bits);

}  // namespace vvtq::quant

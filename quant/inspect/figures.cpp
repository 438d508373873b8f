#include "quant/inspect/figures.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/check.h"

namespace vvtq::quant {

double entropy_bits(const std::vector<int64_t>& occupancy) {
    const auto total = static_cast<double>(std::accumulate(occupancy.begin(), occupancy.end(), int64_t{0}));
    double bits = 0;
    for (const int64_t count : occupancy) {
        const double share = static_cast<double>(count) / total;
        if (count > 0) bits -= share * std::log2(share);
    }
    return bits;
}

Distances distances(const Inspection& inspection) {
    const auto count = static_cast<double>(inspection.positions.size());
    const engine::CodeRange range = inspection.range;
    // Signs have one edge, at 0; their code 0 is that of zeros alone.
    const bool signs = range.low == -1 && range.high == 1;
    const double first = signs ? 0.0 : range.low + 0.5, last = signs ? 0.0 : range.high - 0.5;
    double center = 0, inside = 0, boundary = 0, near = 0;
    for (size_t i = 0; i < inspection.positions.size(); ++i) {
        const double v = inspection.positions[i];
        if (v >= range.low && v <= range.high) {
            center += std::fabs(v - inspection.codes[i]);
            inside += 1;
        }
        const double edge = signs ? 0.0 : std::clamp(std::floor(v) + 0.5, first, last);
        boundary += std::fabs(v - edge);
        near += std::fabs(v - edge) < kNearBoundary ? 1 : 0;
    }
    return {inside > 0 ? center / inside : 0.0, boundary / count, near / count};
}

double variance_in_bins(const Inspection& inspection) {
    std::vector<double> sums(inspection.occupancy.size(), 0.0);
    const auto bin = [&](size_t i) {
        return static_cast<size_t>(inspection.codes[i] - inspection.range.low);
    };
    for (size_t i = 0; i < inspection.codes.size(); ++i) sums[bin(i)] += inspection.positions[i];
    for (size_t k = 0; k < sums.size(); ++k) {
        sums[k] /= static_cast<double>(std::max<int64_t>(1, inspection.occupancy[k]));
    }
    double squares = 0;
    for (size_t i = 0; i < inspection.codes.size(); ++i) {
        const double d = inspection.positions[i] - sums[bin(i)];
        squares += d * d;
    }
    return squares / static_cast<double>(inspection.codes.size());
}

Variation variation(const std::vector<double>& values) {
    VVTQ_CHECK(!values.empty(), "no values");
    const auto count = static_cast<double>(values.size());
    Variation found;
    found.least = found.most = values[0];
    for (const double x : values) {
        found.least = std::min(found.least, x);
        found.most = std::max(found.most, x);
        found.mean += x;
        found.magnitude += std::fabs(x);
    }
    found.mean /= count;
    found.magnitude /= count;
    double second = 0, fourth = 0;
    for (const double x : values) {
        const double square = (x - found.mean) * (x - found.mean);
        second += square;
        fourth += square * square;
    }
    found.deviation = std::sqrt(second / count);
    found.outlier = std::max(std::fabs(found.least), std::fabs(found.most)) / found.deviation;
    found.kurtosis = fourth * count / (second * second);
    return found;
}

Histogram histogram(const std::vector<double>& values, int bins) {
    VVTQ_CHECK(!values.empty() && bins > 0, values.size(), " values in ", bins, " bins");
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    Histogram found{*least, *most, std::vector<int64_t>(static_cast<size_t>(bins), 0)};
    if (found.low == found.high) {
        const double half = std::max(1e-6, std::fabs(found.low) / 2);
        found.low -= half;
        found.high += half;
    }
    const double scale = bins / (found.high - found.low);
    for (const double x : values) {
        const auto at = static_cast<int>((x - found.low) * scale);
        ++found.counts[static_cast<size_t>(std::clamp(at, 0, bins - 1))];
    }
    return found;
}

double normal_signal_to_noise_db(int bits) {
    constexpr double kMax[] = {4.40, 9.25, 14.27, 19.38, 24.57, 29.83, 35.17, 40.57};
    VVTQ_CHECK(bits >= 1 && bits <= 8, bits, " bits");
    return kMax[bits - 1];
}

}  // namespace vvtq::quant

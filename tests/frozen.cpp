#include "tests/frozen.h"

#include <algorithm>
#include <cmath>

namespace vvtq::tests {

using engine::CodeRange;

namespace {

constexpr double kClearance = 0.02;      // least distance to a kink, of inputs
constexpr double kLeastDistance = 1e-4;  // of values on the way, a hundred times what f32 is off by

double clamp_to(CodeRange range, double v) {
    return std::clamp(v, static_cast<double>(range.low), static_cast<double>(range.high));
}

/// v = (x - o) / a at the base.
double base_scaled(double x, const FrozenStep& step) { return (x - step.base_beta) / step.base_alpha; }

/// How far v is from where its code changes or clamping sets in.
double kink_distance(double v, CodeRange range) {
    const double tie = std::floor(v) + 0.5;
    const double edge = std::min(std::abs(v - range.low), std::abs(v - range.high));
    return tie > range.low && tie < range.high ? std::min(edge, std::abs(v - tie)) : edge;
}

}  // namespace

FrozenStep frozen_step(CodeRange range, double base_alpha, double at_alpha, double g) {
    return {range, base_alpha, base_alpha + g * (at_alpha - base_alpha)};
}

void clear_of_ties(std::vector<double>& x, double a, double o) {
    for (double& value : x) {
        const double v = (value - o) / a;
        const double kink = std::nearbyint(2.0 * v) / 2.0;
        if (std::abs(v - kink) < kClearance) {
            value = o + a * (kink + (v < kink ? -kClearance : kClearance));
        }
    }
}

std::vector<double> base_codes(const std::vector<double>& base, const FrozenStep& step) {
    std::vector<double> codes;
    codes.reserve(base.size());
    for (const double value : base) {
        const double v = base_scaled(value, step);
        VVTQ_CHECK(kink_distance(v, step.range) > kLeastDistance, "v = ", v, " is too near to a kink");
        codes.push_back(std::nearbyint(clamp_to(step.range, v)));
    }
    return codes;
}

std::vector<double> frozen_lsq(const std::vector<double>& base, const std::vector<double>& at,
                               const FrozenStep& step) {
    std::vector<double> y = base_codes(base, step);
    for (size_t i = 0; i < y.size(); ++i) {
        const double v = base_scaled(base[i], step);
        const bool inside = clamp_to(step.range, v) == v;
        const double q = inside ? (at[i] - step.beta) / step.alpha + (y[i] - v) : y[i];
        y[i] = q * step.alpha + step.beta;
    }
    return y;
}

std::vector<double> frozen_codes(const std::vector<double>& base, const std::vector<double>& at,
                                 const FrozenStep& step) {
    std::vector<double> y = frozen_lsq(base, at, step);
    const std::vector<double> codes = base_codes(base, step);
    for (size_t i = 0; i < y.size(); ++i) {
        y[i] = codes[i] + (y[i] - (codes[i] * step.base_alpha + step.base_beta));
    }
    return y;
}

Both frozen_lsq(const Both& x, const FrozenStep& step) {
    FrozenStep unmoved = step;
    unmoved.alpha = step.base_alpha;
    unmoved.beta = step.base_beta;
    return {frozen_lsq(x.base, x.base, unmoved), frozen_lsq(x.base, x.at, step)};
}

Both product(const Both& x, const Both& w, const Both& bias, size_t k) {
    const auto multiply = [k](const std::vector<double>& a, const std::vector<double>& b,
                              const std::vector<double>& c) {
        const size_t rows = a.size() / k, cols = b.size() / k;
        std::vector<double> y(rows * cols);
        for (size_t i = 0; i < y.size(); ++i) {
            double sum = c.empty() ? 0.0 : c[i % cols];
            for (size_t j = 0; j < k; ++j) sum += a[i / cols * k + j] * b[i % cols * k + j];
            y[i] = sum;
        }
        return y;
    };
    return {multiply(x.base, w.base, bias.base), multiply(x.at, w.at, bias.at)};
}

double frozen_bin_regularizer(const std::vector<double>& base, const std::vector<double>& at,
                              const FrozenStep& step) {
    const std::vector<double> codes = base_codes(base, step);
    std::vector<std::vector<double>> bins(static_cast<size_t>(step.range.count()));
    double loss = 0;
    for (size_t i = 0; i < base.size(); ++i) {
        const double v = base_scaled(base[i], step);
        const double clamped = clamp_to(step.range, v);
        const double u = clamped == v ? at[i] : clamped * step.alpha;
        const double distance = codes[i] * step.base_alpha - u;
        loss += distance * distance / static_cast<double>(base.size());
        bins[static_cast<size_t>(codes[i] - step.range.low)].push_back(u);
    }
    for (const std::vector<double>& bin : bins) {
        if (bin.size() < 2) {
            continue;
        }
        const auto n = static_cast<double>(bin.size());
        double mean = 0;
        for (const double u : bin) {
            mean += u / n;
        }
        for (const double u : bin) {
            loss += (u - mean) * (u - mean) / (n - 1);
        }
    }
    return loss;
}

double weight_grad_scale(const std::vector<double>& w, CodeRange range) {
    double total = 0;
    for (const double value : w) {
        total += std::abs(value);
    }
    return 1.0 / std::sqrt(total * range.high);
}

}  // namespace vvtq::tests

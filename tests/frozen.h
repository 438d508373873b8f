// frozen: the quantizers of specification sections 1 and 5 written out a second time, with their rounding
// frozen: their true derivatives are the straight-through gradients.
#pragma once

#include <vector>

#include "engine/kernels.h"

namespace vvtq::tests {

/// A quantizer at the base, where its rounding is frozen, and at the place that is asked for.
struct FrozenStep {
    engine::CodeRange range;
    double base_alpha, alpha;
    double base_beta = 0.0, beta = 0.0;
};

/// Values at the base and at the place that is asked for.
struct Both {
    std::vector<double> base, at;
};

/// A step whose distance from the base is multiplied by the gradient scale: turns g dL/dalpha into a true
/// derivative.
FrozenStep frozen_step(engine::CodeRange range, double base_alpha, double at_alpha, double g);

/// Moves x so that v = (x - o) / a stays clear of all multiples of 1/2, where codes change or clamping sets
/// in.
void clear_of_ties(std::vector<double>& x, double a, double o = 0.0);

/// Codes of x at the base. Throws where a value is so near to a kink that f32 may fall on its other side.
std::vector<double> base_codes(const std::vector<double>& base, const FrozenStep& step);

/// y = a q + o with q - v frozen where v is in range, q frozen elsewhere.
std::vector<double> frozen_lsq(const std::vector<double>& base, const std::vector<double>& at,
                               const FrozenStep& step);

/// The codes at the base, plus how far frozen_lsq moves from there: an op that returns codes gets the
/// gradient of their values.
std::vector<double> frozen_codes(const std::vector<double>& base, const std::vector<double>& at,
                                 const FrozenStep& step);

/// frozen_lsq, for what is computed from it.
Both frozen_lsq(const Both& x, const FrozenStep& step);

/// y (R, N) = x (R, K) w (N, K)^T + bias (N), which may be empty.
Both product(const Both& x, const Both& w, const Both& bias, size_t k);

/// The bin regularizer with bins and y held at the base, alpha moving clipped weights alone.
double frozen_bin_regularizer(const std::vector<double>& base, const std::vector<double>& at,
                              const FrozenStep& step);

/// 1 / sqrt(sum |w| Qp)
double weight_grad_scale(const std::vector<double>& w, engine::CodeRange range);

}  // namespace vvtq::tests

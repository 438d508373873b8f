// quantize: the arithmetic of one LSQ quantizer, shared by lsq.cpp and bin_regularizer.cpp (specification
// section 1).
#pragma once

#include <cmath>

#include "engine/kernels.h"

namespace vvtq::engine::cpu {

template <typename T>
struct Step {
    T a, o, low, high;

    Step(const Tensor& alpha, const Tensor& beta, CodeRange range)
        : a(*alpha.data<T>()),
          o(beta.defined() ? *beta.data<T>() : T{0}),
          low(static_cast<T>(range.low)),
          high(static_cast<T>(range.high)) {
        if (a < static_cast<T>(kLeastStep)) a = static_cast<T>(kLeastStep);
    }

    /// v = (x - o) / a
    T scaled(T x) const { return (x - o) / a; }
    /// c = clamp(v, Qn, Qp); NaN stays NaN
    T clamped(T v) const { return v < low ? low : (v > high ? high : v); }
    bool inside(T v) const { return (v >= low) & (v <= high); }
    /// q, to nearest, ties to even
    T code(T x) const { return std::nearbyint(clamped(scaled(x))); }
};

}  // namespace vvtq::engine::cpu

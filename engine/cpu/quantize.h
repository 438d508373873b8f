// quantize: the arithmetic of one LSQ quantizer, shared by lsq.cpp and weights.cpp (specification section 1).
#pragma once

#include <cmath>

#include "engine/kernels.h"

namespace vvtq::engine::cpu {

/// A step as kernels use it.
template <typename T>
T used_step(T alpha) {
    return alpha < static_cast<T>(kLeastStep) ? static_cast<T>(kLeastStep) : alpha;
}

template <typename T>
struct Step {
    T a, o, low, high;

    explicit Step(const QuantParams& quantizer, int64_t group = 0)
        : a(used_step(quantizer.scale.data<T>()[group])),
          o(quantizer.offset.defined() ? quantizer.offset.data<T>()[group] : T{0}),
          low(static_cast<T>(quantizer.range.data<int32_t>()[0])),
          high(static_cast<T>(quantizer.range.data<int32_t>()[1])) {}

    /// v = (x - o) / a
    T scaled(T x) const { return (x - o) / a; }
    /// c = clamp(v, Qn, Qp); NaN stays NaN
    T clamped(T v) const { return v < low ? low : (v > high ? high : v); }
    bool inside(T v) const { return (v >= low) & (v <= high); }
    /// q, to nearest, ties to even
    T code(T x) const { return std::nearbyint(clamped(scaled(x))); }
};

}  // namespace vvtq::engine::cpu

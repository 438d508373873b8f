// vector_math: exp and the normal distribution, written so that the compiler vectorizes loops that call them.
// The double versions are the C library's; float64 is for checks, not for speed.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace vvtq::engine::cpu {

/// exp(x), relative error below 2e-7; 0 below -87.3, +inf above 88.7, NaN for NaN.
inline float exp_of(float x) {
    constexpr float kLog2e = 1.44269504f;
    constexpr float kLn2High = 0.693359375f;
    constexpr float kLn2Low = -2.12194440e-4f;
    float clamped = x > -87.3f ? x : -87.3f;  // also for NaN
    clamped = clamped > 88.7f ? 88.7f : clamped;
    const float n = std::nearbyint(clamped * kLog2e);
    const float r = (clamped - n * kLn2High) - n * kLn2Low;
    // least-squares fit of (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2]
    float p = 0.00137528517f;
    p = p * r + 0.00836616883f;
    p = p * r + 0.0416692128f;
    p = p * r + 0.166665424f;
    p = p * r + 0.49999991f;
    p = p * r * r + r + 1.0f;
    // 2^n in two factors, so that n = 128 does not overflow the exponent before the product does
    const int32_t whole = static_cast<int32_t>(n);
    const int32_t half = whole >> 1;
    const float first = std::bit_cast<float>((half + 127) << 23);
    const float second = std::bit_cast<float>((whole - half + 127) << 23);
    const float y = p * first * second;
    const float bounded = x < -87.3f ? 0.0f : (x > 88.7f ? INFINITY : y);
    return x != x ? x : bounded;
}
inline double exp_of(double x) { return std::exp(x); }

/// exp(x) of x <= 0, with the same error; 1.2e-38 below -87.3, NaN for NaN.
inline float exp_of_negative(float x) {
    constexpr float kLog2e = 1.44269504f;
    constexpr float kLn2High = 0.693359375f;
    constexpr float kLn2Low = -2.12194440e-4f;
    const float clamped = x < -87.3f ? -87.3f : x;
    const float n = std::nearbyint(clamped * kLog2e);
    const float r = (clamped - n * kLn2High) - n * kLn2Low;
    float p = 0.00137528517f;
    p = p * r + 0.00836616883f;
    p = p * r + 0.0416692128f;
    p = p * r + 0.166665424f;
    p = p * r + 0.49999991f;
    p = p * r * r + r + 1.0f;
    return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}
inline double exp_of_negative(double x) { return std::exp(x); }

/// Normal distribution function Phi(x) and density phi(x).
template <typename T>
struct Normal {
    T cdf;
    T pdf;
};

/// Absolute error of the distribution function below 1e-7.
inline Normal<float> normal_of(float x) {
    const float z = std::fabs(x) * 0.707106781f;
    const float gauss = exp_of_negative(-z * z);
    const float t = 1.0f / (1.0f + 0.4f * z);
    // erfc(z) e^(z^2) = t P(t), weighted least-squares fit for z in [0, 6], error 3e-9 of erfc
    float p = 0.0798577873f;
    p = p * t + -0.421134194f;
    p = p * t + 0.737813304f;
    p = p * t + -0.432400702f;
    p = p * t + 0.446257536f;
    p = p * t + 0.125620874f;
    p = p * t + 0.23927094f;
    p = p * t + 0.224714456f;
    const float tail = 0.5f * gauss * t * p;
    return {x > 0.0f ? 1.0f - tail : tail, 0.398942280f * gauss};
}
inline Normal<double> normal_of(double x) {
    return {0.5 * std::erfc(-x * 0.70710678118654752440), 0.39894228040143267794 * std::exp(-0.5 * x * x)};
}

}  // namespace vvtq::engine::cpu

#include "engine/cpu/rows.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "engine/cpu/vector_math.h"

namespace vvtq::engine::cpu {

template <typename T, typename X>
void affine_row(const X* x, T factor, const T* bias, int64_t n, T* y) {
    if (bias == nullptr) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) y[i] = factor * static_cast<T>(x[i]);
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = factor * static_cast<T>(x[i]) + bias[i];
}

template <typename T>
void gelu_row(const T* x, int64_t n, T* y) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * normal_of(x[i]).cdf;
}

namespace {

/// y = exp(y - top), whose sum it returns.
template <typename T>
T exponentials(T* y, T top, int64_t n) {
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; ++i) {
        const T e = exp_of_negative(y[i] - top);
        y[i] = e;
        total += e;
    }
    return total;
}

}  // namespace

template <typename T>
void softmax_row(T* y, int64_t n) {
    constexpr int64_t kBlock =
        16;  // the last values as a whole block: one by one they take as long as all others
    const int64_t whole = n / kBlock * kBlock, rest = n - whole;
    const T top = max_row(y, n);
    T total = exponentials(y, top, whole);
    if (rest > 0) {
        T last[kBlock];
        std::fill_n(std::copy_n(y + whole, rest, last), kBlock - rest,
                    top - T{1000});  // exp is 0 but for 1e-38
        total += exponentials(last, top, kBlock);
        std::copy_n(last, rest, y + whole);
    }
    const T inverse = T{1} / total;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] *= inverse;
}

template <typename T>
Moments<T> norm_row(const T* x, const T* gamma, const T* beta, T eps, int64_t n, T* y) {
    const T mean = sum_row(x, n) / static_cast<T>(n);
    T squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const T rstd = T{1} / std::sqrt(squares / static_cast<T>(n) + eps);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
    return {mean, rstd};
}

namespace {

/// x / a with a few multiplications: a correction by the remainder rounds the product with 1 / a as division
/// does (Markstein 1990).
float quotient(float x, float a, float inverse) {
    const float q = x * inverse;
    const float corrected = std::fma(std::fma(-q, a, x), inverse, q);
    return std::fabs(q) < 1e30f ? corrected : q;  // infinity has no remainder
}
double quotient(double x, double a, double) { return x / a; }

}  // namespace

template <typename T, typename Q>
void codes_row(const T* x, Step<T> step, int64_t n, Q* q) {
    const T inverse = T{1} / step.a;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const T code = std::nearbyint(step.clamped(quotient(x[i] - step.o, step.a, inverse)));
        if constexpr (std::is_same_v<T, Q>) {
            q[i] = code;
        } else {
            q[i] = static_cast<Q>(static_cast<int32_t>(code == code ? code : T{0}));
        }
    }
}

#define VVTQ_ROWS(T)                                                                \
    template void affine_row<T, T>(const T*, T, const T*, int64_t, T*);             \
    template void affine_row<T, int32_t>(const int32_t*, T, const T*, int64_t, T*); \
    template void gelu_row<T>(const T*, int64_t, T*);                               \
    template void softmax_row<T>(T*, int64_t);                                      \
    template Moments<T> norm_row<T>(const T*, const T*, const T*, T, int64_t, T*);  \
    template void codes_row<T, T>(const T*, Step<T>, int64_t, T*);                  \
    template void codes_row<T, int32_t>(const T*, Step<T>, int64_t, int32_t*);      \
    template void codes_row<T, int8_t>(const T*, Step<T>, int64_t, int8_t*);        \
    template void codes_row<T, uint8_t>(const T*, Step<T>, int64_t, uint8_t*);
VVTQ_ROWS(float)
VVTQ_ROWS(double)
#undef VVTQ_ROWS

}  // namespace vvtq::engine::cpu
